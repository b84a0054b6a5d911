"""Classifiers that timm saved, as systems: timm's own logits, its class names, and zoo classify with them."""

import json
import shutil

import pytest
import timm
import torch
from timm.models import save_for_hf

import zoo
from zoo.commands.cli import main
from zoo.errors import ConfigError

NAMES = ["crane", "cat", "crane"]  # a name may stand twice, as in ImageNet


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", num_classes=3).eval()
    folder = tmp_path_factory.mktemp("timm")
    save_for_hf(model, folder, {"label_names": ["n1", "n2", "n3"], "label_descriptions": dict(zip(["n1", "n2", "n3"], NAMES, strict=True))})
    return folder, model


def test_a_classifier_of_timm_gives_timms_logits(saved):
    folder, model = saved
    system, pixels = zoo.load(folder), torch.rand(3, 3, 160, 160)
    torch.testing.assert_close(system.logits(pixels), model(pixels), atol=1e-5, rtol=1e-5)
    assert system.head.class_names == NAMES and system.encoders["image"].image_size == model.pretrained_cfg["input_size"][-1]


def test_its_preprocessing_is_that_of_its_config(saved, tmp_path):
    folder, _ = saved
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= {"mean": [0.1, 0.2, 0.3], "crop_pct": 0.5, "crop_mode": "squash"}
    copied = shutil.copytree(folder, tmp_path / "copied")
    (copied / "config.json").write_text(json.dumps(config))
    settings = zoo.load(copied).processor["image"].settings
    assert (settings["mean"], settings["crop_fraction"], settings["resize"]) == ([0.1, 0.2, 0.3], 0.5, "squash")


def test_zoo_classify_names_its_classes(saved, capsys):
    assert main(["classify", "assets/pictures/dog.png", "--model", str(saved[0]), "--json", "--top-k", "3"]) == 0
    assert sorted(json.loads(capsys.readouterr().out.splitlines()[0])["labels"]) == sorted(NAMES)


def test_a_thousand_classes_without_names_are_imagenets(tmp_path):
    save_for_hf(timm.create_model("test_resnet", num_classes=1000), tmp_path, {})
    names = zoo.load(tmp_path).head.class_names
    assert (names[0], names[999]) == ("tench, Tinca tinca", "toilet tissue, toilet paper, bathroom tissue")


@pytest.mark.parametrize(("name", "message"), [("test_mambaout", "widens its features"), ("test_vit", "a model of timm; use")])
def test_another_kind_of_classifier_is_told(name, message, tmp_path):
    save_for_hf(timm.create_model(name, num_classes=5), tmp_path, {})
    with pytest.raises(ConfigError, match=message):
        zoo.load(tmp_path)
