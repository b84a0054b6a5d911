"""Patch tokens that a language model receives: those of one layer, numbered and computed as in transformers and timm."""

import pytest
import timm
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

import zoo
from zoo.assembly.token_counts import try_patches
from zoo.errors import ConfigError
from zoo.interop.clip import transformers_clip
from zoo.interop.vit import transformers_dinov2
from zoo.registry import find_row
from zoo.registry.construct import build_part
from zoo.storage.tensors import load_strictly
from zoo.types import encode

SIZES = {"image_size": 32, "patch_size": 8, "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 96}
LAYERS = (-1, -2, -4, -5, 0, 1, 4)


def vit_of(reference, converter):
    """Our encoder, made from the reference's config, with its weights."""
    state = {key: value for key, value in reference.state_dict().items() if "position_ids" not in key}
    arguments = converter.arguments(reference.config.to_dict(), state)
    model = build_part("encoder", {"name": "vit", **arguments}, "encoder").eval()
    load_strictly(model, converter.to_zoo(state), origin="reference")
    return model


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", LAYERS)
def test_vit_shows_clips_hidden_states_without_class_token(layer, scramble):
    reference = scramble(CLIPVisionModel(CLIPVisionConfig(**SIZES)), std=0.02)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = reference(pixels, output_hidden_states=True).hidden_states[layer][:, 1:]
        found = vit_of(reference, transformers_clip).patches(pixels, layer=layer)
    assert_same(found.tokens, expected)
    assert found.pooled is None and found.mask.all() and found.mask.shape == (2, 16)


def test_registers_are_left_out_too(scramble):
    config = Dinov2WithRegistersConfig(**{k: v for k, v in SIZES.items() if k != "intermediate_size"}, num_register_tokens=3)
    reference = scramble(Dinov2WithRegistersModel(config), std=0.02)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        output, ours = reference(pixels, output_hidden_states=True), vit_of(reference, transformers_dinov2)
        assert_same(ours.patches(pixels, layer=-2).tokens, output.hidden_states[-2][:, 4:])
        assert_same(ours.patches(pixels, layer=None).tokens, output.last_hidden_state[:, 4:])


@pytest.mark.parametrize("layer", LAYERS)
def test_a_model_of_transformers_shows_its_hidden_states(layer):
    encoder = build_part("encoder", {"name": "transformers", "config": {"model_type": "clip_vision_model", **SIZES}}, "encoder").eval()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        states = encoder.model(pixels, output_hidden_states=True).hidden_states
        assert_same(encoder.patches(pixels, layer=layer).tokens, states[layer][:, 1:])
        assert_same(encoder.patches(pixels, layer=None).tokens, encoder(pixels).tokens[:, 1:])


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "deit3_small_patch16_224", "eva02_tiny_patch14_224"])
def test_a_stack_of_blocks_of_timm_shows_each_of_them(name):
    encoder = zoo.create_model(f"timm/{name}")
    pixels = torch.randn(1, 3, encoder.image_size, encoder.image_size)
    with torch.no_grad():
        x, shown = encoder.model.forward_intermediates(pixels, norm=False, output_fmt="NLC")
        for layer in (-1, -2):
            assert_same(encoder.patches(pixels, layer=layer).tokens, shown[layer])
        assert_same(encoder.patches(pixels, layer=None).tokens, x[:, encoder.num_prefix_tokens :])
    assert encoder.num_prefix_tokens and isinstance(encoder.model, timm.models.VisionTransformer | timm.models.Eva)


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_convnext", "vig_nano", "pvig_nano"])
def test_encoders_whose_layers_differ_show_their_last_tokens(name):
    encoder = zoo.create_model(name)
    pixels = torch.randn(1, 3, encoder.image_size, encoder.image_size)
    with torch.no_grad():
        assert torch.equal(encode(encoder, pixels, reads="patches", layer=-2).tokens, encoder(pixels).tokens)


@pytest.mark.parametrize("name", ["vit_nano", "timm/test_vit"])
@pytest.mark.parametrize("layer", [-99, 99])
def test_a_layer_that_is_not_there_is_refused_with_those_that_are(name, layer):
    encoder = zoo.create_model(name)
    with pytest.raises(ConfigError, match=rf"layer {layer}: there are \d+ blocks; allowed is -"):
        encoder.patches(torch.zeros(1, 3, encoder.image_size, encoder.image_size), layer=layer)


def build(name):
    row = find_row(name, "encoder")
    return lambda: build_part("encoder", {"name": row.family, **row.arguments}, "encoder")


def test_the_trial_counts_tokens_and_finds_what_has_no_part_in_them():
    shown = try_patches(build("vit_nano"), -2)
    assert (shown.num_tokens, shown.dim) == (16, 64)
    assert {name.split(".")[0] for name in shown.unused} == {"blocks", "norm"}
    assert all(name.startswith(("blocks.1.", "norm.")) for name in shown.unused)
    assert try_patches(build("vit_nano"), None).unused == ()
    assert try_patches(build("pvig_nano"), -2).num_tokens == 16


def test_the_trial_draws_no_random_number():
    state = torch.get_rng_state()
    for name in ("vit_nano", "vig_nano", "timm/test_vit", "whisper_nano_encoder"):
        try_patches(build(name), -2)
    assert torch.equal(torch.get_rng_state(), state)
