"""fp16, int8 and int4 of every family: outputs near those of fp32, equal in copies and loaded models, one path for all that decode."""

import copy

import numpy as np
import pytest
import torch
from system_batches import batch_of

import zoo
from zoo.layers.low_precision.modes import MARKED, packed_memory, precision_of, precisions_of, set_precision
from zoo.layers.low_precision.packings import kept

FAMILIES = (
    *("classifier_vit_nano", "clip_vit_nano", "clap_whisper_nano", "bert_pretraining_nano"),
    *("llava_nano", "kosmos_nano", "llava_whisper_nano", "whisper_nano", "t5_seq2seq_nano", "bart_nano", "switch_nano"),
)
# Relative error of all outputs with random weights, which average nothing out; fp16 on a CPU rounds only weights.
BOUNDS = {"fp16": 2e-3, "int8": 0.12, "int4": 0.3}
LOW = {**dict.fromkeys(FAMILIES, ()), "classifier_vit_nano": ("int8",), "clip_vit_nano": ("int8",), "clap_whisper_nano": ("int8",)}
LOW |= {
    "bert_pretraining_nano": ("int8",),
    "llava_nano": ("int8", "int4"),
    "kosmos_nano": ("int8", "int4"),
    "llava_whisper_nano": ("int4",),
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(name):
    return zoo.create_system(name).eval()


@torch.inference_mode()
def outputs(system, batch):
    """Return all outputs as one vector, and the loss."""
    found = system(batch)
    numbers = [each for _, each in sorted(found.outputs.items()) if torch.is_tensor(each) and each.is_floating_point()]
    return torch.cat([each.flatten().double() for each in (*numbers, found.loss)])


def error(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", FAMILIES)
def test_each_precision_is_near_fp32_in_copies_and_on_two_threads(name):
    system = made(name)
    batch = batch_of(system)
    expected = outputs(system, batch)
    assert set(precisions_of(system)) & set(MARKED) == set(LOW[name])
    for precision in ("fp16", *LOW[name]):
        low = set_precision(copy.deepcopy(system), precision)
        found = outputs(low, batch)
        assert precision_of(low) == precision and 0 < error(found, expected) < BOUNDS[precision], precision
        assert torch.equal(outputs(copy.deepcopy(low), batch), found), precision
        torch.set_num_threads(2)
        assert error(outputs(low, batch), found) < BOUNDS[precision] / 4, precision
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("name", "precision"), [("llava_nano", "int4"), ("kosmos_nano", "int4"), ("llava_nano", "fp16"), ("kosmos_nano", "fp16")]
)
def test_language_models_of_systems_answer_from_packed_weights(name, precision, tmp_path):
    system = made(name)
    system.processor.fit(["what is it? seven"] * 3)
    zoo.save(system, tmp_path / "saved")
    low = zoo.load(tmp_path / "saved", precision=precision)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    prompts = [[image, "what is it?"], ["seven"], ["what is", image]]
    for settings in ({}, {"num_beams": 2}):
        together = low.generate(prompts, max_new_tokens=4, **settings)
        alone = [low.generate([prompt], max_new_tokens=4, **settings)[0] for prompt in prompts]
        assert len(together) == len(alone) and (precision == "int4" or together == alone)  # int4 rounds activations, and words are close
    layer = low.head.language.blocks[0].attention.qkv
    assert kept(layer.weight, precision) is not None and packed_memory(low.head.language) > 0
    assert torch.equal(layer.weight, system.head.language.blocks[0].attention.qkv.weight)
    with torch.inference_mode():
        known, found = (each.score(prompts, ["seven"] * 3) for each in (system, low))
        alone = torch.cat([low.score([prompt], ["seven"]) for prompt in prompts])
    assert 0 < error(found, known) < BOUNDS[precision] and error(alone, found) < BOUNDS[precision] / 10


@pytest.mark.parametrize("name", ["t5_seq2seq_nano", "bart_nano", "switch_nano"])
def test_a_seq2seq_decodes_from_packed_fp16_and_refuses_fewer_bits(name):
    system = made(name)
    system.processor.fit(["what is it? seven"] * 3)
    for precision in MARKED:
        with pytest.raises(zoo.ConfigError, match=f"does not offer '{precision}'"):
            set_precision(copy.deepcopy(system), precision)
    words = ["what is it?", "seven"]
    expected = system.generate(words, max_new_tokens=5)
    low = set_precision(system, "fp16")
    assert low.generate(words, max_new_tokens=5) == expected == [low.generate([word], max_new_tokens=5)[0] for word in words]
    assert low.generate(words, max_new_tokens=5, num_beams=3) == set_precision(system, "fp32").generate(
        words, max_new_tokens=5, num_beams=3
    )


def test_a_seq2seq_writes_from_an_image_in_int8():
    system = made("caption_nano")
    system.processor.fit(["what is it? seven"] * 3)
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    assert len(set_precision(system, "int8").generate([image], max_new_tokens=3)) == 1
    assert system.encoders["image"].precision == "int8" and system.head.precision is None


def test_whisper_decodes_from_packed_fp16_and_refuses_fewer_bits():
    system = made("whisper_nano")
    system.processor.fit(["what is it? seven"] * 3)
    for precision in MARKED:
        with pytest.raises(zoo.ConfigError, match=f"does not offer '{precision}'"):
            set_precision(copy.deepcopy(system), precision)
    decoder, vectors = system.head.decoder, torch.randn(1, 20, system.head.decoder.memory_dim)
    ids = torch.randint(0, decoder.vocab_size, (2, 6))  # two beams of one recording
    expected = logits_of(decoder, vectors, ids)
    set_precision(system, "fp16")
    assert 0 < error(logits_of(decoder, vectors, ids), expected) < BOUNDS["fp16"]
    table = decoder.embedding.weight
    assert kept(table, "fp16") is not None and kept(table, "fp32") is None  # the logits, too, and no float32 copy
    set_precision(system, "fp32")
    assert torch.equal(logits_of(decoder, vectors, ids), expected)


@torch.inference_mode()
def logits_of(decoder, vectors, ids):
    """Return the logits of each token, computed with a cache: four tokens together, then one after the other."""
    memory, cache = decoder.remember(vectors), decoder.new_cache(len(ids), ids.shape[1])
    steps = [ids[:, :4], *ids[:, 4:].split(1, dim=1)]
    return torch.cat([decoder(step, memory, cache=cache) for step in steps], dim=1)
