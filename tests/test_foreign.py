"""``zoo.load`` of directories that transformers saved: the same model from our parts, with its preprocessing."""

import json

import pytest
import torch
import transformers
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTModel,
)

import zoo

SIZES = {"hidden_size": 60, "num_hidden_layers": 2, "num_attention_heads": 5, "image_size": 42, "patch_size": 14}
MODELS = {
    "vit": (ViTModel, ViTConfig(**SIZES, intermediate_size=100)),
    "dinov2": (Dinov2WithRegistersModel, Dinov2WithRegistersConfig(**SIZES, num_register_tokens=4)),
    "clip": (CLIPVisionModel, CLIPVisionConfig(**SIZES, intermediate_size=100)),
    "siglip": (SiglipVisionModel, SiglipVisionConfig(**SIZES, intermediate_size=100)),
}
NAMES = {0: "cat", 1: "dog", 2: "owl"}


@pytest.fixture(autouse=True)
def _no_bars():
    transformers.utils.logging.disable_progress_bar()


def saved(model, directory, **processor):
    model.save_pretrained(directory)
    ViTImageProcessor(**processor).save_pretrained(directory)
    return model.eval()


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_an_encoder_gives_what_transformers_gives_and_is_saved_as_ours(kind, tmp_path, scramble):
    made, config = MODELS[kind]
    reference = saved(scramble(made(config)), tmp_path / "theirs", size={"height": 42, "width": 42})
    pixels = torch.randn(2, 3, 42, 42)
    model = zoo.load(tmp_path / "theirs")
    torch.testing.assert_close(model(pixels).pooled, reference(pixels).pooler_output, rtol=0, atol=1e-5)
    zoo.save(model, tmp_path / "ours")
    again = zoo.load(tmp_path / "ours")
    assert torch.equal(again(pixels).tokens, model(pixels).tokens)
    assert again.processor["image"].settings == model.processor["image"].settings


@torch.no_grad()
def test_a_classifier_becomes_a_system_that_knows_its_classes(tmp_path, scramble):
    config = ViTConfig(**SIZES, intermediate_size=100, id2label=NAMES, label2id={name: i for i, name in NAMES.items()})
    reference = saved(scramble(ViTForImageClassification(config)), tmp_path, size={"height": 42, "width": 42})
    system, pixels = zoo.load(tmp_path), torch.randn(2, 3, 42, 42)
    torch.testing.assert_close(system.logits(pixels), reference(pixels).logits, rtol=0, atol=1e-5)
    assert system.head.class_names == ["cat", "dog", "owl"]


def test_preprocessing_comes_along_even_at_another_size_than_the_positions(tmp_path):
    settings = {"size": {"height": 28, "width": 28}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 3}
    saved(ViTModel(MODELS["vit"][1]), tmp_path, **settings)
    processor = zoo.load(tmp_path).processor["image"]
    assert (processor.image_size, processor.mean, processor.std) == (28, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (processor.interpolation, processor.resize) == ("bicubic", "squash")


@torch.no_grad()
def test_the_directory_is_also_a_source_of_weights(tmp_path, scramble):
    saved(scramble(ViTModel(MODELS["vit"][1])), tmp_path)
    whole = zoo.load(tmp_path)
    model = zoo.create_model(
        "vit_nano", weights=tmp_path, image_size=42, patch_size=14, dim=60, num_heads=5, mlp_ratio=100 / 60, pool="cls_tanh", eps=1e-12
    )
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in whole.state_dict().items())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model_type": "swin"}, zoo.ConfigError, "'swin' cannot be converted .* transformers/"),
        ({"qkv_bias": False}, zoo.ConfigError, "qkv_bias"),
        ({"hidden_size": 64}, (zoo.WeightsError, zoo.ConfigError), "60|does not divide"),
    ],
)
def test_what_cannot_be_built_or_does_not_fit_is_refused(change, error, message, tmp_path):
    saved(ViTModel(MODELS["vit"][1]), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(error, match=message):
        zoo.load(tmp_path)


def test_a_damaged_config_is_refused(tmp_path):
    saved(ViTModel(MODELS["vit"][1]), tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(zoo.WeightsError, match="config.json: is not JSON that can be read"):
        zoo.load(tmp_path)
