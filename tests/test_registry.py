"""Names, rows, and messages about wrong names."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest
import torch
from beartype.door import is_bearable

import zoo
from zoo.assembly.create import example_inputs
from zoo.assembly.summary import nominal_input
from zoo.registry import find_row, rows
from zoo.registry.construct import _is_bearable
from zoo.registry.pretrained import pretrained_rows
from zoo.types import MAGNITUDES, MASKED, MELS, SUPERVISED, TARGET_IDS, TEACHER, Batch, Encoded, Wiring

NANO_ENCODERS = [name for name in rows("encoder") if "nano" in name]
NANO_HEADS = [name for name in rows("head") if "nano" in name]


def test_patterns_kinds_and_modalities_choose():
    assert zoo.list_models("vit_nano") == ["vit_nano"]
    assert zoo.list_models(kind="encoder", modality="text") == sorted(r.name for r in rows("encoder").values() if r.modality == "text")
    assert "clip_vit_nano" in zoo.list_models(kind="system", modality="image")


@pytest.mark.parametrize("call", [lambda: zoo.list_models(kind="encodr"), lambda: zoo.list_models(modality="imag")])
def test_wrong_choices_name_near_matches(call):
    with pytest.raises(zoo.ConfigError, match="did you mean '(encoder|image)'"):
        call()


def test_unknown_model_names_near_matches():
    with pytest.raises(zoo.ConfigError, match="did you mean 'vit_nano'"):
        zoo.create_model("vit_nan")


def test_unknown_keyword_names_near_matches():
    with pytest.raises(zoo.ConfigError, match=r"vit_nano.num_head: .*did you mean 'num_heads'"):
        zoo.create_model("vit_nano", num_head=2)


@pytest.mark.parametrize("value", ["4", 4.5, None, True])
def test_a_value_of_the_wrong_type_is_refused(value):
    with pytest.raises(zoo.ConfigError, match="vit_nano.depth"):
        zoo.create_model("vit_nano", depth=value)


def test_whole_numbers_serve_as_floats():
    assert zoo.create_model("vit_nano", mlp_ratio=2).blocks[0].mlp.fc1.out_features == 128


BUILT = {row.name for row in pretrained_rows().values() if not row.build}  # by tests/test_pretrained.py


@pytest.mark.parametrize("name", [name for name in zoo.list_models() if name not in BUILT])
def test_every_name_builds_on_meta_and_systems_of_that_name_are_nano(name):
    model = zoo.create_model(name, device="meta")
    assert all(p.is_meta for p in model.parameters())
    assert not model.training
    if "nano" in name and name in rows("system"):
        assert zoo.summarize(model).parameters <= 1_000_000


@pytest.mark.parametrize("name", NANO_ENCODERS)
def test_nano_encoders_run_forward_and_backward(name):
    encoder = zoo.create_model(name)
    x, mask = (None if t is None else torch.zeros(t.shape, dtype=t.dtype) for t in nominal_input(encoder.modality, encoder, 2))
    encoded = encoder(x, None if mask is None else ~mask)
    assert encoded.tokens.shape[-1] == encoder.dim and encoded.mask.shape == encoded.tokens.shape[:2]
    (encoded.tokens.sum() + (0 if encoded.pooled is None else encoded.pooled.sum())).backward()
    assert all(p.grad is not None for p in encoder.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", NANO_HEADS)
def test_nano_heads_run_forward_and_backward(name):
    inputs = example_inputs({"name": find_row(name).family, **find_row(name).arguments})
    head = zoo.create_model(name)
    mask = torch.ones(3, 5, dtype=torch.bool)
    encoded = {m: Encoded(torch.randn(3, 5, s.dim), torch.randn(3, s.dim), mask) for m, s in inputs.items()}
    targets = {"groups": torch.arange(3), "labels": torch.arange(3), TEACHER: torch.randn(3, getattr(head, "teacher_dim", 1))}
    if "reward" in head.verbs:
        targets["groups"] = torch.zeros(3, dtype=torch.int64)  # three answers to one prompt
    targets |= {
        MASKED: torch.arange(15).view(3, 5),
        TARGET_IDS: torch.arange(15).view(3, 5),
        SUPERVISED: torch.ones(3, 5, dtype=torch.bool),
        "replaced": torch.arange(15).view(3, 5) % 3 == 0,
    }
    for target, size in ((MELS, "num_mels"), (MAGNITUDES, "num_bins")):
        if hasattr(head, size):
            targets[target] = torch.rand(3, getattr(head, size), 6)
    if "text" in inputs:  # a head may share the word table of its encoder
        head.connect(Wiring({"text": zoo.create_model("bert_nano")}))
    head(encoded, Batch(inputs={"text": torch.arange(15).view(3, 5)}, targets=targets)).loss.backward()
    assert all(p.grad is not None for p in head.parameters() if p.requires_grad)


def test_dtype_and_device_are_set():
    model = zoo.create_model("vit_nano", dtype=torch.bfloat16)
    assert next(model.parameters()).dtype is torch.bfloat16


def test_no_default_dtype_or_device_leaks():
    zoo.create_model("vit_nano", device="meta")
    assert torch.empty(1).device.type == "cpu"
    assert torch.nn.Linear(2, 2).weight.abs().sum() > 0


def test_backbones_of_other_libraries_are_rows_without_importing_them(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit", "patch_size": 8}')
    code = (
        "import sys; from zoo.registry import find_row\n"
        "row = find_row('timm/resnet18.a1_in1k', 'encoder')\n"
        "assert (row.kind, row.family, row.modalities, row.arguments) == ('encoder', 'timm', ('image',), {'model': 'resnet18.a1_in1k'})\n"
        f"assert find_row('transformers/{tmp_path}').arguments == {{'config': {{'model_type': 'vit', 'patch_size': 8}}}}\n"
        "assert not {'torch', 'timm', 'transformers', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_timms_names_are_listed_when_asked_for():
    assert zoo.list_models("timm/resnet18*") == ["timm/resnet18", "timm/resnet18d"]
    assert "timm/resnet18.a1_in1k" in zoo.list_models("timm/resnet18.*", kind="encoder", modality="image")
    assert zoo.list_models("timm/*", kind="head") == zoo.list_models("timm/*", modality="text") == []
    assert not any("/" in name for name in zoo.list_models())


def test_backbones_are_encoders_only():
    with pytest.raises(zoo.ConfigError, match="there is no model 'timm/resnet18'"):
        find_row("timm/resnet18", "head")


def test_a_backbone_is_summarised_without_weights():
    summary = zoo.summarize("timm/test_vit")
    assert summary.parameters == sum(p.numel() for p in zoo.create_model("timm/test_vit").parameters())
    assert summary.tokens == {"image": 101} and summary.flops["image"] > 0


def test_a_name_stands_for_one_row_only():
    names = [name for kind in ("encoder", "language", "head", "system") for name in rows(kind)]
    assert len(names) == len(set(names))


HINTS = (int, float, str, bool, int | None, Sequence[int], Sequence[float | None], list[str], Mapping[str, float], dict[str, Any], Any)
VALUES = (1, 1.5, True, None, "ab", [1], [1.5, None], ["a"], (1, 2), {"a": 1}, {"a": 1.5}, {1: 1.5}, [], {}, [[1]])


@pytest.mark.parametrize("hint", [*HINTS, Sequence[Sequence[int]] | str | None, Literal["a", 1], tuple[int, int], Sequence])
def test_simple_hints_are_checked_as_beartype_does(hint):
    for value in VALUES:
        assert _is_bearable(value, hint) == is_bearable(value, hint), value
