"""transformers' ViTModel and ViTForImageClassification against our ``vit``, through the converter."""

import inspect
import json

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)
from transformers.activations import ACT2FN

from zoo.encoders.vit import ViT
from zoo.errors import ConfigError, WeightsError
from zoo.interop.base.format import KEYS_SAY
from zoo.interop.base.recognise import find_format, formats
from zoo.interop.base.source import read_source
from zoo.interop.base.transformers_config import ACTIVATIONS, THEIR_ACTIVATIONS
from zoo.interop.vit import transformers_vit
from zoo.interop.vit.format import NAMES
from zoo.layers.mlp import find_activation
from zoo.registry.construct import build_part
from zoo.storage.tensors import load_strictly, read_tensors, write_tensors

SIZE, PATCH = 42, 14
SIZES = {"image_size": SIZE, "patch_size": PATCH, "hidden_size": 60, "num_attention_heads": 5, "num_hidden_layers": 3}
CONFIG = {**SIZES, "intermediate_size": 100, "attn_implementation": "eager"}  # 100 is no multiple of 60
FLAVOURS = {
    "pooler": lambda: ViTModel(ViTConfig(**CONFIG)),
    "no pooler": lambda: ViTModel(ViTConfig(**CONFIG), add_pooling_layer=False),
    "classifier": lambda: ViTForImageClassification(ViTConfig(**CONFIG, num_labels=7)),
    "tanh gelu and another eps": lambda: ViTModel(ViTConfig(**CONFIG, hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-3)),
}
EVERY_FLAVOUR = pytest.mark.parametrize("flavour", FLAVOURS)


def ours_of(reference):
    """Our encoder, made from the reference's config, with its weights."""
    state = reference.state_dict()
    model = build_part("encoder", {"name": "vit", **transformers_vit.arguments(reference.config.to_dict(), state)}, "encoder").eval()
    load_strictly(model, transformers_vit.to_zoo(state, drop=transformers_vit.CLASSIFIER), origin="transformers")
    return model


@pytest.fixture
def pair(scramble):
    """A small model of transformers with random weights, and ours with the same."""

    def make(flavour):
        reference = scramble(FLAVOURS[flavour]())
        return reference, ours_of(reference)

    return make


def prefix_of(reference):
    return "vit." if isinstance(reference, ViTForImageClassification) else ""


@EVERY_FLAVOUR
@pytest.mark.parametrize("shape", [(42, 42), (28, 70), (84, 14), (14, 126), (98, 98)])
@torch.no_grad()
def test_tokens_and_pooled_vector_equal_transformers_at_any_size(pair, flavour, shape):
    reference, model = pair(flavour)
    pixels = torch.randn(2, 3, *shape)
    found = model(pixels)
    body = getattr(reference, "vit", reference)
    expected = body(pixels, interpolate_pos_encoding=True)
    torch.testing.assert_close(found.tokens, expected.last_hidden_state, atol=1e-5, rtol=1e-5)
    pooled = expected.last_hidden_state[:, 0] if expected.pooler_output is None else expected.pooler_output
    torch.testing.assert_close(found.pooled, pooled, atol=1e-5, rtol=1e-5)


@EVERY_FLAVOUR
@torch.no_grad()
def test_every_layer_and_its_attention_equal_transformers(pair, close, flavour):
    reference, model = pair(flavour)
    pixels = torch.randn(2, 3, 28, 70)
    expected = reference(pixels, interpolate_pos_encoding=True, output_hidden_states=True, output_attentions=True)
    for found, tokens in zip(model.intermediates(pixels), expected.hidden_states[1:], strict=True):
        close(found, tokens)
    for found, weights in zip(model.attention_maps(pixels), expected.attentions, strict=True):
        assert found.shape == (2, 5, 11, 11)
        torch.testing.assert_close(found, weights, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_pooled_vector_through_the_classifier_gives_their_logits(pair, same_state):
    reference, model = pair("classifier")
    state, pixels = reference.state_dict(), torch.randn(2, 3, SIZE, SIZE)
    head = transformers_vit.classifier_to_zoo(state)
    logits = torch.nn.functional.linear(model(pixels).pooled, head["linear.weight"], head["linear.bias"])
    torch.testing.assert_close(logits, reference(pixels).logits, atol=1e-5, rtol=1e-5)
    whole = {**transformers_vit.from_zoo(model.state_dict(), prefix="vit.", in_memory=True), **transformers_vit.classifier_from_zoo(head)}
    same_state(whole, state)


def test_a_model_without_classifier_gives_none(pair):
    assert transformers_vit.classifier_to_zoo(pair("pooler")[0].state_dict()) == {}


@EVERY_FLAVOUR
def test_transformers_to_zoo_and_back_is_the_same_bit_for_bit_in_both_spellings(pair, same_state, flavour, tmp_path):
    reference, model = pair(flavour)
    reference.save_pretrained(tmp_path)
    file = read_tensors(tmp_path / "model.safetensors")
    drop = transformers_vit.CLASSIFIER
    same_state(transformers_vit.to_zoo(file, drop=drop), model.state_dict())
    for expected, in_memory in ((file, False), (reference.state_dict(), True)):
        found = transformers_vit.from_zoo(model.state_dict(), prefix=prefix_of(reference), in_memory=in_memory)
        same_state(found, {name: tensor for name, tensor in expected.items() if not name.startswith("classifier.")})


def test_both_spellings_and_both_prefixes_mean_the_same(pair, same_state):
    _, model = pair("pooler")
    for prefix in ("", "vit."):
        for in_memory in (False, True):
            theirs = transformers_vit.from_zoo(model.state_dict(), prefix=prefix, in_memory=in_memory)
            assert transformers_vit.recognises(theirs)
            same_state(transformers_vit.to_zoo(theirs), model.state_dict())


@pytest.mark.parametrize("flavour", ["pooler", "tanh gelu and another eps"])
def test_transformers_loads_what_we_export(pair, scramble, flavour, tmp_path):
    _, model = pair(flavour)
    scramble(model)
    arguments = transformers_vit.arguments(FLAVOURS[flavour]().config.to_dict())
    (tmp_path / "config.json").write_text(json.dumps(transformers_vit.config(arguments)))
    write_tensors(transformers_vit.from_zoo(model.state_dict()), tmp_path / "model.safetensors")
    reference, report = ViTModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    pixels = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels).pooled, reference.eval()(pixels).pooler_output, atol=1e-5, rtol=1e-5)


def test_parts_without_a_place_are_reported_unless_the_caller_drops_them(pair):
    state = pair("classifier")[0].state_dict()
    with pytest.raises(WeightsError, match=r"2 unknown \(classifier.bias, classifier.weight\)"):
        transformers_vit.to_zoo(state)
    with pytest.raises(WeightsError, match=r"1 unknown \(vit.embeddings.mask_token\)"):
        transformers_vit.to_zoo({**state, "vit.embeddings.mask_token": torch.ones(1, 1, 60)}, drop=["classifier"])
    del state["vit.layers.1.attention.k_proj.bias"]
    with pytest.raises(WeightsError, match=r"1 missing \(vit.layers.1.attention.k_proj.bias\)"):
        transformers_vit.to_zoo(state, drop=["classifier"])


def test_the_pooler_is_known_by_the_weights_or_else_by_the_architecture():
    bare = {"model_type": "vit"}
    assert transformers_vit.arguments(bare)["pool"] == "cls_tanh"
    assert transformers_vit.arguments({**bare, "architectures": ["ViTForImageClassification"]})["pool"] == "cls"
    assert transformers_vit.arguments(bare, ["embeddings.cls_token"])["pool"] == "cls"
    assert (
        transformers_vit.arguments({**bare, "architectures": ["ViTForImageClassification"]}, ["vit.pooler.dense.bias"])["pool"]
        == "cls_tanh"
    )


def test_what_a_config_leaves_out_has_the_default_of_transformers():
    assert transformers_vit.arguments({"model_type": "vit"}) == transformers_vit.arguments(ViTConfig().to_dict())


def test_arguments_say_every_keyword_that_shapes_the_function():
    training_only = {"drop_path", "init", "preprocessing"} | {key for key in inspect.signature(ViT).parameters if key.startswith("pool_")}
    assert set(transformers_vit.arguments({"model_type": "vit"})) == set(inspect.signature(ViT).parameters) - training_only


def test_config_is_the_way_back_from_arguments():
    arguments = transformers_vit.arguments({"model_type": "vit", **SIZES, "intermediate_size": 100, "hidden_act": "gelu_new"})
    assert transformers_vit.arguments(transformers_vit.config(arguments)) == arguments
    assert transformers_vit.config(arguments).items() <= ViTConfig(**transformers_vit.config(arguments)).to_dict().items()


def test_equal_sides_are_one_side():
    found = transformers_vit.arguments({"model_type": "vit", "image_size": [224, 224], "patch_size": [32, 32]})
    assert (found["image_size"], found["patch_size"], found["drop_remainder"]) == (224, 32, False)
    assert transformers_vit.arguments({"model_type": "vit", "patch_size": 15})["drop_remainder"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model_type", "vitt", "model_type: got 'vitt'; did you mean 'vit'"),
        ("image_size", [224, 196], r"image_size: got \[224, 196\]; our vit takes squares"),
        ("patch_size", [16, 8], r"patch_size: got \[16, 8\]"),
        ("num_channels", 1, "num_channels: got 1, which our vit does not have; allowed is 3"),
        ("qkv_bias", False, "qkv_bias: got False, which our vit does not have; allowed is True"),
        ("hidden_act", "gelu_pytorch", "hidden_act: our vit has no 'gelu_pytorch'; did you mean 'gelu_pytorch_tanh'"),
        ("pooler_act", "relu", "pooler_act: got 'relu'.*allowed is 'tanh'"),
        ("pooler_output_size", 10, "pooler_output_size: got 10"),
        ("hidden_size", "wide", "hidden_size: got 'wide'; allowed is a whole number"),
    ],
)
def test_configs_that_our_vit_cannot_express_are_refused(key, value, message):
    with pytest.raises(ConfigError, match=message):
        transformers_vit.arguments({"model_type": "vit", key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [("pool", "mean"), ("class_token", False), ("pre_norm", True), ("num_registers", 4), ("layer_scale", 0.1), ("activation", "swiglu")],
)
def test_encoders_that_a_vit_model_cannot_express_are_refused(key, value):
    with pytest.raises(ConfigError, match=f"{key}: got {value!r}, which transformers' ViTModel does not have"):
        transformers_vit.config({**transformers_vit.arguments({"model_type": "vit"}), key: value})


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_of_equal_meaning_are_equal(name):
    x = torch.linspace(-6, 6, 1001)
    expected = ACT2FN[name](x)
    torch.testing.assert_close(find_activation(ACTIVATIONS[name])(x), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ACT2FN[THEIR_ACTIVATIONS[ACTIVATIONS[name]]](x), expected, atol=1e-6, rtol=1e-5)


def references():
    """One small model of every image family."""
    yield from (make() for make in FLAVOURS.values())
    yield Dinov2Model(Dinov2Config(**SIZES))
    yield Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SIZES))
    yield CLIPVisionModel(CLIPVisionConfig(**SIZES, intermediate_size=100))
    yield SiglipVisionModel(SiglipVisionConfig(**SIZES, intermediate_size=100))
    yield VisionTransformer(img_size=SIZE, patch_size=PATCH, embed_dim=60, num_heads=5, depth=1)


def test_weights_are_recognised_by_one_format_and_one_naming_alone(tmp_path):
    def source_of(tensors, name):
        write_tensors(tensors, tmp_path / f"{name}.safetensors")
        return read_source(tmp_path / f"{name}.safetensors")

    for number, reference in enumerate(references()):
        source = source_of(reference.state_dict(), number)
        assert [name for name, each in formats().items() if each.recognises(source) >= KEYS_SAY] == ["vit"], type(reference).__name__
        assert sum(names.recognises(source.keys) for names in NAMES) == 1, type(reference).__name__
    assert find_format(source_of(ours_of(FLAVOURS["pooler"]()).state_dict(), "ours")).name == "zoo_checkpoint"
