"""Rules that rename and split tensors, shared by all converters."""

import pytest
import torch

from zoo.errors import WeightsError
from zoo.interop.base.rules import from_zoo, joined, lifted, named, scalar, split, to_zoo, transposed, under

RULES = [
    *under("layers.{i}.", "blocks.{i}.", [joined(["q.{w}", "k.{w}", "v.{w}"], "qkv.{w}"), *named({"ln.{w}": "norm.{w}"})]),
    split("packed_{w}", ["query.{w}", "key_value.{w}"], shares=[1, 2]),
    transposed("proj", "out.weight"),
    lifted("token", "class_token", axes=2),
    scalar("scale", "logit_scale", their_shape=(1,)),
]
THEIRS = {f"layers.{i}.{name}": torch.randn(3, 3) for i in (0, 11) for name in ("q.weight", "k.weight", "v.weight", "ln.weight")}
THEIRS |= {"packed_bias": torch.randn(9), "proj": torch.randn(3, 5), "token": torch.randn(3), "scale": torch.randn(1)}


def test_rules_run_both_ways(same_state):
    same_state(from_zoo(to_zoo(THEIRS, RULES, origin="ref"), RULES, origin="ref"), THEIRS)


def test_rows_are_joined_and_split_in_order():
    ours = to_zoo(THEIRS, RULES, origin="ref")
    assert torch.equal(ours["blocks.11.qkv.weight"][3:6], THEIRS["layers.11.k.weight"])
    assert torch.equal(ours["key_value.bias"], THEIRS["packed_bias"][3:])
    assert ours["class_token"].shape == (1, 1, 3) and ours["logit_scale"].shape == () and ours["out.weight"].shape == (5, 3)


def test_a_key_that_no_rule_takes_is_named_and_counted():
    with pytest.raises(WeightsError, match=r"2 unknown \(layers.0.ln.gain, layers.x.ln.weight\)"):
        to_zoo({**THEIRS, "layers.0.ln.gain": torch.ones(1), "layers.x.ln.weight": torch.ones(1)}, RULES, origin="ref")


def test_a_key_that_a_rule_lacks_is_named():
    with pytest.raises(WeightsError, match=r"1 missing \(layers.0.v.weight\)"):
        to_zoo({name: t for name, t in THEIRS.items() if name != "layers.0.v.weight"}, RULES, origin="ref")


def test_an_unknown_key_of_ours_is_refused_on_the_way_back():
    with pytest.raises(WeightsError, match=r"zoo -> ref.*1 unknown \(graph.weight\)"):
        from_zoo({"graph.weight": torch.ones(1)}, RULES, origin="ref")


def test_dropping_takes_whole_words_only():
    rules = named({"header.weight": "h"})
    tensors = {"head.weight": torch.ones(1), "header.weight": torch.ones(1)}
    assert list(to_zoo(tensors, rules, origin="ref", drop=("head",))) == ["h"]


def test_two_spellings_of_one_tensor_are_refused():
    with pytest.raises(WeightsError, match="two tensors for norm"):
        to_zoo({"a": torch.ones(1), "b": torch.ones(1)}, named({"a": "norm", "b": "norm"}), origin="ref")


@pytest.mark.parametrize("name, shape", [("packed_bias", (10,)), ("scale", (2,)), ("packed_weight", ())])
def test_shapes_that_a_rule_cannot_turn_are_refused(name, shape):
    with pytest.raises(WeightsError, match=name):
        to_zoo({name: torch.zeros(shape)}, RULES, origin="ref")
