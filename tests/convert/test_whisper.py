"""Whisper's encoder of transformers, openai-whisper and CTranslate2, and whole ones of the last: there, back, as users load them."""

import json
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperModel
from whisper.model import ModelDimensions, Whisper

import zoo
from zoo.errors import ConfigError, WeightsError
from zoo.interop.whisper import encoder as whisper
from zoo.interop.whisper import system as whisper_system
from zoo.storage.ctranslate2 import is_ctranslate2, read_ctranslate2
from zoo.storage.tensors import load_strictly

ORIGINS = pytest.mark.parametrize("origin", whisper.ORIGINS)
CONFIG = {"d_model": 48, "encoder_layers": 2, "encoder_attention_heads": 3, "encoder_ffn_dim": 80, "max_source_positions": 30}
DECODER = {"decoder_layers": 1, "decoder_attention_heads": 3, "decoder_ffn_dim": 8, "vocab_size": 13, "max_target_positions": 9}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}
KEYWORDS = {"num_mels": 20, "context_length": 30, "dim": 48, "depth": 2, "num_heads": 3}
TYPES = {np.float32: 0, np.int8: 1, np.int16: 2, np.int32: 3, np.float16: 4}


@pytest.fixture
def published(scramble):
    """A whole Whisper of transformers with random weights."""
    return scramble(WhisperForConditionalGeneration(WhisperConfig(**CONFIG, **DECODER, **IDS, num_mel_bins=20)), std=0.05)


def write_ctranslate2(path, variables, version=6):
    """A model.bin, written after CTranslate2's ``ModelSpec.save``, with one alias."""

    def name(text):
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    data = struct.pack("<I", version) + name("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for key, value in variables.items():
        value = np.asarray(value)
        data += name(key) + struct.pack("<B", value.ndim) + struct.pack(f"<{value.ndim}I", *value.shape)
        data += struct.pack("<BI", TYPES[value.dtype.type], value.nbytes) + value.tobytes()
    path.write_bytes(data + struct.pack("<I", 1) + name("decoder/projection/weight") + name("decoder/embeddings/weight"))


def ctranslate2_of(state, heads=3, dtype=np.float32):
    """Variables of CTranslate2 from a whole Whisper of transformers, by names of its WhisperSpec."""
    found = {f"{half}/num_heads": np.array(heads, dtype=np.int16) for half in ("encoder", "decoder")}
    found |= {"decoder/pre_norm": np.array(1, dtype=np.int8), "decoder/alignment_layer": np.array(-1, dtype=np.int16)}
    # CTranslate2 4.8 writes further settings as scalars.
    found |= {f"decoder/{name}": np.array(0, dtype=np.int8) for name in ("alibi", "scale_alibi", "alibi_use_positive_positions")}
    for half, depth in (("encoder", CONFIG["encoder_layers"]), ("decoder", DECODER["decoder_layers"])):
        prefix = f"model.{half}."
        own = {k.removeprefix(prefix): v.numpy().astype(dtype) for k, v in state.items() if k.startswith(prefix)}
        found |= {f"{half}/{name}": value for name, value in half_of_ctranslate2(own, depth).items()}
    return found


def half_of_ctranslate2(own, depth):
    """Return the variables of the encoder or of the decoder."""
    found = {k.replace(".", "/"): own[k] for k in own if k.startswith("conv")}
    found["position_encodings/encodings"] = own["embed_positions.weight"]
    if "embed_tokens.weight" in own:
        found["embeddings/weight"] = own["embed_tokens.weight"]

    def norm(theirs, ours):
        return {f"{theirs}/gamma": own[f"{ours}.weight"], f"{theirs}/beta": own[f"{ours}.bias"]}

    def joined(attention, parts):
        biases = [own.get(f"{attention}.{p}_proj.bias", np.zeros_like(own[f"{attention}.q_proj.bias"])) for p in parts]
        return {"weight": np.concatenate([own[f"{attention}.{p}_proj.weight"] for p in parts]), "bias": np.concatenate(biases)}

    found |= norm("layer_norm", "layer_norm")
    for i in range(depth):
        there, here = f"layer_{i}", f"layers.{i}"
        projections = {"self_attention/linear_0": joined(f"{here}.self_attn", "qkv")}
        named = {"self_attention/linear_1": "self_attn.out_proj", "ffn/linear_0": "fc1", "ffn/linear_1": "fc2"}
        norms = {"self_attention/layer_norm": "self_attn_layer_norm", "ffn/layer_norm": "final_layer_norm"}
        if f"{here}.encoder_attn.q_proj.weight" in own:
            projections["attention/linear_1"] = joined(f"{here}.encoder_attn", "kv")
            named |= {"attention/linear_0": "encoder_attn.q_proj", "attention/linear_2": "encoder_attn.out_proj"}
            norms["attention/layer_norm"] = "encoder_attn_layer_norm"
        projections |= {t: {word: own[f"{here}.{o}.{word}"] for word in ("weight", "bias")} for t, o in named.items()}
        found |= {f"{there}/{t}/{word}": value for t, words in projections.items() for word, value in words.items()}
        for theirs, ours in norms.items():
            found |= norm(f"{there}/{theirs}", f"{here}.{ours}")
    return found


def saved(origin, model, folder):
    """Save a Whisper with its library; return the path that a user gives."""
    if origin == "transformers":
        model.save_pretrained(folder)
        return folder
    if origin == "CTranslate2":
        write_ctranslate2(folder / "model.bin", ctranslate2_of(model.state_dict()))
        return folder
    sizes = ModelDimensions(20, 30, 48, 3, 2, 13, 9, 48, 3, 1)
    other = Whisper(sizes)  # it has one width only between its layers, so that these are other weights
    torch.save({"dims": vars(sizes), "model_state_dict": other.state_dict()}, folder / "random.pt")
    return folder / "random.pt"


def reference_tokens(origin, model, path, mels):
    if origin != "openai-whisper":
        return model.model.encoder(mels).last_hidden_state
    found = torch.load(path, weights_only=True)
    other = Whisper(ModelDimensions(**found["dims"]))
    other.load_state_dict(found["model_state_dict"])
    return other.eval().encoder(mels)


@ORIGINS
@pytest.mark.parametrize("way", ["load", "create_model", "create_model of a file"])
@torch.no_grad()
def test_a_whisper_of_every_origin_gives_its_encoder(origin, way, published, tmp_path):
    path, mels = saved(origin, published.eval(), tmp_path), torch.randn(2, 20, 60)
    if way == "load":
        model = zoo.load(path).encoders["audio"]
    else:
        if way.endswith("file") and path.is_dir():
            path = next(file for file in path.iterdir() if file.suffix in (".bin", ".safetensors"))
        ratio = 4.0 if origin == "openai-whisper" else 80 / 48
        model = zoo.create_model("whisper_nano_encoder", weights=path, **KEYWORDS, mlp_ratio=ratio)
    expected = reference_tokens(origin, published, path, mels)
    torch.testing.assert_close(model(mels).tokens, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_a_lone_encoder_prepares_clips_as_the_reference_and_is_saved_with_that(published, tmp_path):
    published.model.encoder.save_pretrained(tmp_path)
    state = {f"encoder.{name}": tensor for name, tensor in published.model.encoder.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    model = zoo.load(tmp_path)
    strict = {"num_mels": 20, "context_length": 30, "pad_to": "context", "mask": False}
    assert strict.items() <= model.processor["audio"].settings.items()
    zoo.save(model, tmp_path / "saved")
    again = zoo.load(tmp_path / "saved")
    assert again.processor["audio"].settings == model.processor["audio"].settings
    mels, mask = again.processor["audio"]([np.zeros(1600, dtype=np.float32)])
    assert mels.shape == (1, 20, 60) and mask is None


def test_an_encoder_that_was_saved_without_a_processor_gets_the_usual_one(tmp_path):
    zoo.save(zoo.create_model("whisper_nano_encoder", num_mels=20), tmp_path)
    assert zoo.load(tmp_path).processor["audio"].settings["num_mels"] == 20


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_the_way_back_to_transformers_is_bit_equal(published, prefix, same_state):
    state = published.state_dict() if prefix else published.model.state_dict()
    encoder = {name: tensor for name, tensor in state.items() if name.startswith(f"{prefix}encoder.")}
    same_state(whisper.from_zoo(whisper.to_zoo(state), prefix=prefix), encoder)


def test_the_way_back_to_openai_and_ctranslate2_is_bit_equal(published, same_state):
    state = {k: v for k, v in Whisper(ModelDimensions(20, 30, 48, 3, 2, 13, 9, 48, 3, 1)).state_dict().items() if k.startswith("encoder.")}
    same_state(whisper.from_zoo(whisper.to_zoo(state), origin="openai-whisper"), state)
    whole = ctranslate2_of(published.state_dict())
    variables = {k: torch.from_numpy(v) for k, v in whole.items() if v.ndim and k.startswith("encoder/")}
    same_state(whisper.from_zoo(whisper.to_zoo(variables), origin="CTranslate2"), variables)


@torch.no_grad()
def test_a_directory_of_ctranslate2_is_a_system_with_the_logits_of_transformers(published, tmp_path, close):
    write_ctranslate2(tmp_path / "model.bin", ctranslate2_of(published.state_dict()))
    (tmp_path / "config.json").write_text(json.dumps({"alignment_heads": [[0, 2]]}))
    system = zoo.load(tmp_path)
    mels, token_ids = torch.randn(2, 20, 60), torch.randint(0, 13, (2, 7))
    memory = system.head.decoder.remember(system.encoders["audio"](mels).tokens)
    close(system.head.decoder(token_ids, memory), published(mels, decoder_input_ids=token_ids).logits)
    assert system.head.alignment_heads == ((0, 2),)


def test_a_setting_of_ctranslate2_that_changes_the_attention_is_refused(published, tmp_path):
    variables = {**ctranslate2_of(published.state_dict()), "decoder/alibi": np.array(1, dtype=np.int8)}
    write_ctranslate2(tmp_path / "model.bin", variables)
    with pytest.raises(WeightsError, match="decoder/alibi is on, which no Whisper has"):
        zoo.load(tmp_path)


def test_the_way_to_ctranslate2_and_back_is_bit_equal(published, same_state):
    variables = {k: torch.from_numpy(v) for k, v in ctranslate2_of(published.state_dict()).items() if v.ndim}
    same_state(whisper_system.from_zoo(whisper_system.to_zoo(variables), origin="CTranslate2"), variables)


@ORIGINS
def test_sizes_come_from_config_or_tensors(origin, published, tmp_path):
    encoder = zoo.load(saved(origin, published, tmp_path)).config["encoders"]["audio"]
    ratio = encoder.pop("mlp_ratio")
    assert encoder == {"name": "whisper", **KEYWORDS}
    assert ratio == pytest.approx(4.0 if origin == "openai-whisper" else 80 / 48)


def test_bare_tensors_do_not_tell_their_heads_and_load_where_the_model_is_named(published, tmp_path):
    published.save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    path = tmp_path / "model.safetensors"
    with pytest.raises(WeightsError, match="number of heads"):
        zoo.load(path)
    model = zoo.create_model("whisper_nano_encoder", weights=path, **KEYWORDS, mlp_ratio=80 / 48)
    assert torch.equal(model.conv2.bias, published.model.encoder.conv2.bias)


def test_another_number_of_heads_is_refused(published, tmp_path):
    published.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="num_heads: 4, but .* was trained with 3"):
        zoo.create_model("whisper_nano_encoder", weights=tmp_path, **{**KEYWORDS, "num_heads": 4}, mlp_ratio=80 / 48)


def test_the_encoder_of_a_system_takes_the_weights_too(published, tmp_path):
    published.save_pretrained(tmp_path)
    keywords = {"encoders": {"audio": {**KEYWORDS, "mlp_ratio": 80 / 48}}}
    system = zoo.create_model("clap_whisper_nano", weights=tmp_path, weights_parts=["encoders.audio"], **keywords)
    assert torch.equal(system.encoders["audio"].conv1.weight, published.model.encoder.conv1.weight)


def test_tensors_that_a_whisper_does_not_have_are_refused(published):
    state = published.state_dict()
    with pytest.raises(WeightsError, match=r"1 unknown \(model.encoder.layers.0.gate.weight\)"):
        whisper.to_zoo({**state, "model.encoder.layers.0.gate.weight": torch.zeros(1)})
    state.pop("model.encoder.layers.1.fc1.bias")
    with pytest.raises(WeightsError, match="1 missing: blocks.1.mlp.fc1.bias"):
        load_strictly(zoo.create_model("whisper_nano_encoder", **KEYWORDS, mlp_ratio=80 / 48), whisper.to_zoo(state), origin="x")


@pytest.mark.parametrize("change", [{"activation_function": "relu"}, {"model_type": "speech_to_text"}])
def test_configs_that_ours_does_not_have_are_refused(change):
    with pytest.raises(ConfigError, match=f"{next(iter(change))}: got"):
        whisper.arguments({}, {**WhisperConfig(**CONFIG).to_dict(), **change})


def test_a_key_bias_in_ctranslate2_is_refused(published):
    variables = {k: torch.from_numpy(v) for k, v in ctranslate2_of(published.state_dict()).items()}
    variables["encoder/layer_1/self_attention/linear_0/bias"][48:96] = 0.1
    with pytest.raises(WeightsError, match="keys have a bias"):
        whisper.to_zoo(variables)


# The format of CTranslate2.


def test_variables_of_every_type_are_read(tmp_path):
    rng = np.random.default_rng(0)
    values = {
        "plain": rng.standard_normal((3, 4)).astype(np.float32),
        "half": rng.standard_normal((2, 2, 3)).astype(np.float16),
        "count": np.array(6, dtype=np.int16),
        "flag": np.array(1, dtype=np.int8),
    }
    write_ctranslate2(tmp_path / "model.bin", values)
    found = read_ctranslate2(tmp_path / "model.bin")
    assert found.keys() == values.keys() and is_ctranslate2(tmp_path / "model.bin")
    assert all(np.array_equal(found[name].numpy(), value) for name, value in values.items())


def test_quantised_matrices_are_divided_by_the_factor_of_their_row(tmp_path):
    """CTranslate2 stores round(127 w / max |w|) for each row, and 127 / max |w|."""
    matrix = np.random.default_rng(0).standard_normal((5, 40)).astype(np.float32)
    scale = 127 / np.abs(matrix).max(1)
    stored = {"a/weight": np.rint(matrix * scale[:, None]).astype(np.int8), "a/weight_scale": scale.astype(np.float32)}
    write_ctranslate2(tmp_path / "model.bin", stored)
    found = read_ctranslate2(tmp_path / "model.bin")
    assert list(found) == ["a/weight"] and np.abs(found["a/weight"].numpy() - matrix).max() <= 0.51 / scale.min()


def test_a_damaged_model_is_refused(published, tmp_path):
    path = tmp_path / "model.bin"
    write_ctranslate2(path, ctranslate2_of(published.state_dict()))
    data = path.read_bytes()
    for count in (30, 1000, len(data) // 2):
        path.write_bytes(data[:count])
        with pytest.raises(WeightsError, match="cannot be read|damaged"):
            zoo.load(tmp_path)
    write_ctranslate2(path, {}, version=3)
    with pytest.raises(WeightsError, match="version 3"):
        zoo.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\6\0\0\0\4\0abc\0"])
def test_other_files_are_no_ctranslate2(tmp_path, content):
    (tmp_path / "model.bin").write_bytes(content)
    assert not is_ctranslate2(tmp_path / "model.bin") and not is_ctranslate2(tmp_path / "none.bin")


# Real weights on a real prompt.


def transformers_of(variables, depth=4):
    """The encoder of transformers' WhisperModel with variables of CTranslate2, named by hand and not by our tables."""
    variables = {name: tensor.float() for name, tensor in variables.items()}
    encoder = WhisperModel(WhisperConfig(num_mel_bins=80)).encoder.eval()  # the config's own sizes are those of tiny
    state = {f"conv{n}.{word}": variables[f"encoder/conv{n}/{word}"] for n in (1, 2) for word in ("weight", "bias")}
    state["embed_positions.weight"] = variables["encoder/position_encodings/encodings"]
    norms = {"layer_norm": "encoder/layer_norm"}
    for i in range(depth):
        here, there = f"layers.{i}", f"encoder/layer_{i}"
        norms[f"{here}.self_attn_layer_norm"] = f"{there}/self_attention/layer_norm"
        norms[f"{here}.final_layer_norm"] = f"{there}/ffn/layer_norm"
        weights, biases = (variables[f"{there}/self_attention/linear_0/{word}"].chunk(3) for word in ("weight", "bias"))
        state |= {f"{here}.self_attn.{part}_proj.weight": weight for part, weight in zip("qkv", weights, strict=True)}
        state |= {f"{here}.self_attn.q_proj.bias": biases[0], f"{here}.self_attn.v_proj.bias": biases[2]}
        for ours, theirs in (("self_attn.out_proj", "self_attention/linear_1"), ("fc1", "ffn/linear_0"), ("fc2", "ffn/linear_1")):
            state |= {f"{here}.{ours}.{word}": variables[f"{there}/{theirs}/{word}"] for word in ("weight", "bias")}
    for ours, theirs in norms.items():
        state |= {f"{ours}.weight": variables[f"{theirs}/gamma"], f"{ours}.bias": variables[f"{theirs}/beta"]}
    encoder.load_state_dict(state, strict=True)
    return encoder


@pytest.mark.heavy
@torch.inference_mode()
def test_real_tiny_en_equals_transformers_on_a_real_prompt(real):
    from transformers import WhisperFeatureExtractor

    from zoo.processors.media.audio_file import read_audio

    path, prompt = real("whisper_tiny_en"), real("asterisk_sounds") / "clips" / "agent-pass.wav"
    expected_mels = WhisperFeatureExtractor()(read_audio(prompt)[0], sampling_rate=16000, return_tensors="pt").input_features
    expected = transformers_of(read_ctranslate2(path / "model.bin"))(expected_mels).last_hidden_state
    system = zoo.load(path)
    found = system.encode("audio", [prompt]).tokens
    assert found.shape == expected.shape == (1, 1500, 384)
    # Of the largest value: fp32 over four layers, from mels that differ by 1e-7, with sums in another order.
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.heavy
@torch.inference_mode()
def test_real_prompts_in_a_short_batch_are_those_of_single_clips(real):
    path, folder = real("whisper_tiny_en"), real("asterisk_sounds") / "clips"
    model = zoo.create_model("whisper_tiny_encoder", weights=path)
    processor = zoo.load(path).processor["audio"]
    short = type(processor)(num_mels=80)
    prompts = [folder / f"{name}.wav" for name in ("agent-pass", "activated", "vm-intro")]
    together = model(*short(prompts))
    for row, prompt in enumerate(prompts):
        alone = model(*short([prompt]))
        count = alone.tokens.shape[1]
        # Of the largest value: other sizes of matrices are summed in another order.
        assert (together.tokens[row, :count] - alone.tokens[0]).abs().max() <= 1e-4 * alone.tokens.abs().max()
        assert together.mask[row].sum() == count
