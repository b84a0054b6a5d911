"""Files of other libraries' models, of data and of media with values of wrong types, without end, or that are no ordinary files."""

import json
import os
import zipfile

import gguf
import numpy as np
import pytest
from transformers import BertConfig, BertModel, CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

import zoo
from zoo.data.readers.table import read_table
from zoo.interop.base.schemas import checked_image_settings, checked_model_config
from zoo.processors.chat.jinja_template import _render
from zoo.processors.chat.messages import Conversation
from zoo.processors.media.audio_file import read_audio, seconds_in_header
from zoo.processors.media.image_file import open_image, read_pixels
from zoo.processors.tokenizers.chat_tokenizer import read_chat_template, read_language_tokenizer
from zoo.processors.tokenizers.library_tokenizers import read_tokenizer

TINY = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
MODELS = {
    "bert": lambda: BertModel(BertConfig(**TINY, vocab_size=30, max_position_embeddings=8)),
    "clip": lambda: CLIPVisionModel(CLIPVisionConfig(**TINY, image_size=8, patch_size=4)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**TINY, vocab_size=30, max_position_embeddings=8)),
}


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    found = {name: tmp_path_factory.mktemp(name) for name in MODELS}
    for name, make in MODELS.items():
        make().save_pretrained(found[name])
    return found


VALUES = [
    *(("bert", "hidden_act", value) for value in ([], {}, 3, "nope", None)),
    *(("bert", key, value) for key in ("vocab_size", "num_hidden_layers", "hidden_size") for value in (10**12, -1, "3", [], 2.5, None)),
    *(("bert", "model_type", value) for value in ([], 3, None, {})),
    *(("llama", "rope_parameters", value) for value in ({"rope_theta": {}}, [1], {"rope_theta": "x"}, {"rope_type": []})),
    *(("llama", key, value) for key in ("num_key_value_heads", "head_dim", "intermediate_size") for value in (0, {}, 10**10)),
    *(("clip", key, value) for key in ("image_size", "patch_size", "layer_norm_eps", "num_attention_heads") for value in ({}, "x", -3)),
]


@pytest.mark.parametrize(("family", "key", "value"), VALUES, ids=[f"{f}-{k}-{str(v)[:16]}" for f, k, v in VALUES])
def test_a_wrong_value_in_a_foreign_config_is_told(foreign, tmp_path, family, key, value):
    for file in foreign[family].iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").unlink()
    config = json.loads((foreign[family] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(zoo.ZooError) as error:
        zoo.load(tmp_path)
    assert key in str(error.value) or "config" in str(error.value)


@pytest.mark.parametrize("value", [[1, 2, 3], 7, "x"])
@pytest.mark.parametrize("key", ["vision_config", "text_config"])
def test_a_nested_config_of_another_type_is_told(key, value):
    with pytest.raises(zoo.WeightsError, match=rf"config\.json: {key}: got"):
        checked_model_config({"model_type": "llava", key: value}, "config.json")


@pytest.mark.parametrize(
    ("key", "value"), [("rescale_factor", "x"), ("rescale_factor", 0), ("size", "x"), ("resample", []), ("image_mean", {})]
)
def test_a_wrong_value_in_an_image_processor_is_told(key, value):
    with pytest.raises(zoo.ConfigError, match=rf"{key}: got"):
        checked_image_settings({"image_processor_type": "ViTImageProcessor", key: value}, "preprocessor_config.json")


def test_a_chat_template_that_is_not_utf_8_is_told(tmp_path):
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe{{ messages }}")
    with pytest.raises(zoo.WeightsError, match=r"chat_template\.jinja: is not UTF-8"):
        read_chat_template(tmp_path)


LOOP = "{% for a in range(99999) %}"
TEMPLATES = [
    (LOOP * 3 + "{% endfor %}" * 3, "steps"),
    ("{{ 'x' * 10**11 }}", "100,000,000,000 characters"),
    ("{{ 1/0 }}", "division by zero"),
    ("{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}", "characters"),
    ("{{ 'x'.ljust(99999999999) }}", "number above"),
    ("{{ '%99999999999d' % 1 }}", "width"),
    ("{{ '{:>99999999999}'.format(1) }}", "width"),
    ("{{ 'x' | center(99999999999) }}", "number above"),
    ("{{ range(99999) | join('x' * 99999) }}", "characters"),
    ("{{ 99999999999**9 }}", "number above"),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
]


@pytest.mark.parametrize(("source", "told"), TEMPLATES, ids=[told for _, told in TEMPLATES])
def test_a_template_without_end_is_told(source, told):
    with pytest.raises(zoo.DataError) as error:
        _render(source, [{"role": "user", "content": "hi"}], {}, True)
    assert told in str(error.value)


def test_limits_leave_templates_as_they_are():
    source = "{% for m in messages %}{{ loop.index ~ '/' ~ loop.length }}{{ m.role | upper }}{{ 'a' * 3 + '%s' % 'b' }}{% endfor %}"
    assert _render(source, [{"role": "user", "content": "hi"}] * 2, {}, True) == "1/2USERaaab2/2USERaaab"


@pytest.mark.parametrize("read", [open_image, read_pixels, read_audio], ids=lambda read: read.__name__)
def test_a_pipe_and_a_device_are_told_before_they_are_opened(tmp_path, read):
    os.mkfifo(tmp_path / "a.png")
    for path in (tmp_path / "a.png", "/dev/zero"):
        with pytest.raises(zoo.DataError, match=r"ordinary|regular"):
            read(path)
    assert seconds_in_header(tmp_path / "a.png") == 0


PLAYLISTS = {
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile /etc/passwd\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_opens_no_address_and_no_other_file(tmp_path, monkeypatch, kind):
    pytest.importorskip("av")
    (tmp_path / "a.wav").write_text(PLAYLISTS[kind])
    monkeypatch.setattr("socket.socket.connect", None)
    with pytest.raises(zoo.DataError, match="not a recording that can be read"):
        read_audio(tmp_path / "a.wav")


def test_rows_that_are_no_conversations_are_told():
    for content in ([{"type": []}], [{"type": {}}], [{"type": "image", "path": 3}], [{"type": "text", "text": []}], [3]):
        with pytest.raises(zoo.DataError, match="part"):
            Conversation.parse({"messages": [{"role": "user", "content": content}]})


@pytest.mark.parametrize("line", ["[" * 100_000, '{"a": ' + "9" * 5000 + "}", "nul", "3"])
def test_a_row_nested_too_deep_or_with_a_long_number_is_told(tmp_path, line):
    (tmp_path / "t.jsonl").write_text(line + "\n")
    (row,) = read_table(tmp_path / "t.jsonl", ["a"])
    assert row.fault and len(row.fault) < 400


def test_a_table_that_is_a_pipe_is_told(tmp_path):
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(zoo.DataError, match=r"data\.table: .*named pipe"):
        list(read_table(tmp_path / "t.csv", ["a"]))


def test_tensors_with_the_names_of_no_vision_transformer_are_told(tmp_path):
    import torch
    from safetensors.torch import save_file

    config = {**TINY, "model_type": "vit", "image_size": 8, "patch_size": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(zoo.WeightsError, match="lacks tensors that every Vision Transformer has"):
        zoo.load(tmp_path)


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    """Values and tensors of a small LLaMA as GGUF; ``put`` writes the file with other values, or without those that are None."""
    words = ["<unk>", "<s>", "</s>", *(chr(0x100 + i) for i in range(26)), "\u0100\u0101"]
    values = {"general.architecture": "llama", "llama.block_count": 1, "llama.context_length": 8, "llama.embedding_length": 16}
    values |= {"llama.feed_forward_length": 16, "llama.attention.head_count": 2, "llama.attention.layer_norm_rms_epsilon": 1e-6}
    values |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": words, "tokenizer.ggml.merges": ["\u0100 \u0101"]}
    names = {"token_embd": (30, 16), "output_norm": (16,), "blk.0.attn_norm": (16,), "blk.0.ffn_norm": (16,)}
    names |= {f"blk.0.{name}": (16, 16) for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")}
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"

    def put(**changes):
        writer = gguf.GGUFWriter(None, "")
        writer.kv_data[0].clear()
        for key, value in {**values, **changes}.items():
            if value is not None:
                writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
        for name, shape in names.items():
            writer.add_tensor(f"{name}.weight", np.ones(shape, dtype=np.float32))
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return put


GGUF_VALUES = [
    ("tokenizer.ggml.tokens", None, "holds no tokenizer"),
    ("tokenizer.ggml.tokens", ["a"], "vocab_size|merges|tokenizer"),
    ("tokenizer.ggml.tokens", [1, 2], "tokens"),
    ("tokenizer.ggml.merges", None, "neither merges nor scores"),
    ("tokenizer.ggml.merges", ["x"], "merges"),
    ("tokenizer.ggml.merges", ["x y"], "tokenizer cannot be read"),
    ("tokenizer.ggml.scores", [0.5], "30 tokens and 1 scores"),
    ("tokenizer.ggml.model", 3, "tokenizer.ggml.model: got 3"),
    ("tokenizer.chat_template", ["a"], "chat_template"),
    ("general.architecture", 7, "general.architecture: got 7"),
    *(("llama.attention.head_count", value, "head_count") for value in (0, -2, "x", 2**31 - 1)),
    *((f"llama.{key}", value, key) for key in ("block_count", "embedding_length", "context_length") for value in (0, "x", 2.5)),
]


@pytest.mark.parametrize(("key", "value", "told"), GGUF_VALUES, ids=[f"{key}={str(value)[:12]}" for key, value, _ in GGUF_VALUES])
def test_a_wrong_value_in_the_metadata_of_a_gguf_file_is_told(gguf_file, key, value, told):
    with pytest.raises(zoo.ZooError, match=told):
        zoo.load(gguf_file(**{key: value}))


def test_an_intact_gguf_file_is_read(gguf_file):
    assert zoo.load(gguf_file()).head.language.vocab_size == 30


TOKENIZERS = {
    "vocab.txt": "[CLS]\n[SEP]\na\n",  # without [UNK]
    "spiece.model": "no model",
    "tokenizer.json": '{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "<unk>"}}',
    "tokenizer.model": "\x08\x01" * 50,
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_that_cannot_tokenize_is_told_and_sought_nowhere_else(tmp_path, name, monkeypatch):
    (tmp_path / name).write_text(TOKENIZERS[name])
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    for read in (read_tokenizer,) if name == "vocab.txt" else (read_tokenizer, read_language_tokenizer):
        with pytest.raises(zoo.WeightsError, match=f"{tmp_path}.* (cannot be read|cannot tokenize|has no piece)"):
            read(tmp_path)
    assert not (tmp_path / "cache").exists()


def test_an_archive_with_damaged_names_is_told(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as file:
        file.writestr("a/data.pkl\u00e9", b"x" * 50)
    path = tmp_path / "a.pt"
    path.write_bytes(path.read_bytes().replace("\u00e9".encode(), b"\xc3\xff"))
    with pytest.raises(zoo.WeightsError, match=r"a\.pt"):
        zoo.create_model("vit_nano", weights=path)


@pytest.mark.parametrize("value", [3, "", "a" * 5000, None, ["a"]], ids=range(5))
def test_a_shard_without_a_proper_name_is_told(tmp_path, value):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": value}}))
    with pytest.raises(zoo.WeightsError, match=r"index\.json: weight_map") as error:
        zoo.load(tmp_path)
    assert len(str(error.value)) < 900
