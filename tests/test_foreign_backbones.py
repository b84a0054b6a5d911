"""``zoo.load`` of image encoders that no part of ours is: they run in their own library, with what their directory says."""

import json
import logging

import pytest
import timm
import torch
import transformers
from timm.models._hub import save_for_hf

import zoo

SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 80, "image_size": 48, "patch_size": 8}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
KINDS = {  # model type: its config, prefix tokens
    "dinov3_vit": ({**SIZES, "num_register_tokens": 3, "layerscale_value": 0.7, "key_bias": False}, 4),
    "dinov3_convnext": (STAGES, 1),
    "aimv2_vision_model": (SIZES, 0),
    "swinv2": ({"image_size": 48, "patch_size": 4, "embed_dim": 12, "depths": [1, 1], "num_heads": [2, 3], "window_size": 3}, 0),
}
PICTURES = {"size": {"height": 48, "width": 48}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "do_resize": True}


@pytest.fixture(autouse=True)
def _no_bars():
    transformers.utils.logging.disable_progress_bar()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_backbone_gives_what_transformers_gives_and_is_saved_as_ours(kind, tmp_path, scramble):
    settings, prefix = KINDS[kind]
    reference = scramble(transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **settings)), std=0.05)
    reference.save_pretrained(tmp_path / "theirs")
    transformers.ViTImageProcessor(**PICTURES).save_pretrained(tmp_path / "theirs")
    pixels, model = torch.randn(2, 3, 48, 48), zoo.load(tmp_path / "theirs")
    expected = reference(pixels)
    torch.testing.assert_close(model(pixels).tokens, expected.last_hidden_state, rtol=0, atol=1e-5)
    torch.testing.assert_close(model(pixels).pooled, expected.pooler_output, rtol=0, atol=1e-5)
    assert model.num_prefix_tokens == prefix and model.processor["image"].mean == (0.1, 0.2, 0.3)
    zoo.save(model, tmp_path / "ours")
    again = zoo.load(tmp_path / "ours")
    assert (
        torch.equal(again(pixels).tokens, model(pixels).tokens) and again.processor["image"].settings == model.processor["image"].settings
    )


def test_the_head_of_a_backbone_is_left_out_aloud(tmp_path, caplog):
    config = transformers.ConvNextConfig(**STAGES)
    transformers.ConvNextForImageClassification(config).save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, "zoo"):
        assert zoo.load(tmp_path).dim == 32
    assert "not used: of ConvNextForImageClassification, its head is left out" in caplog.text


@pytest.mark.parametrize("name", ["test_vit2", "test_convnext"])
@torch.no_grad()
def test_an_encoder_that_timm_saved_is_loaded_with_its_preprocessing(name, tmp_path, scramble):
    reference = scramble(timm.create_model(name, num_classes=0))
    reference.pretrained_cfg |= {"mean": (0.1, 0.2, 0.3), "crop_pct": 0.5, "interpolation": "bilinear"}
    save_for_hf(reference, tmp_path, safe_serialization=True)
    model = zoo.load(tmp_path)
    pixels = torch.randn(2, 3, model.image_size, model.image_size)
    torch.testing.assert_close(model(pixels).pooled, reference(pixels), rtol=0, atol=1e-5)
    processor = model.processor["image"]
    assert (processor.mean, processor.crop_fraction, processor.interpolation) == ((0.1, 0.2, 0.3), 0.5, "bilinear")


def test_models_that_are_no_image_encoder_are_refused_with_the_way_out(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "prophetnet", "architectures": ["ProphetNetModel"]}))
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(zoo.ConfigError, match="model_type 'prophetnet' cannot be converted to parts of ours"):
        zoo.load(tmp_path)
