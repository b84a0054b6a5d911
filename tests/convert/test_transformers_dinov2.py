"""transformers' Dinov2Model and Dinov2WithRegistersModel against our ``vit``, through the converter."""

import inspect
import json

import pytest
import torch
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    Dinov2WithRegistersModel,
)

from zoo.assembly.create import create_model
from zoo.encoders.vit import ViT
from zoo.errors import ConfigError, WeightsError
from zoo.interop.vit import transformers_dinov2
from zoo.layers.meta import meta_device
from zoo.registry.construct import build_part
from zoo.storage.tensors import load_strictly, read_tensors, write_tensors

SIZE, PATCH = 42, 14
CONFIG = {"image_size": SIZE, "patch_size": PATCH, "hidden_size": 60, "num_attention_heads": 5, "num_hidden_layers": 3}
CONFIG |= {"layerscale_value": 0.5, "attn_implementation": "eager"}
FLAVOURS = {
    "plain": lambda: Dinov2Model(Dinov2Config(**CONFIG)),
    "swiglu": lambda: Dinov2Model(Dinov2Config(**CONFIG, use_swiglu_ffn=True, mlp_ratio=3)),
    "tanh gelu, narrow, another eps": lambda: Dinov2Model(Dinov2Config(**CONFIG, hidden_act="gelu_new", mlp_ratio=2, layer_norm_eps=1e-3)),
    "four registers": lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**CONFIG)),
    "one register, swiglu": lambda: Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(**CONFIG, num_register_tokens=1, use_swiglu_ffn=True)
    ),
}
CLASSIFIERS = {
    "dinov2.": lambda: Dinov2ForImageClassification(Dinov2Config(**CONFIG, num_labels=7)),
    "dinov2_with_registers.": lambda: Dinov2WithRegistersForImageClassification(Dinov2WithRegistersConfig(**CONFIG, num_labels=7)),
}
EVERY_FLAVOUR = pytest.mark.parametrize("flavour", FLAVOURS)
EVERY_CLASSIFIER = pytest.mark.parametrize("prefix", CLASSIFIERS)


@pytest.fixture
def pair(scramble):
    """Make a small random model of transformers, and load ours from its config and weights only."""

    def make(factory):
        reference = scramble(factory())
        for name, parameter in reference.named_parameters():
            if name.endswith("mask_token"):
                parameter.data.zero_()  # as in every published file; ours has no place for another
        model = build_part("encoder", {"name": "vit", **transformers_dinov2.arguments(reference.config.to_dict())}, "encoder").eval()
        load_strictly(model, transformers_dinov2.to_zoo(reference.state_dict(), drop=transformers_dinov2.CLASSIFIER), origin="transformers")
        return reference, model

    return make


@EVERY_FLAVOUR
@pytest.mark.parametrize("shape", [(42, 42), (28, 70), (84, 14), (14, 126), (98, 98)])
@torch.no_grad()
def test_tokens_and_pooled_vector_equal_transformers_at_any_size(pair, flavour, shape):
    reference, model = pair(FLAVOURS[flavour])
    pixels = torch.randn(2, 3, *shape)
    found, expected = model(pixels), reference(pixels)
    torch.testing.assert_close(found.tokens, expected.last_hidden_state, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.pooled, expected.pooler_output, atol=1e-5, rtol=1e-5)


@EVERY_FLAVOUR
@torch.no_grad()
def test_every_layer_and_its_attention_equal_transformers(pair, close, flavour):
    reference, model = pair(FLAVOURS[flavour])
    pixels = torch.randn(2, 3, 28, 70)
    expected = reference(pixels, output_hidden_states=True, output_attentions=True)
    for found, tokens in zip(model.intermediates(pixels), expected.hidden_states[1:], strict=True):
        close(found, tokens)
    for found, weights in zip(model.attention_maps(pixels), expected.attentions, strict=True):
        torch.testing.assert_close(found, weights, atol=1e-5, rtol=1e-5)


@EVERY_FLAVOUR
def test_transformers_to_zoo_and_back_is_the_same_bit_for_bit(pair, same_state, flavour):
    reference, model = pair(FLAVOURS[flavour])
    same_state(transformers_dinov2.from_zoo(model.state_dict()), reference.state_dict())


@EVERY_FLAVOUR
def test_a_saved_file_converts_as_the_model_in_memory(pair, same_state, flavour, tmp_path):
    reference, model = pair(FLAVOURS[flavour])
    reference.save_pretrained(tmp_path)
    same_state(transformers_dinov2.to_zoo(read_tensors(tmp_path / "model.safetensors")), model.state_dict())
    found = transformers_dinov2.arguments(json.loads((tmp_path / "config.json").read_text()))
    assert found == transformers_dinov2.arguments(reference.config.to_dict())


@EVERY_FLAVOUR
def test_transformers_loads_what_we_export(pair, scramble, flavour, tmp_path):
    reference, model = pair(FLAVOURS[flavour])
    scramble(model)
    config = transformers_dinov2.config(transformers_dinov2.arguments(reference.config.to_dict()))
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_tensors(transformers_dinov2.from_zoo(model.state_dict()), tmp_path / "model.safetensors")
    again, report = type(reference).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    pixels = torch.randn(2, 3, 28, 70)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels).tokens, again.eval()(pixels).last_hidden_state, atol=1e-5, rtol=1e-5)


@EVERY_CLASSIFIER
@torch.no_grad()
def test_the_body_of_a_classifier_converts_and_its_head_is_refused(pair, same_state, prefix):
    reference, model = pair(CLASSIFIERS[prefix])
    state, pixels = reference.state_dict(), torch.randn(2, 3, SIZE, SIZE)
    body = reference.get_submodule(prefix[:-1])
    torch.testing.assert_close(model(pixels).tokens, body(pixels).last_hidden_state, atol=1e-5, rtol=1e-5)
    head = {name: state[name] for name in ("classifier.weight", "classifier.bias")}
    same_state({**transformers_dinov2.from_zoo(model.state_dict(), prefix=prefix), **head}, state)
    with pytest.raises(WeightsError, match=r"2 unknown \(classifier.bias, classifier.weight\)"):
        transformers_dinov2.to_zoo(state)
    with pytest.raises(WeightsError, match="reads class token and mean of the patches"):
        transformers_dinov2.classifier_to_zoo(state)


def test_a_model_without_classifier_gives_none(pair):
    assert transformers_dinov2.classifier_to_zoo(pair(FLAVOURS["plain"])[0].state_dict()) == {}


@pytest.mark.parametrize("config", [Dinov2Config(), Dinov2WithRegistersConfig()], ids=lambda config: config.model_type)
def test_what_a_config_leaves_out_has_the_default_of_transformers(config):
    assert transformers_dinov2.arguments({"model_type": config.model_type}) == transformers_dinov2.arguments(config.to_dict())


def test_arguments_say_every_keyword_that_shapes_the_function():
    training_only = {"drop_path", "init", "preprocessing"} | {key for key in inspect.signature(ViT).parameters if key.startswith("pool_")}
    assert set(transformers_dinov2.arguments({"model_type": "dinov2"})) == set(inspect.signature(ViT).parameters) - training_only


@EVERY_FLAVOUR
def test_config_is_the_way_back_from_arguments(flavour):
    theirs = FLAVOURS[flavour]().config.to_dict()
    arguments = transformers_dinov2.arguments(theirs)
    back = transformers_dinov2.config(arguments)
    assert transformers_dinov2.arguments(back) == arguments
    assert {key: theirs[key] for key in ("mlp_ratio", "use_swiglu_ffn", "layerscale_value", "model_type")}.items() <= back.items()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "dinov3_vit"}, "model_type: got 'dinov3_vit'; did you mean 'dinov2'"),
        ({"model_type": "dinov2", "image_size": [518, 224]}, r"image_size: got \[518, 224\]; our vit takes squares"),
        ({"model_type": "dinov2", "qkv_bias": False}, "qkv_bias: got False"),
        ({"model_type": "dinov2", "hidden_act": "tanh"}, "hidden_act: our vit has no 'tanh'"),
        (
            {"model_type": "dinov2_with_registers", "num_register_tokens": 0},
            "num_register_tokens: got 0; allowed is a whole number above 0",
        ),
    ],
)
def test_configs_that_our_vit_cannot_express_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        transformers_dinov2.arguments(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool": "mean"}, "pool: got 'mean', which transformers' DINOv2 does not have; allowed is 'cls'"),
        ({"layer_scale": None}, "layer_scale: got null"),
        ({"pre_norm": True}, "pre_norm: got True"),
        ({"mlp_ratio": 2.5}, "mlp_ratio: 1920 hidden channels of 768"),
        ({"mlp_ratio": 2.5, "activation": "swiglu"}, "two thirds, rounded up to a multiple of 8"),
    ],
)
def test_encoders_that_dinov2_cannot_express_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        transformers_dinov2.config({**transformers_dinov2.arguments({"model_type": "dinov2"}), **changes})


def test_weights_without_class_token_are_refused(pair):
    state = pair(FLAVOURS["plain"])[1].state_dict()
    del state["class_token"]
    with pytest.raises(WeightsError, match="no class_token"):
        transformers_dinov2.from_zoo(state)


@pytest.mark.parametrize(
    ("row", "build"),
    [
        ("vit_small_patch14_dinov2", lambda config: Dinov2Model(Dinov2Config(**config))),
        ("vit_giant_patch14_dinov2", lambda config: Dinov2Model(Dinov2Config(**config))),
        ("vit_giant_patch14_reg4_dinov2", lambda config: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**config))),
    ],
)
def test_rows_of_the_table_are_models_of_transformers(row, build):
    model = create_model(row, device="meta")
    defaults = {name: parameter.default for name, parameter in inspect.signature(ViT).parameters.items()}
    with meta_device():
        reference = build(transformers_dinov2.config({**defaults, **model.config["encoder"]}))
    theirs = {name: tensor.shape for name, tensor in reference.state_dict().items()}
    assert {name: tensor.shape for name, tensor in transformers_dinov2.from_zoo(model.state_dict()).items()} == theirs
