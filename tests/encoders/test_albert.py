"""Invariants of ALBERT's encoder; equality with its reference: tests/convert/test_transformers_text.py."""

import pytest
import torch

import zoo
from zoo.assembly.summary import summarize
from zoo.encoders.albert import Albert

SIZES = {"vocab_size": 50, "context_length": 12, "embedding_dim": 8, "dim": 24, "depth": 3, "num_heads": 3}


def make(**changes):
    torch.manual_seed(0)
    return Albert(**{**SIZES, **changes}).eval()


@pytest.mark.parametrize(
    ("name", "expected"),
    # Lan et al. 2019 as instantiated by transformers, with pooler
    [("albert_base", 11_683_584), ("albert_large", 17_683_968), ("albert_xlarge", 58_724_864), ("albert_xxlarge", 222_595_584)],
)
def test_parameter_counts_are_those_of_the_reference(name, expected):
    assert summarize(name).parameters == expected


def test_more_depth_costs_no_parameters_and_changes_the_output():
    shallow, deep = make(depth=1), make(depth=3)
    deep.load_state_dict(shallow.state_dict())
    ids = torch.randint(0, 50, (2, 7))
    assert not torch.equal(shallow(ids).tokens, deep(ids).tokens)


@pytest.mark.parametrize("pool", ["cls_tanh", "cls", "mean"])
def test_padding_and_packing_change_nothing(pool):
    model, ids = make(pool=pool), torch.randint(0, 50, (5, 9))
    mask = torch.arange(9) < torch.tensor([[9], [4], [1], [4], [7]])
    with torch.no_grad():
        whole, alone, single = model(ids, mask), model(ids, mask, reads="pooled"), model(ids[4:, :7])
    torch.testing.assert_close(alone.pooled, whole.pooled, rtol=0, atol=1e-5)
    torch.testing.assert_close(whole.tokens[4:, :7], single.tokens, rtol=0, atol=1e-5)


def test_types_follow_the_separators_and_change_the_output():
    model = make(separator_id=3)
    ids = torch.tensor([[1, 7, 3, 8, 9, 3, 0]])
    types = torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    assert torch.equal(model(ids).tokens, model(ids, types=types).tokens)
    assert not torch.equal(model(ids).tokens, make()(ids).tokens)


def test_an_unknown_pool_is_refused():
    with pytest.raises(zoo.ConfigError, match="pool: there is no 'median'"):
        make(pool="median")
