"""Whisper as today's CTranslate2 writes it, of every type, with and without the files of its tokenizer."""

import json
import struct

import pytest
import torch

import zoo
from zoo.errors import WeightsError
from zoo.interop.whisper.names import CTRANSLATE2
from zoo.storage.ctranslate2 import read_ctranslate2

converters = pytest.importorskip("ctranslate2.converters")
pytestmark = pytest.mark.filterwarnings("ignore")  # the converter's
# Largest error of a weight below 0.6: half a step of the type. Matrices of int8 and int16 have a factor for each row.
TYPES = {"float32": 0.0, "float16": 3e-4, "bfloat16": 2.5e-3, "int16": 6e-4, "int8": 3e-3, "int8_float32": 3e-3}
TYPES |= {"int8_float16": 3e-3, "int8_bfloat16": 4e-3}


@pytest.fixture(scope="module")
def system():
    """A small multilingual Whisper with random weights."""
    torch.manual_seed(0)
    words = {"tokenizer": "trained", "multilingual": True, "num_languages": 3, "num_timestamps": 101}
    system = zoo.create_model("whisper_nano", processor={"transcript": words}, head={"alignment_heads": [[1, 0]]})
    system.processor["transcript"].fit(["some words to learn letters from", "the end of it"])
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.uniform_(-0.5, 0.5)
    return system


@pytest.fixture(scope="module")
def convert(system, tmp_path_factory):
    """Convert with CTranslate2's own converter, once for each type."""
    theirs, made = zoo.export(system, tmp_path_factory.mktemp("whisper") / "transformers"), {}

    def of(kind, copied=("tokenizer.json", "preprocessor_config.json")):
        if (kind, copied) not in made:
            made[kind, copied] = tmp_path_factory.mktemp(kind) / "model"
            converters.TransformersConverter(str(theirs), copy_files=list(copied)).convert(str(made[kind, copied]), quantization=kind)
        return made[kind, copied]

    return of


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_of_ctranslate2_is_the_system_it_was_made_of(kind, convert, system):
    state = zoo.load(convert(kind)).state_dict()
    assert set(state) == set(system.state_dict())
    for name, tensor in system.state_dict().items():
        assert (state[name].float() - tensor).abs().max() <= TYPES[kind], name


def test_special_tokens_and_settings_come_with_the_tokenizer_and_the_config(convert, system):
    ours, theirs = (each.processor["transcript"] for each in (system, zoo.load(convert("float32"))))
    assert theirs.ids == ours.ids and theirs.languages == ours.languages and theirs.is_multilingual
    assert (theirs.suppressed, theirs.blank) == (ours.suppressed, ours.blank)
    assert theirs.encode("some letters") == ours.encode("some letters")
    assert zoo.load(convert("float32")).head.alignment_heads == ((1, 0),)


def test_without_a_tokenizer_the_weights_load_and_token_ids_are_taken(convert, system):
    loaded = zoo.load(convert("float32", ()))
    assert torch.equal(loaded.head.decoder.norm.weight, system.head.decoder.norm.weight)
    assert not loaded.processor["transcript"].is_fitted


def with_entry(path, name, dtype, shape, data):
    """Insert a variable into a model.bin."""
    whole = path.read_bytes()
    place = 4 + 2 + struct.unpack_from("<H", whole, 4)[0] + 4
    (count,) = struct.unpack_from("<I", whole, place)
    word = name.encode() + b"\0"
    head = struct.pack("<H", len(word)) + word + struct.pack(f"<B{len(shape)}I", len(shape), *shape)
    entry = head + struct.pack("<BI", dtype, len(data)) + data
    path.write_bytes(whole[:place] + struct.pack("<I", count + 1) + entry + whole[place + 4 :])


@pytest.fixture
def copied(convert, tmp_path):
    for file in convert("float32").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize("name", ["decoder/a_setting_of_tomorrow", "encoder/layer_0/self_attention/another"])
def test_entries_of_zeros_are_harmless_whatever_their_name_is(name, copied, system):
    with_entry(copied / "model.bin", name, 1, (), b"\0")
    with_entry(copied / "model.bin", f"{name}_table", 0, (3, 2), bytes(24))
    assert torch.equal(zoo.load(copied).head.decoder.norm.weight, system.head.decoder.norm.weight)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (("decoder/scale_attention", 1, (), b"\1"), "decoder/scale_attention is on, which no Whisper has"),
        (("decoder/rotary_dim", 3, (), b"\4\0\0\0"), "decoder/rotary_dim is on"),
        (("decoder/some_table", 0, (1,), struct.pack("<f", 1.0)), "1 unknown.*decoder/some_table"),
    ],
)
def test_entries_that_change_the_model_are_refused_by_name(entry, message, copied):
    with_entry(copied / "model.bin", *entry)
    with pytest.raises(WeightsError, match=message):
        zoo.load(copied)


def test_an_activation_that_no_whisper_has_is_refused(convert):
    tensors = read_ctranslate2(convert("float32") / "model.bin")
    with pytest.raises(WeightsError, match="decoder/activation is not 3, which every Whisper has .it is 0"):
        CTRANSLATE2.is_aside("decoder/activation", torch.zeros_like(tensors["decoder/activation"]))


def test_suppressed_ids_of_its_config_are_used_also_if_there_are_none(copied):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "suppress_ids": [], "suppress_ids_begin": [7]}))
    part = zoo.load(copied).processor["transcript"]
    assert part.suppressed == () and part.blank == (7,)
