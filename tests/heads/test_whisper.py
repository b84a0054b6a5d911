"""Whisper's decoder and its loss against openai-whisper and transformers, and what caches, masks and shared memories must mean."""

import pytest
import torch
import torch.nn.functional as F
from transformers import WhisperConfig, WhisperForConditionalGeneration
from whisper.model import TextDecoder, disable_sdpa

import zoo
from zoo.errors import ConfigError, DataError
from zoo.heads.whisper import Whisper
from zoo.interop.base import rules
from zoo.interop.whisper import system as whisper_system
from zoo.interop.whisper.names import OPENAI
from zoo.layers.whisper_decoder import WhisperDecoder
from zoo.storage.tensors import load_strictly
from zoo.types import SUPERVISED, Batch, Encoded, EncoderSpec

SIZES = {"vocab_size": 61, "context_length": 19, "dim": 48, "depth": 3, "num_heads": 3}
# Of the sheet, computed from openai-whisper: parameters of the decoder, and of the whole model.
PUBLISHED = {
    "tiny": (29_552_256, 37_184_640),
    "tiny_en": (29_551_872, 37_184_256),
    "base": (52_003_328, 71_825_920),
    "base_en": (52_002_816, 71_825_408),
    "small": (153_580_800, 240_582_912),
    "small_en": (153_580_032, 240_582_144),
    "medium": (456_641_536, 762_321_920),
    "medium_en": (456_640_512, 762_320_896),
    "large_v2": (906_520_320, 1_541_384_960),
    "large_v3": (906_521_600, 1_541_570_560),
    "large_v3_turbo": (171_909_120, 806_958_080),
}


def close(found, expected):
    """Within 1e-5 of the largest value."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, expected[expected.isfinite()].abs().max().item()))


@pytest.fixture
def reference(scramble):
    """openai-whisper's decoder, with random weights."""
    return scramble(TextDecoder(61, 19, 48, 3, 3).apply(_fill), std=0.1)


def _fill(module):
    if isinstance(module, TextDecoder):  # whose positions are memory as it was found
        torch.nn.init.normal_(module.positional_embedding)


@pytest.fixture
def decoder(reference):
    model = WhisperDecoder(**SIZES).eval()
    load_strictly(model, rules.to_zoo(reference.state_dict(), OPENAI.decoder_rules, origin="openai-whisper"), origin="openai-whisper")
    return model


@pytest.fixture
def heard():
    return torch.randn(2, 30, 48)


@pytest.fixture
def token_ids():
    return torch.randint(0, 61, (2, 11))


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name):
    system = zoo.create_model(f"whisper_{name}", device="meta")
    counts = [sum(parameter.numel() for parameter in module.parameters()) for module in (system.head, system)]
    assert tuple(counts) == PUBLISHED[name]
    assert len(system.head.alignment_heads) > 4 and system.head.vocab_size == 51864 + (not name.endswith("en")) + ("v3" in name)


def test_a_decoder_alone_reads_tokens_of_its_own_width():
    assert zoo.create_model("whisper_tiny_decoder", device="meta").decoder.memory_dim == 384


@pytest.mark.parametrize("grad", [True, False])
def test_logits_equal_those_of_openai_whisper(reference, decoder, heard, token_ids, grad):
    with torch.set_grad_enabled(grad):
        close(decoder(token_ids, decoder.remember(heard)), reference(token_ids, heard))


@torch.no_grad()
def test_logits_equal_those_of_transformers(scramble):
    sizes = {"d_model": 48, "encoder_layers": 1, "encoder_attention_heads": 3, "encoder_ffn_dim": 80, "decoder_ffn_dim": 80}
    sizes |= {"decoder_layers": 2, "decoder_attention_heads": 3, "vocab_size": 61, "max_target_positions": 19, "num_mel_bins": 20}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3, "max_source_positions": 30}
    reference = scramble(WhisperForConditionalGeneration(WhisperConfig(**sizes, **ids)), std=0.1)
    config = whisper_system.system_config(reference.state_dict(), reference.config.to_dict())
    words = {"tokenizer": "given", "num_languages": 0, "num_timestamps": 0}
    system = zoo.create_system({**config, "processor": {"transcript": words}}).eval()
    load_strictly(system, whisper_system.to_zoo(reference.state_dict()), origin="transformers")
    mels, token_ids = torch.randn(2, 20, 60), torch.randint(0, 61, (2, 7))
    memory = system.head.decoder.remember(system.encoders["audio"](mels).tokens)
    close(system.head.decoder(token_ids, memory), reference(mels, decoder_input_ids=token_ids).logits)


@pytest.mark.parametrize("steps", [(11,), (4, 7), (3, *(1,) * 8)])
@torch.no_grad()
def test_with_a_cache_tokens_may_come_in_any_pieces(decoder, heard, token_ids, steps):
    memory = decoder.remember(heard)
    expected, cache = decoder(token_ids, memory), decoder.new_cache(2, 11)
    pieces = [decoder(piece, memory, cache=cache) for piece in token_ids.split(steps, dim=1)]
    close(torch.cat(pieces, 1), expected)


@torch.no_grad()
def test_a_cache_may_be_cut_and_its_rows_exchanged(decoder, heard, token_ids):
    memory, cache = decoder.remember(heard), decoder.new_cache(2, 11)
    decoder(token_ids, memory, cache=cache)
    swapped = torch.tensor([1, 0])
    cache.crop(6).select(swapped)
    close(decoder(token_ids[swapped, 6:], memory.select(swapped), cache=cache), decoder(token_ids, memory)[swapped, 6:])


@pytest.mark.parametrize("cached", [True, False])
@torch.no_grad()
def test_rows_that_share_a_memory_give_what_rows_with_copies_of_it_give(decoder, heard, cached):
    token_ids = torch.randint(0, 61, (6, 5))
    memory = decoder.remember(heard)
    copies = memory.select(torch.tensor([0, 0, 0, 1, 1, 1]))
    cache = decoder.new_cache(6, 5) if cached else None
    close(decoder(token_ids, memory, cache=cache), decoder(token_ids, copies))


@torch.no_grad()
def test_what_lies_behind_a_recording_is_not_seen(decoder, heard, token_ids):
    mask = torch.arange(30) < torch.tensor([30, 13])[:, None]
    noise = torch.where(mask[..., None], heard, 9.0)
    found = decoder(token_ids, decoder.remember(noise, mask))
    close(found[1:], decoder(token_ids[1:], decoder.remember(heard[1:, :13])))
    scores = decoder.cross_attention(token_ids, decoder.remember(noise, mask))
    assert scores.softmax(-1)[:, 1, ..., 13:].max() == 0


def test_no_token_sees_those_after_it(decoder, heard, token_ids):
    other = token_ids.clone()
    other[:, 6:] = 0
    memory = decoder.remember(heard)
    close(decoder(other, memory)[:, :6], decoder(token_ids, memory)[:, :6])


@torch.no_grad()
def test_scores_of_the_recording_are_those_of_openai_whisper(reference, decoder, heard, token_ids):
    seen = []
    for block in reference.blocks:
        block.cross_attn.register_forward_hook(lambda module, inputs, output: seen.append(output[1]))
    with disable_sdpa():
        reference(token_ids, heard)
    close(decoder.cross_attention(token_ids, decoder.remember(heard)), torch.stack(seen))


def test_keys_have_no_bias_and_every_parameter_gets_a_gradient(heard, token_ids):
    decoder = WhisperDecoder(**SIZES)
    decoder(token_ids, decoder.remember(heard)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())
    names = dict(decoder.named_parameters())
    assert names["blocks.0.attention.qkv.bias"].shape == (96,) and names["blocks.0.cross.key_value.bias"].shape == (48,)


@torch.no_grad()
def test_logits_of_bfloat16_are_float32_and_near(decoder, heard, token_ids):
    expected = decoder(token_ids, decoder.remember(heard))
    decoder.to(torch.bfloat16)
    found = decoder(token_ids, decoder.remember(heard.bfloat16()))
    assert found.dtype is torch.float32
    # bf16 keeps 8 bits of each number.
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05 * expected.abs().max().item())


def test_training_lays_the_weights_out_as_they_were(decoder):
    decoder.new_cache(2, 4)
    assert not decoder.embedding.weight.is_contiguous()
    decoder.train()
    assert all(parameter.is_contiguous() for parameter in decoder.parameters())


@pytest.mark.parametrize(("rows", "length", "words"), [(2, 20, "20 tokens; context_length allows 19"), (3, 4, "3 rows for 2 recordings")])
def test_token_ids_that_do_not_fit_are_refused(decoder, heard, rows, length, words):
    with pytest.raises(DataError, match=words):
        decoder(torch.zeros(rows, length, dtype=torch.int64), decoder.remember(heard))


def test_a_cached_text_that_grows_too_long_is_refused(decoder, heard):
    memory, cache = decoder.remember(heard), decoder.new_cache(2, 40)
    decoder(torch.zeros(2, 19, dtype=torch.int64), memory, cache=cache)
    with pytest.raises(DataError, match="20 tokens"):
        decoder(torch.zeros(2, 1, dtype=torch.int64), memory, cache=cache)


# The head.


def head_of(**change):
    return Whisper(inputs={"audio": EncoderSpec("audio", 48)}, **{**SIZES, **change})


def batch_of(token_ids, learnt):
    return Batch({"text": token_ids}, targets={SUPERVISED: learnt})


def encoded_of(heard):
    return {"audio": Encoded(heard, None, torch.ones(heard.shape[:2], dtype=torch.bool))}


def test_the_loss_is_the_mean_over_the_tokens_that_are_learnt(heard, token_ids):
    head = head_of()
    learnt = torch.zeros(2, 11, dtype=torch.bool)
    learnt[0, 3:] = learnt[1, 2:7] = True
    logits = head.decoder(token_ids, head.decoder.remember(heard))[:, :-1]
    expected = F.cross_entropy(logits[learnt[:, 1:]], token_ids[:, 1:][learnt[:, 1:]])
    output = head(encoded_of(heard), batch_of(token_ids, learnt))
    close(output.loss, expected)
    assert len(output.outputs["labels"]) == 13 and output.metrics["perplexity"] == pytest.approx(expected.exp().item(), rel=1e-5)


def test_a_batch_without_anything_to_learn_gives_gradients_of_zero(heard, token_ids):
    head = head_of()
    head(encoded_of(heard), batch_of(token_ids, torch.zeros(2, 11, dtype=torch.bool))).loss.backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in head.parameters())


def test_an_encoder_of_another_width_is_read_too(token_ids):
    head = Whisper(inputs={"audio": EncoderSpec("audio", 20)}, **SIZES)
    loss = head(encoded_of(torch.randn(2, 9, 20)), batch_of(token_ids, torch.ones(2, 11, dtype=torch.bool))).loss
    assert loss.isfinite() and head.decoder.blocks[0].cross.key_value.weight.shape == (96, 20)
    with pytest.raises(DataError, match=r"this decoder reads \[batch, num_tokens, 20\]"):
        head.decoder.remember(torch.randn(1, 9, 48))


def test_a_batch_without_transcripts_is_refused(heard):
    with pytest.raises(DataError, match="no transcripts"):
        head_of()(encoded_of(heard), Batch({}))


def test_alignment_heads_are_those_given_or_the_upper_half():
    assert head_of().alignment_heads == tuple((layer, head) for layer in (1, 2) for head in range(3))
    assert head_of(alignment_heads=[[2, 1], [0, 2]]).alignment_heads == ((0, 2), (2, 1))
    with pytest.raises(ConfigError, match=r"\[3, 0\]; allowed .* layers 0 to 2, heads 0 to 2"):
        head_of(alignment_heads=[[3, 0]])


def test_a_width_that_heads_do_not_share_evenly_is_refused():
    with pytest.raises(ConfigError, match="num_heads: 5 does not divide"):
        head_of(num_heads=5)


def test_memory_is_equal_with_and_without_gradients(decoder, heard):
    with_gradients = decoder.remember(heard.requires_grad_())
    assert with_gradients.keys.requires_grad and with_gradients.values.requires_grad
    with torch.no_grad():
        found = decoder.remember(heard)
    close(found.keys, with_gradients.keys.detach())
    close(found.values, with_gradients.values.detach())
