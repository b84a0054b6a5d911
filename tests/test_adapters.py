"""Adapters: folded in they compute the same, by our own sums and by PEFT's; a saved model has them again; four bits come back exactly."""

import copy

import pytest
import torch

import zoo
from zoo.assembly.build import add_adapters
from zoo.layers.adapters import KEY, Adapter, inject, merge, merged_tensors

LORA, DORA = Adapter(rank=3, alpha=7.0), Adapter(kind="dora", rank=3, alpha=7.0, rank_stabilised=True)
IA3 = Adapter(kind="ia3", targets=["*qkv", "*fc2"], inner=["*fc2"])
QLORA = Adapter(rank=3, alpha=7.0, quantise="nf4")
SYSTEM = {"encoders": {"image": "vit_nano"}, "head": {"name": "classifier", "num_classes": 5}}


def adapted(adapter: Adapter) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """Make a small Vision Transformer with trained adapters; return it with an input and its output."""
    torch.manual_seed(0)
    model = zoo.create_model("vit_nano")
    model.config = copy.deepcopy(model.config)
    inject(model, {"blocks": adapter})
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "blocks" in name:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    pixels = torch.randn(2, 3, model.image_size, model.image_size)
    with torch.no_grad():
        return model, pixels, model(pixels).tokens


@pytest.mark.parametrize("adapter", [LORA, DORA, IA3, QLORA], ids=["lora", "dora", "ia3", "qlora"])
def test_folded_in_an_adapter_computes_the_same_by_our_sums_and_by_pefts(adapter):
    model, pixels, expected = adapted(adapter)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ours = zoo.create_model("vit_nano")
    ours.load_state_dict(merged_tensors(tensors, model.config[KEY]))
    merge(model)
    assert KEY not in model.config and model.state_dict().keys() == ours.state_dict().keys()
    with torch.no_grad():
        for found in (ours(pixels).tokens, model(pixels).tokens):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_only_the_adapters_of_a_part_learn_and_the_other_parts_as_before():
    system = zoo.create_system(SYSTEM)
    add_adapters(system, {"encoders.image.blocks": {"kind": "lora", "rank": 2}}, "training.adapters")
    trained = {name for name, parameter in system.named_parameters() if parameter.requires_grad}
    below = {name for name in trained if name.startswith("encoders.image.blocks.")}
    assert below and all(".lora_" in name for name in below)
    assert {"encoders.image.patch.weight", "head.linear.weight"} <= trained or any(name.startswith("head.") for name in trained)


def test_a_saved_system_has_its_adapters_again_and_one_without_takes_them_folded_in(tmp_path):
    torch.manual_seed(1)
    system = zoo.create_system(SYSTEM)
    add_adapters(system, {"encoders.image.blocks": {"rank": 2, "quantise": "nf4"}}, "training.adapters")
    for parameter in system.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = system.eval().encoders.image(pixels).tokens
        again = zoo.load(zoo.save(system, tmp_path / "adapted"))
        assert torch.equal(again.encoders.image(pixels).tokens, expected)
        assert any(".lora_A." in name for name, _ in again.named_parameters())
        plain = zoo.create_system(SYSTEM, weights=tmp_path / "adapted")
        torch.testing.assert_close(plain.encoders.image(pixels).tokens, expected, atol=1e-5, rtol=1e-5)
        encoder = zoo.create_model("vit_nano", weights=tmp_path / "adapted", weights_parts=["encoders.image"])
        torch.testing.assert_close(encoder(pixels).tokens, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("quantise", [None, "nf4"])
def test_an_export_has_the_adapters_folded_in_and_leaves_the_model_as_it_was(quantise, tmp_path):
    torch.manual_seed(1)
    system = zoo.create_system(SYSTEM)
    add_adapters(system, {"encoders.image.blocks": {"rank": 2, "quantise": quantise}}, "training.adapters")
    for parameter in system.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    pixels, names = torch.randn(2, 3, 32, 32), list(system.state_dict())
    plain = zoo.load(zoo.export(system, tmp_path / "zoo", format="zoo"))
    theirs = zoo.export(system, tmp_path / "timm", format="timm")
    with torch.no_grad():
        expected = system.eval().encoders.image(pixels).tokens
        for found in (plain, zoo.create_system(SYSTEM, weights=theirs / "model.safetensors")):
            assert not any("lora" in name for name in found.state_dict())
            torch.testing.assert_close(found.encoders.image(pixels).tokens, expected, atol=1e-5, rtol=1e-5)
    assert list(system.state_dict()) == names and system.config[KEY]


def test_four_bits_that_are_saved_and_read_come_back_exactly():
    model, _, _ = adapted(QLORA)
    layer = next(module for module in model.modules() if hasattr(module, "plain_weight"))
    bits, plain = layer.weight.data.clone(), layer.plain_weight()
    assert bits.dtype == torch.uint8 and bits.numel() * 2 == plain.numel()
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(layer.weight.data, bits) and torch.equal(layer.plain_weight(), plain)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"head.languag": {}}, "no such part"),
        ({"encoders.image": {"kind": "lore"}}, "kind: there is no 'lore'"),
        ({"encoders.image": {"rank": 0}}, "rank: 0"),
        ({"encoders.image": {"ranks": 4}}, "has no such option"),
        ({"encoders.image": {"targets": ["query"]}}, "matches no linear layer"),
        ({"encoders.image": {"targets": "query"}}, "give a list|allowed is"),
        ({"encoders.image": {"kind": "dora", "quantise": "nf4"}}, "works only with kind lora"),
        ({"encoders.image": {"quantise": "int3"}}, "there is no 'int3'"),
    ],
)
def test_what_cannot_be_adapted_is_refused_with_its_key(words, message):
    system = zoo.create_system(SYSTEM)
    with pytest.raises(zoo.ConfigError, match=message) as caught:
        add_adapters(system, words, "training.adapters")
    assert "training.adapters" in str(caught.value) or "quantise" in str(caught.value)


def test_adapters_are_not_put_over_adapters():
    system = zoo.create_system(SYSTEM)
    add_adapters(system, {"encoders.image": {}}, "training.adapters")
    with pytest.raises(zoo.ConfigError, match="already has adapters"):
        add_adapters(system, {"encoders.image.blocks": {}}, "training.adapters")
