"""``zoo.testing.check_format``: a format whose mistakes are named one by one."""

import json
from pathlib import Path

import pytest
import torch

import zoo
from zoo.storage.tensors import read_tensors, write_tensors
from zoo.testing import ContractError
from zoo.testing import check_format as check


class Plain:
    """A format of ViT: config and weights with our own names; ``mistake`` breaks one rule."""

    name, files = "plain", {"config.json": "used", "*.safetensors": "used"}

    def __init__(self, mistake="", certainty=1.0):
        self.mistake, self.certainty = mistake, certainty

    def writes(self, model):
        return "is no ViT" if self.mistake == "writes" else None

    def write(self, model, folder):
        (folder / "config.json").write_text(json.dumps({"model_type": "plain", **model.config["encoder"]}))
        write_tensors(model.state_dict(), folder / "model.safetensors")
        if self.mistake == "files":
            (folder / "extra.bin").write_text("")

    def recognises(self, source):
        return 0.0 if self.mistake == "recognises" else self.certainty

    def describe(self, source):
        given = json.loads((source / "config.json").read_text())
        given.pop("model_type")
        given["num_heads"] = 1 if self.mistake == "describe" else given["num_heads"]
        return type("Description", (), {"config": {"encoder": given}})

    def read(self, source, part=""):
        tensors = read_tensors(source / "model.safetensors")
        if self.mistake == "read":
            tensors.pop("norm.weight")
        return tensors


def run(model):
    return model(torch.full((2, 3, 32, 32), 0.5)).tokens


def test_a_format_without_mistakes_passes():
    check(Plain(), zoo.create_model("vit_nano"), run, open_source=Path, others=[Plain(certainty=0.5)])


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("writes", r"writes\(model\) is None for what it can write, but it is 'is no ViT'"),
        ("files", r"files explains every file, but it does not know \['extra.bin'\]"),
        ("recognises", "it recognises what it wrote, but recognises gives 0.0"),
        ("read", r"read gives the weights of the described model, but \['norm.weight'\] do not fit"),
        ("describe", "a model that was written and read gives equal outputs, but they differ by"),
    ],
)
def test_each_mistake_of_a_format_is_named(mistake, message):
    with pytest.raises(ContractError, match=message):
        check(Plain(mistake), zoo.create_model("vit_nano"), run, open_source=Path)


def test_two_formats_that_recognise_one_directory_are_named():
    with pytest.raises(ContractError, match="it alone recognises what it wrote, but plain recognises it with 1.0"):
        check(Plain(), zoo.create_model("vit_nano"), run, open_source=Path, others=[Plain()])
