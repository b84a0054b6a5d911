"""timm's VisionTransformer against our ``vit``, through the converter."""

import pytest
import torch
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

from zoo.errors import WeightsError
from zoo.interop.vit import timm_vit
from zoo.registry.construct import build_part
from zoo.storage.tensors import load_strictly

SIZE, PATCH = 42, 14
THEIRS = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 0, "dynamic_img_size": True}
OURS = {"name": "vit", "image_size": SIZE, "patch_size": PATCH, "dim": 48, "depth": 3, "num_heads": 3}
NO_CLASS = {"class_token": False}
REGISTERS = {"reg_tokens": 2, "no_embed_class": True}
FLAVOURS = {  # name: (arguments of timm's, arguments of ours)
    "class token": ({}, {"pool": "cls"}),
    "mean, then norm": ({"global_pool": "avg"}, {"pool": "mean_norm"}),
    "norm, then mean": ({"global_pool": "avg", "fc_norm": False}, {"pool": "mean"}),
    "mean without class token": ({"global_pool": "avg", "fc_norm": False, **NO_CLASS}, {"pool": "mean", **NO_CLASS}),
    "attention pool": ({"global_pool": "map"}, {"pool": "attention"}),
    "attention pool without class token": ({"global_pool": "map", **NO_CLASS}, {"pool": "attention", **NO_CLASS}),
    "registers": (REGISTERS, {"num_registers": 2}),
    "registers and mean": ({"global_pool": "avg", **REGISTERS}, {"pool": "mean_norm", "num_registers": 2}),
    "registers and attention pool": ({"global_pool": "map", **REGISTERS}, {"pool": "attention", "num_registers": 2}),
    "class token without position": ({"no_embed_class": True}, {}),
    "layer scale": ({"init_values": 0.1}, {"layer_scale": 0.1}),
    "norm before the blocks": ({"pre_norm": True}, {"pre_norm": True, "patch_bias": False}),
    "narrow mlp": ({"mlp_ratio": 2.5}, {"mlp_ratio": 2.5}),
    "gated mlp": (
        {"mlp_ratio": 4.0, "mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU},
        {"mlp_ratio": 2.0, "activation": "swiglu"},
    ),
}
EVERY_FLAVOUR = pytest.mark.parametrize("flavour", FLAVOURS)


@pytest.fixture
def pair(scramble):
    """A small model of timm with random weights, and ours with the same."""

    def make(flavour, **more):
        theirs, ours = FLAVOURS[flavour]
        reference = scramble(VisionTransformer(**{**THEIRS, **theirs, **more}))
        model = build_part("encoder", {**OURS, **ours}, "encoder").eval()
        load_strictly(model, timm_vit.to_zoo(reference.state_dict()), origin="timm")
        return reference, model

    return make


@torch.no_grad()
def assert_equal_outputs(reference, model, pixels):
    tokens = reference.forward_features(pixels)
    found = model(pixels)
    torch.testing.assert_close(found.tokens, tokens, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.pooled, reference.forward_head(tokens, pre_logits=True), atol=1e-5, rtol=0)


@EVERY_FLAVOUR
def test_tokens_and_pooled_vector_equal_timm(pair, flavour):
    assert_equal_outputs(*pair(flavour), torch.randn(2, 3, SIZE, SIZE))


@pytest.mark.parametrize("flavour", ["class token", "mean without class token", "registers"])
@pytest.mark.parametrize("shape", [(28, 70), (84, 42), (14, 28)])
def test_positions_are_resized_as_in_timm(pair, flavour, shape):
    assert_equal_outputs(*pair(flavour), torch.randn(2, 3, *shape))


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("flavour", ["class token", "registers", "mean without class token", "mean, then norm"])
@torch.no_grad()
def test_tokens_after_each_block_equal_timm(pair, close, flavour, normalise):
    reference, model = pair(flavour)
    pixels, kinds = torch.randn(2, 3, 28, 70), {"output_fmt": "NLC", "intermediates_only": True}
    expected = reference.forward_intermediates(pixels, norm=normalise, return_prefix_tokens=True, **kinds)
    for found, theirs in zip(model.intermediates(pixels, normalise=normalise), expected, strict=True):
        patches, prefix = theirs if isinstance(theirs, tuple) else (theirs, theirs[:, :0])  # without prefix tokens no pair
        close(found, torch.cat([prefix, patches], dim=1))


@torch.no_grad()
def test_some_layers_equal_timms_get_intermediate_layers(pair):
    reference, model = pair("registers")
    pixels = torch.randn(2, 3, SIZE, SIZE)
    expected = reference.get_intermediate_layers(pixels, n=[0, 2], norm=True)
    for found, patches in zip(model.intermediates(pixels, [0, -1], normalise=True), expected, strict=True):
        torch.testing.assert_close(found[:, model.num_prefix_tokens :], patches, atol=1e-5, rtol=1e-5)


def test_tanh_gelu_equals_timm(scramble):
    reference = scramble(VisionTransformer(**THEIRS, act_layer="gelu_tanh"))
    model = build_part("encoder", {**OURS, "activation": "gelu_tanh"}, "encoder").eval()
    load_strictly(model, timm_vit.to_zoo(reference.state_dict()), origin="timm")
    assert_equal_outputs(reference, model, torch.randn(2, 3, SIZE, SIZE))


@EVERY_FLAVOUR
def test_timm_to_zoo_and_back_is_the_same_bit_for_bit(pair, same_state, flavour):
    reference, model = pair(flavour)
    no_embed_class = FLAVOURS[flavour][0].get("no_embed_class", False)
    same_state(timm_vit.from_zoo(model.state_dict(), no_embed_class=no_embed_class), reference.state_dict())


def test_our_weights_run_in_a_timm_model_whose_class_token_has_no_position(pair, scramble):
    reference, model = pair("registers")
    scramble(model)
    reference.load_state_dict(timm_vit.from_zoo(model.state_dict(), no_embed_class=True))
    assert_equal_outputs(reference, model, torch.randn(2, 3, SIZE, SIZE))


def test_a_classifier_is_reported_unless_the_caller_drops_it(scramble):
    state = scramble(VisionTransformer(**{**THEIRS, "num_classes": 7})).state_dict()
    with pytest.raises(WeightsError, match=r"2 unknown \(head.bias, head.weight\)"):
        timm_vit.to_zoo(state)
    bare = {name: tensor for name, tensor in state.items() if "head" not in name}
    assert timm_vit.to_zoo(state, drop=timm_vit.CLASSIFIER).keys() == timm_vit.to_zoo(bare).keys()


@torch.no_grad()
def test_pooled_vector_through_the_classifier_gives_timms_logits(scramble, same_state):
    reference = scramble(VisionTransformer(**{**THEIRS, "num_classes": 7}))
    state, pixels = reference.state_dict(), torch.randn(2, 3, SIZE, SIZE)
    model = build_part("encoder", OURS, "encoder").eval()
    load_strictly(model, timm_vit.to_zoo(state, drop=timm_vit.CLASSIFIER), origin="timm")
    head = timm_vit.classifier_to_zoo(state)
    logits = torch.nn.functional.linear(model(pixels).pooled, head["linear.weight"], head["linear.bias"])
    torch.testing.assert_close(logits, reference(pixels), atol=1e-5, rtol=1e-5)
    same_state({**timm_vit.from_zoo(model.state_dict()), **timm_vit.classifier_from_zoo(head)}, state)
    assert timm_vit.classifier_to_zoo(timm_vit.from_zoo(model.state_dict())) == {}


@pytest.mark.parametrize("registers", [0, 2])
def test_metas_own_files_of_dinov2_give_what_timm_makes_of_them(scramble, registers):
    options = {"init_values": 0.1, "mlp_ratio": 4.0, "mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU}
    options |= {"reg_tokens": registers, "no_embed_class": registers > 0}
    reference = scramble(VisionTransformer(**THEIRS, **options))
    state = {name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): t for name, t in reference.state_dict().items()}
    state["mask_token"] = torch.randn(1, 48)
    if registers:
        state["register_tokens"], state["pos_embed"] = state.pop("reg_token"), torch.randn(1, 10, 48)
    gated = {"activation": "swiglu", "mlp_ratio": 2.0, "layer_scale": 0.1, "num_registers": registers}
    model = build_part("encoder", {**OURS, **gated}, "encoder").eval()
    load_strictly(model, timm_vit.to_zoo(state), origin="dinov2")
    reference.load_state_dict(checkpoint_filter_fn(dict(state), reference))
    assert_equal_outputs(reference, model, torch.randn(2, 3, SIZE, SIZE))


def test_weights_that_normalise_the_mean_do_not_load_where_tokens_are_normalised(pair):
    reference, _ = pair("mean, then norm")
    model = build_part("encoder", {**OURS, "pool": "mean"}, "encoder")
    with pytest.raises(WeightsError, match="norm"):
        load_strictly(model, timm_vit.to_zoo(reference.state_dict()), origin="timm")


def test_registers_with_positions_do_not_load(scramble):
    reference = scramble(VisionTransformer(**THEIRS, reg_tokens=2))
    model = build_part("encoder", {**OURS, "num_registers": 2}, "encoder")
    with pytest.raises(WeightsError, match="positions"):
        load_strictly(model, timm_vit.to_zoo(reference.state_dict()), origin="timm")


def test_keys_of_others_are_not_recognised(pair):
    reference, model = pair("class token")
    assert timm_vit.recognises(reference.state_dict()) and not timm_vit.recognises(model.state_dict())
