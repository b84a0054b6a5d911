"""Whisper's encoder against transformers and openai-whisper, and the effect of the mask."""

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperModel
from whisper.model import AudioEncoder
from whisper.model import sinusoids as published_sinusoids

import zoo
from zoo.encoders.whisper import WhisperEncoder, sinusoids
from zoo.errors import ConfigError, DataError
from zoo.interop.whisper import encoder as whisper
from zoo.processors.audio import AudioProcessor
from zoo.storage.tensors import load_strictly

SIZES = {"num_mels": 20, "context_length": 50, "dim": 60, "depth": 3, "num_heads": 5}
# Of the sheet, computed from openai-whisper: trainable parameters, and GMAC of 30 s.
PUBLISHED = {
    "whisper_tiny_encoder": (7_632_384, 18.47),
    "whisper_base_encoder": (19_822_592, 43.68),
    "whisper_small_encoder": (87_002_112, 172.08),
    "whisper_medium_encoder": (305_680_384, 569.03),
    "whisper_large_v2_encoder": (634_864_640, 1136.33),
    "whisper_large_v3_encoder": (635_048_960, 1136.89),
    "whisper_large_v3_turbo_encoder": (635_048_960, 1136.89),
}
STRICT = {"pad_to": "context", "mask": False}


def close(found, expected):
    """Within 1e-5 of the largest value."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, expected.abs().max().item()))


@pytest.fixture
def model(scramble):
    return scramble(WhisperEncoder(**SIZES), std=0.05)


def lengths_mask(lengths, frames):
    return torch.arange(frames) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name):
    summary = zoo.summarize(name)
    assert summary.parameters == PUBLISHED[name][0] and summary.tokens == {"audio": 1500}
    assert summary.flops["audio"] / 2e9 == pytest.approx(PUBLISHED[name][1], abs=0.01)


def test_positions_are_bit_for_bit_those_of_the_reference():
    assert torch.equal(sinusoids(1500, 384), published_sinusoids(1500, 384))


@pytest.mark.parametrize("grad", [True, False])
def test_outputs_equal_those_of_openai_whisper(scramble, grad):
    """Without gradients the linear layers go another way (oneDNN)."""
    reference = scramble(AudioEncoder(20, 50, 60, 5, 3), std=0.05)
    model = WhisperEncoder(**SIZES).eval()
    load_strictly(model, whisper.to_zoo({f"encoder.{name}": t for name, t in reference.state_dict().items()}), origin="openai-whisper")
    mels = torch.randn(2, 20, 100)
    with torch.set_grad_enabled(grad):
        close(model(mels).tokens, reference(mels))


def test_outputs_equal_those_of_transformers(scramble):
    config = {"d_model": 60, "encoder_layers": 3, "encoder_attention_heads": 5, "encoder_ffn_dim": 100, "max_source_positions": 50}
    small = {"decoder_layers": 1, "decoder_attention_heads": 5, "decoder_ffn_dim": 8, "vocab_size": 11, "pad_token_id": 0}
    reference = WhisperModel(WhisperConfig(**config, **small, num_mel_bins=20, attn_implementation="eager"))
    scramble(reference, std=0.05)
    model = WhisperEncoder(**SIZES, mlp_ratio=100 / 60).eval()
    load_strictly(model, whisper.to_zoo(reference.state_dict()), origin="transformers")
    mels = torch.randn(2, 20, 100)
    with torch.no_grad():
        close(model(mels).tokens, reference.encoder(mels).last_hidden_state)


@pytest.mark.parametrize("frames", [1, 2, 3, 50, 99, 100])
def test_num_tokens_is_what_comes_out(model, frames):
    assert model(torch.randn(1, 20, frames)).tokens.shape[1] == model.num_tokens(frames)


@pytest.mark.parametrize("width", [75, 76, 100])
@pytest.mark.parametrize("fill", [0.0, -2.0, 7.0])
def test_a_clip_in_a_batch_is_the_clip_alone_whatever_it_is_padded_with(model, width, fill):
    lengths, mels = [75, 32, 1], torch.randn(3, 20, 75)
    mask = lengths_mask(lengths, width)
    padded = torch.nn.functional.pad(mels, (0, width - 75)).masked_fill(~mask[:, None], fill)
    with torch.no_grad():
        found = model(padded, mask)
        for row, length in enumerate(lengths):
            alone, tokens = model(mels[row : row + 1, :, :length]), model.num_tokens(length)
            close(found.tokens[row, :tokens], alone.tokens[0])
            close(found.pooled[row], alone.pooled[0])
            assert found.mask[row].sum() == tokens and alone.mask.all()
            assert (found.tokens[row, tokens:] == 0).all()


def test_what_lies_behind_a_clip_gets_no_gradient_and_the_clip_does(model):
    mels = torch.randn(2, 20, 40, requires_grad=True)
    mask = lengths_mask([40, 17], 40)
    model(mels, mask).pooled.sum().backward()
    reached = mels.grad.abs().sum(1) > 0
    assert torch.equal(reached, mask)


def test_packed_rows_give_what_masked_attention_gives(model, monkeypatch):
    mels, mask = torch.randn(3, 20, 90), lengths_mask([90, 51, 3], 90)
    packed = model(mels, mask)
    monkeypatch.setattr("zoo.encoders.whisper.can_pack", lambda mask: False)
    masked = model(mels, mask)
    close(packed.pooled, masked.pooled)
    for row, real in enumerate(packed.mask):
        close(packed.tokens[row, real], masked.tokens[row, real])


def test_no_token_sees_the_next_clip(model):
    mels, mask = torch.randn(2, 20, 60), lengths_mask([60, 30], 60)
    other = mels.clone()
    other[1] = torch.randn(20, 60)
    with torch.no_grad():
        assert torch.equal(model(mels, mask).tokens[0], model(other, mask).tokens[0])


def test_every_parameter_gets_a_gradient_and_keys_have_no_bias():
    model = WhisperEncoder(**SIZES)
    model(torch.randn(2, 20, 30)).tokens.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    names = dict(model.named_parameters())
    assert names["blocks.0.attention.qkv.weight"].shape == (180, 60) and names["blocks.0.attention.qkv.bias"].shape == (120,)
    assert "positions" not in names and "positions" in model.state_dict()


def test_the_first_weights_have_the_size_of_their_fan_in():
    weight = WhisperEncoder(dim=256, num_heads=4, depth=1).blocks[0].mlp.fc2.weight
    assert weight.std().item() == pytest.approx(1024**-0.5, rel=0.02)


def test_without_pooling_there_is_no_pooled_vector():
    model = WhisperEncoder(**SIZES, pool="none")
    assert model(torch.randn(1, 20, 10)).pooled is None and not model.gives_pooled


@pytest.mark.parametrize("shape", [(1, 21, 10), (1, 20, 101), (1, 20, 0)])
def test_mels_that_do_not_fit_are_refused(model, shape):
    with pytest.raises(DataError, match=r"\[batch, 20, 1 to 100 frames\]"):
        model(torch.zeros(shape))


@pytest.mark.parametrize(("change", "words"), [({"pool": "cls"}, "known: mean, none"), ({"dim": 61}, "even"), ({"num_heads": 7}, "divide")])
def test_settings_that_are_not_allowed_are_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        WhisperEncoder(**{**SIZES, **change})


def test_blocks_compute_the_tokens_of_the_clips_and_no_others(model):
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    mels, mask = torch.randn(3, 20, 100), lengths_mask([60, 31, 2], 100)
    model(mels, mask)
    assert seen == [(30 + 16 + 1, 60)]


def test_the_processor_s_masks_make_a_short_clip_cheap(model):
    clip = np.random.default_rng(0).standard_normal(1600).astype(np.float32)
    short, strict = (AudioProcessor(num_mels=20, context_length=50, **settings)([clip]) for settings in ({}, STRICT))
    assert model(*short).tokens.shape == (1, 5, 60) and model(*strict).tokens.shape == (1, 50, 60)


def test_bfloat16_is_near_float32(model):
    mels, mask = torch.randn(2, 20, 60), lengths_mask([60, 30], 60)
    with torch.no_grad():
        expected, found = model(mels, mask), model.to(torch.bfloat16)(mels.bfloat16(), mask)
    assert found.tokens.dtype is torch.bfloat16
    # bf16 keeps 8 bits of each number; outputs of the last norm are of size one.
    torch.testing.assert_close(found.pooled.float(), expected.pooled, rtol=0, atol=0.1)
