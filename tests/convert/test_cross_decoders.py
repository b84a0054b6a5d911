"""GPT-2 and BERT as decoders of an image encoder, against transformers: outputs, tokens, and the way back."""

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel, GPT2Config, GPT2LMHeadModel, VisionEncoderDecoderModel, ViTConfig, ViTModel

import zoo
from zoo.language.decoding.sampling import Sampling
from zoo.language.decoding.seq2seq import generate_answers
from zoo.types import SUPERVISED, TARGET_IDS, Batch

VIT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40, "image_size": 20, "patch_size": 5}
CROSS = {"is_decoder": True, "add_cross_attention": True, "bos_token_id": 2, "eos_token_id": 3}


def gpt2(width, **words):
    return GPT2LMHeadModel(GPT2Config(vocab_size=61, n_positions=30, n_embd=width, n_layer=2, n_head=4, **CROSS, **words))


def bert(width, **words):
    sizes = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 20}
    return BertLMHeadModel(BertConfig(vocab_size=61, max_position_embeddings=30, **sizes, **CROSS, **words))


DECODERS = {
    "gpt2": lambda: gpt2(24),
    "gpt2 wider, untied": lambda: gpt2(36, n_inner=20, activation_function="relu", tie_word_embeddings=False),
    "gpt2 narrower": lambda: gpt2(16),
    "bert": lambda: bert(24),
    "bert wider, untied": lambda: bert(36, tie_word_embeddings=False, layer_norm_eps=1e-5),
}


def made(kind, folder):
    """Save their model with random weights, and load it here."""
    torch.manual_seed(0)
    model = VisionEncoderDecoderModel(encoder=ViTModel(ViTConfig(**VIT), add_pooling_layer=False), decoder=DECODERS[kind]()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.config.decoder_start_token_id, model.config.pad_token_id, model.config.eos_token_id = 2, 1, 3
    model.save_pretrained(folder)
    return model, zoo.load(folder)


@pytest.mark.parametrize("kind", DECODERS)
@torch.no_grad()
def test_outputs_and_written_tokens_equal_theirs(kind, tmp_path):
    model, system = made(kind, tmp_path / "theirs")
    pixels, target = torch.rand(2, 3, 20, 20), torch.randint(4, 60, (2, 7))
    expected = model(pixel_values=pixels, decoder_input_ids=target[:, :-1]).logits
    batch = Batch({"image": pixels}, {}, {TARGET_IDS: target, SUPERVISED: torch.ones_like(target, dtype=torch.bool)})
    torch.testing.assert_close(system(batch).outputs["logits"].unflatten(0, (2, -1)), expected, atol=1e-5, rtol=1e-5)
    written_tokens_equal(model, system, pixels)


def written_tokens_equal(model, system, pixels):
    """Greedy, and with three beams; token 2 begins and 3 ends."""
    words = {"decoder_start_token_id": 2, "pad_token_id": 1, "eos_token_id": 3, "do_sample": False}
    model.generation_config.forced_eos_token_id = None  # the configs of BART's decoders set one
    encoded = system.encode_ready("image", pixels)
    for num_beams in (1, 3):
        theirs = model.generate(pixel_values=pixels, max_new_tokens=8, num_beams=num_beams, **words)
        sampling = Sampling(max_new_tokens=8, eos_token_ids=(3,), num_beams=num_beams)
        for row, answer in zip(theirs.tolist(), generate_answers(system.head.decoder, encoded, [2], sampling), strict=True):
            tokens = row[1:]
            assert answer.ids == (tokens[: tokens.index(3)] if 3 in tokens else tokens)


@pytest.mark.parametrize("kind", [kind for kind in DECODERS if kind != "gpt2 narrower"])
@torch.no_grad()
def test_the_export_is_their_model(kind, tmp_path):
    model, system = made(kind, tmp_path / "theirs")
    pixels, ids = torch.rand(2, 3, 20, 20), torch.randint(4, 60, (2, 6))
    zoo.export(system, tmp_path / "back")
    again = VisionEncoderDecoderModel.from_pretrained(tmp_path / "back").eval()
    expected = model(pixel_values=pixels, decoder_input_ids=ids).logits
    torch.testing.assert_close(again(pixel_values=pixels, decoder_input_ids=ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_an_encoder_that_is_wider_than_the_decoder_cannot_be_written(tmp_path):
    _, system = made("gpt2 narrower", tmp_path / "theirs")
    with pytest.raises(zoo.ConfigError, match=r"encoders.image.dim: 24 is more than the 16 of the head"):
        zoo.export(system, tmp_path / "back")
