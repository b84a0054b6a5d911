"""Invariants of the Vision Transformer; equality with its references is tested in tests/convert."""

import numpy as np
import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

import zoo
from zoo.assembly.summary import count
from zoo.encoders.vit import ViT
from zoo.errors import ConfigError
from zoo.interop.vit import timm_vit
from zoo.layers.attention import Attention, attention_mask
from zoo.layers.meta import meta_device
from zoo.processors.image import ImageProcessor
from zoo.registry import rows
from zoo.registry.construct import build_part

PUBLISHED = [row.name for row in rows("encoder").values() if row.family == "vit" and row.name.startswith(("vit_", "deit_"))]
OWN = ("vit_nano", "vit_digits", "vit_small_patch14_dinov2_l8_112")  # not published
# timm has no towers of language models; tests/convert/test_transformers_vlm.py counts them.
OF_LLAVAS = ("_smolvlm_", "_idefics3_", "_onevision_", "_paligemma_", "_internvl_")  # towers that timm does not list
PUBLISHED = [name for name in PUBLISHED if name not in OWN and not any(word in name for word in (*OF_LLAVAS, "_naflex"))]
SMALL = {"name": "vit", "image_size": 32, "patch_size": 8, "dim": 192, "depth": 2, "num_heads": 3}


def test_each_image_gives_what_it_gives_alone():
    model, pixels = zoo.create_model("vit_nano"), torch.rand(3, 3, 32, 32)
    batch = model(pixels)
    for i in range(3):
        torch.testing.assert_close(model(pixels[i : i + 1]).pooled[0], batch.pooled[i], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("height", "width", "patches"), [(32, 32, 16), (64, 32, 32), (24, 40, 15)])
def test_any_size_that_the_patch_divides_works(height, width, patches):
    assert zoo.create_model("vit_nano")(torch.rand(1, 3, height, width)).tokens.shape == (1, 1 + patches, 64)


def test_a_size_that_the_patch_does_not_divide_is_refused():
    with pytest.raises(zoo.DataError, match="multiples of the patch size 8"):
        zoo.create_model("vit_nano")(torch.rand(1, 3, 33, 32))


def test_pixels_that_fill_no_patch_are_left_out_where_the_config_says_so():
    model, pixels = zoo.create_model("vit_nano", image_size=34, drop_remainder=True), torch.rand(2, 3, 37, 34)
    assert model.positions.shape[1] == 1 + 16
    assert torch.equal(model(pixels).tokens, model(pixels[..., :32, :32]).tokens)
    with pytest.raises(zoo.DataError, match="at least the patch size 8"):
        model(pixels[..., :7, :])


@pytest.mark.parametrize("pool", ["cls", "cls_tanh", "mean", "attention"])
def test_every_pooling_gives_one_vector_and_gradients(pool):
    model = zoo.create_model("vit_nano", pool=pool, num_registers=2, layer_scale=1e-5)
    encoded = model(torch.rand(2, 3, 32, 32))
    assert encoded.pooled.shape == (2, 64) and encoded.tokens.shape == (2, 19, 64)
    encoded.pooled.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_mean_pooling_leaves_class_token_and_registers_out():
    model = zoo.create_model("vit_nano", pool="mean", num_registers=2)
    encoded = model(torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(encoded.pooled, encoded.tokens[:, 3:].mean(1))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"pool": "clss"}, "did you mean 'cls'"),
        ({"init": "jaxx"}, "did you mean 'jax'"),
        ({"class_token": False, "pool": "cls"}, "needs class_token=true"),
        ({"class_token": False, "pool": "cls_tanh"}, "needs class_token=true"),
        ({"activation": "gelu_tan"}, "did you mean 'gelu_tanh'"),
        ({"image_size": 30}, "does not divide image_size 30.*drop_remainder=true"),
        ({"patch_size": 0}, "patch_size: got 0; allowed are whole numbers from 1"),
        ({"patch_size": 64, "drop_remainder": True}, "allowed is 1 to image_size 32"),
    ],
)
def test_wrong_words_and_sizes_are_refused(keywords, message):
    with pytest.raises(zoo.ConfigError, match=message):
        zoo.create_model("vit_nano", **keywords)


def test_drop_path_changes_training_only():
    model, pixels = zoo.create_model("vit_nano", drop_path=0.9), torch.rand(8, 3, 32, 32)
    still = model(pixels).pooled
    assert torch.equal(still, model(pixels).pooled)
    assert not torch.allclose(still, model.train()(pixels).pooled)


def test_the_last_normalised_layer_is_what_forward_gives():
    model, pixels = zoo.create_model("vit_nano", depth=3, num_registers=2), torch.rand(2, 3, 24, 40)
    assert torch.equal(model.intermediates(pixels, [-1], normalise=True)[0], model(pixels).tokens)
    assert not torch.allclose(model.intermediates(pixels, [-1])[0], model(pixels).tokens)


def test_layers_come_in_the_order_asked_for():
    model, pixels = zoo.create_model("vit_nano", depth=4), torch.rand(2, 3, 32, 32)
    every = model.intermediates(pixels)
    assert len(every) == 4
    for found, i in zip(model.intermediates(pixels, [-1, 0, 2, 0]), [3, 0, 2, 0], strict=True):
        assert torch.equal(found, every[i])
    for found, i in zip(model.attention_maps(pixels, [-2, 1]), [2, 1], strict=True):
        assert torch.equal(found, model.attention_maps(pixels)[i])


@pytest.mark.parametrize(("layers", "blocks"), [([1], 2), ([0, -3], 2), ([], 0), (None, 4)])
def test_blocks_behind_the_last_layer_asked_for_are_not_computed(layers, blocks):
    model, ran = zoo.create_model("vit_nano", depth=4), []
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(lambda module, given, output, i=i: ran.append(i))
    model.intermediates(torch.rand(1, 3, 32, 32), layers)
    assert ran == list(range(blocks))


@pytest.mark.parametrize("layers", [[2], [0, -3]])
@pytest.mark.parametrize("verb", ["intermediates", "attention_maps"])
def test_a_layer_that_is_not_there_is_refused(verb, layers):
    with pytest.raises(zoo.ConfigError, match=r"layers: got .*numbers from -2 to 1: there are 2 blocks"):
        getattr(zoo.create_model("vit_nano"), verb)(torch.rand(1, 3, 32, 32), layers)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_values_weighted_by_the_attention_weights_are_what_attention_gives(masked, causal):
    layer, x = Attention(dim=60, num_heads=5), torch.randn(2, 7, 60)
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3]) if masked else None
    weights = layer.weights(x, mask, causal)
    values = layer.qkv(x)[..., 120:].unflatten(-1, (5, 12)).transpose(1, 2)  # [B, heads, tokens, head_dim]
    found = layer.out((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(found, layer(x, mask, causal), atol=1e-6, rtol=1e-5)
    allowed = attention_mask(mask if masked else torch.ones(2, 7, dtype=torch.bool), 7, causal)
    assert (weights.masked_select(~allowed) == 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 5, 7))


def test_jax_init_spreads_weights_as_timm_does_in_its_jax_mode():
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 192, "depth": 2, "num_heads": 3, "num_classes": 0}
    reference = VisionTransformer(**size, reg_tokens=4, no_embed_class=True, weight_init="jax")
    expected = timm_vit.to_zoo(reference.state_dict())
    model = build_part("encoder", {**SMALL, "num_registers": 4, "pool": "cls", "init": "jax"}, "encoder")
    for name, parameter in model.named_parameters():
        # query, key and value are matrices of their own in Google's code; timm fills them as one, which is sqrt(2) narrower
        wider = 2**0.5 if name.endswith("qkv.weight") else 1
        if name == "class_token":
            assert not parameter.any()  # timm: N(0, 1e-6)
        else:
            assert parameter.std().item() == pytest.approx(wider * expected[name].std().item(), rel=0.15), name
            assert (parameter.abs().max().item() == 0) == (expected[name].abs().max().item() == 0), name


@pytest.mark.parametrize(
    ("name", "fan_in", "fan_out"),
    [
        ("blocks.0.attention.qkv", 192, 192),
        ("blocks.1.mlp.fc2", 768, 192),
        ("attention_pool.attention.key_value", 192, 192),
        ("attention_pool.mlp.fc1", 192, 768),
    ],
)
def test_jax_init_draws_from_xaviers_range(name, fan_in, fan_out):
    layer = build_part("encoder", {**SMALL, "pool": "attention", "init": "jax"}, "encoder").get_submodule(name)
    bound = np.sqrt(6 / (fan_in + fan_out))
    for matrix in layer.weight.split(fan_out):
        assert 0.99 * bound < matrix.abs().max() <= bound * (1 + 1e-6)
    assert (layer.bias.abs().max() < 1e-5) and layer.bias.any() == ("mlp" in name)


@pytest.mark.parametrize("init", ["timm", "clip", "jax"])
def test_registers_start_apart_from_each_other(init):
    registers = build_part("encoder", {**SMALL, "num_registers": 3, "init": init}, "encoder").registers[0]
    assert not torch.equal(registers[0], registers[1]) and not torch.equal(registers[1], registers[2])


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_the_parameters_of_timm(name):
    with meta_device():
        reference = timm.create_model(name, num_classes=0, weight_init="skip")
    model = zoo.create_model(name, device="meta")
    added = model.dim if reference.no_embed_class else 0  # there the class token has no position; ours has zeros
    assert count(model) == sum(p.numel() for p in reference.parameters()) + added


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_prepare_images_as_timm_does(name):
    tag = ".laion2b" if name.startswith(("vit_huge", "vit_gi")) else ".openai"
    reference = timm.get_pretrained_cfg(name + tag if "_clip_" in name else name)
    model = zoo.create_model(name, device="meta")
    found = ImageProcessor(image_size=model.image_size, **model.preprocessing)
    assert reference.input_size == (3, found.image_size, found.image_size)
    assert (found.mean, found.std, found.interpolation) == (reference.mean, reference.std, reference.interpolation)
    if "_siglip_" in name:  # prepared as in big_vision, without cutting; timm cuts 0.9
        assert found.resize == "squash"
    elif "_clip_" in name:  # prepared as in CLIP, without margin; timm's 0.9 of B/32 and B/16 is its own
        assert (found.resize, found.crop_fraction) == ("crop", 1.0)
    else:
        assert (found.resize, found.crop_fraction) == ("crop", reference.crop_pct)


def test_the_widest_feed_forward_parts_are_as_published():
    widths = {"vit_so400m_patch14_siglip_384": 4304, "vit_giant_patch14_clip_224": 6144, "vit_gigantic_patch14_clip_224": 8192}
    for name, width in {**widths, "vit_giant_patch14_dinov2": 4096}.items():
        assert zoo.create_model(name, device="meta").blocks[0].mlp.fc2.in_features == width


@pytest.mark.parametrize(("dim", "hidden"), [(1152, 4304), (60, 100), (49, 1), (1408, 6144), (7, 53), (186, 1000)])
def test_a_width_that_is_no_multiple_survives_its_ratio(dim, hidden):
    with meta_device():
        model = ViT(dim=dim, num_heads=1, depth=1, mlp_ratio=hidden / dim)
    assert model.blocks[0].mlp.fc1.out_features == hidden


def test_concat_joins_class_token_and_patch_mean_of_several_blocks():
    torch.manual_seed(0)
    sizes = {"image_size": 28, "patch_size": 14, "dim": 12, "depth": 3, "num_heads": 2, "num_registers": 1}
    model, pixels = ViT(**sizes, pool="concat", pool_layers=(-1, 0)).eval(), torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        last, first = model.intermediates(pixels, [-1, 0], normalise=True)
        parts = torch.cat([last[:, 0], last[:, 2:].mean(1), first[:, 0], first[:, 2:].mean(1)], dim=1)  # one class token, one register
        weights = model.pooler.project
        expected = parts * (1 + model.pooler.standardise.eps) ** -0.5 @ weights.weight.T + weights.bias
        found = model(pixels)
    torch.testing.assert_close(found.pooled, expected, rtol=0, atol=1e-5)
    assert found.pooled.shape == (2, 12)


def test_concat_refuses_layers_that_are_not_there():
    with pytest.raises(ConfigError, match="3"):
        ViT(image_size=28, patch_size=14, dim=12, depth=3, num_heads=2, pool="concat", pool_layers=(3,))
