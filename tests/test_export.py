"""``zoo.export``: the other library runs what we wrote, and we read it back."""

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file

import zoo
from zoo.commands.cli import main

SIZES = {"image_size": 42, "patch_size": 14, "dim": 60, "num_heads": 5, "preprocessing": {"mean": [0.5, 0.5, 0.5], "crop_fraction": 0.875}}
CLIP = {"pre_norm": True, "patch_bias": False, "pool": "cls", "eps": 1e-5}
FORMS = {  # transformers' class: keywords of ours
    "ViTModel": {"pool": "cls_tanh"},
    "Dinov2Model": {"pool": "cls", "layer_scale": 0.5},
    "Dinov2WithRegistersModel": {"pool": "cls", "layer_scale": 0.5, "num_registers": 3},
    "CLIPVisionModel": CLIP,
    "SiglipVisionModel": {"class_token": False, "pool": "attention"},
}


@pytest.fixture(autouse=True)
def _no_bars():
    transformers.utils.logging.disable_progress_bar()


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_transformers_runs_an_exported_encoder_and_we_read_it_back(form, tmp_path, scramble):
    model, pixels = scramble(zoo.create_model("vit_nano", **SIZES, **FORMS[form])), torch.randn(2, 3, 42, 42)
    zoo.export(model, tmp_path / "out")
    reference, report = getattr(transformers, form).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    torch.testing.assert_close(reference.eval()(pixels).pooler_output, model(pixels).pooled, rtol=0, atol=1e-5)
    again = zoo.load(tmp_path / "out")
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in again.state_dict().items())
    settings = again.processor["image"].settings
    assert (settings["mean"], settings["crop_fraction"], settings["resize"]) == ([0.5, 0.5, 0.5], 0.875, "crop")


@torch.no_grad()
def test_a_classifier_goes_to_transformers_and_timm(tmp_path, scramble):
    config = {
        "encoders": {"image": {"name": "vit", **SIZES, "depth": 2, "mlp_ratio": 2.0}},
        "head": {"name": "classifier", "num_classes": 3},
    }
    config["head"]["class_names"] = ["cat", "dog", "owl"]
    system, pixels = scramble(zoo.create_system(config)), torch.randn(2, 3, 42, 42)
    zoo.export(system, tmp_path / "hf")
    reference = transformers.ViTForImageClassification.from_pretrained(tmp_path / "hf").eval()
    torch.testing.assert_close(reference(pixels).logits, system.logits(pixels), rtol=0, atol=1e-5)
    assert reference.config.id2label == {0: "cat", 1: "dog", 2: "owl"} and zoo.load(tmp_path / "hf").head.class_names == [
        "cat",
        "dog",
        "owl",
    ]
    zoo.export(system, tmp_path / "timm", format="timm")
    keywords = {"img_size": 42, "patch_size": 14, "embed_dim": 60, "depth": 2, "num_heads": 5, "mlp_ratio": 2.0, "num_classes": 3}
    theirs = timm.models.vision_transformer.VisionTransformer(**keywords).eval()
    theirs.load_state_dict(load_file(tmp_path / "timm" / "model.safetensors"))
    torch.testing.assert_close(theirs(pixels), system.logits(pixels), rtol=0, atol=1e-5)


def test_a_vision_gnn_comes_back_from_its_published_names(tmp_path, capsys):
    system = zoo.create_model("classifier_vig_nano")
    zoo.save(system, tmp_path / "ours")
    assert main(["export", str(tmp_path / "ours"), str(tmp_path / "vig"), "--format", "vig"]) == 0
    names = load_file(tmp_path / "vig" / "model.safetensors")
    assert "backbone.0.0.graph_conv.gconv.nn.0.weight" in names and "prediction.4.weight" in names
    other = zoo.create_model("classifier_vig_nano", weights=tmp_path / "vig" / "model.safetensors")
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in system.state_dict().items())


@pytest.mark.parametrize(
    ("name", "keywords", "format", "message"),
    [
        ("vit_nano", {}, "transformer", "did you mean 'transformers'"),
        ("vig_nano", {}, "transformers", "has no 'vig', only 'vit'"),
        ("vit_nano", {}, "vig", "has no 'vit', only 'vig'"),
        ("vit_nano", {"pool": "mean"}, "transformers", "has no model of this form"),
        ("text_nano", {}, "timm", "TextTransformer cannot be written as 'timm', which takes image encoders 'vit'"),
        ("clip_vit_nano", {}, "timm", "System cannot be written as 'timm', which takes image encoders 'vit'.*'classifier'"),
        ("classifier_vit_nano", {"head": {"hidden_dim": 8}}, "timm", "plain linear classifiers only; this head also has hidden.bias"),
        ("vit_nano", {"pool": "cls", "preprocessing": {"resize": "border"}}, "transformers", "no processor that resizes by 'border'"),
    ],
)
def test_what_the_other_library_does_not_have_is_refused(name, keywords, format, message, tmp_path):
    with pytest.raises(zoo.ConfigError, match=message):
        zoo.export(zoo.create_model(name, **keywords), tmp_path / "out", format=format)
    assert not (tmp_path / "out").exists()
