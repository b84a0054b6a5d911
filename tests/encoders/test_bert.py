"""Invariants of BERT's encoder; equality with its reference: tests/convert/test_transformers_bert.py."""

import pytest
import torch

from zoo.assembly.create import create_model
from zoo.assembly.summary import summarize
from zoo.encoders.bert import Bert
from zoo.errors import ConfigError, DataError
from zoo.layers.post_norm import POOLS

SIZES = {"vocab_size": 50, "context_length": 12, "dim": 24, "depth": 2, "num_heads": 3}


def make(**changes):
    torch.manual_seed(0)
    return Bert(**{**SIZES, **changes}).eval()


@pytest.mark.parametrize("pool", POOLS)
def test_padding_does_not_change_the_real_tokens(pool):
    model, ids = make(pool=pool), torch.randint(0, 50, (2, 7))
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    with torch.no_grad():
        together, alone = model(ids, mask), model(ids[1:, :4])
    torch.testing.assert_close(together.tokens[1:, :4], alone.tokens, rtol=0, atol=1e-6)
    if pool != "none":
        torch.testing.assert_close(together.pooled[1:], alone.pooled, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    # Devlin et al. 2018 as instantiated by transformers (counts with pooler); MiniLM has none
    [
        ("bert_tiny", 4_385_920),
        ("bert_mini", 11_170_560),
        ("bert_small", 28_763_648),
        ("bert_medium", 41_373_184),
        ("bert_base_uncased", 109_482_240),
        ("bert_base_cased", 108_310_272),
        ("bert_large_uncased", 335_141_888),
        ("bert_large_cased", 333_579_264),
        ("roberta_base", 124_645_632),
        ("roberta_large", 355_359_744),
        ("minilm_l6", 22_565_376),
    ],
)
def test_parameter_counts_are_those_of_the_reference(name, expected):
    assert summarize(name).parameters == expected


def test_a_narrow_table_is_widened_and_saves_parameters():
    narrow, wide = make(embedding_dim=8), make()
    assert narrow.embedding.weight.shape == (50, 8) and narrow.widen.weight.shape == (24, 8)
    assert narrow(torch.zeros(1, 3, dtype=torch.int64)).tokens.shape == (1, 3, 24)
    assert sum(p.numel() for p in narrow.parameters()) < sum(p.numel() for p in wide.parameters())


def test_dropout_acts_in_training_only():
    model, ids = make(dropout=0.5), torch.randint(0, 50, (2, 7))
    assert torch.equal(model(ids).tokens, model(ids).tokens)
    model.train()
    assert not torch.equal(model(ids).tokens, model(ids).tokens)


def test_wrong_pool_and_long_texts_are_refused():
    with pytest.raises(ConfigError, match="pool: there is no 'median'"):
        make(pool="median")
    with pytest.raises(DataError, match="13 tokens; context_length allows 12"):
        make()(torch.zeros(1, 13, dtype=torch.int64))


def test_the_nano_trains():
    model = create_model("bert_nano").train()
    model(torch.randint(0, 512, (2, 9))).pooled.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("pool", ["cls_tanh", "cls", "mean"])
def test_pooled_alone_equals_the_whole_with_gradients(pool):
    model, ids = make(pool=pool), torch.randint(0, 50, (5, 9))
    mask = torch.arange(9) < torch.tensor([[9], [4], [1], [4], [7]])
    whole, alone = model(ids, mask), model(ids, mask, reads="pooled")
    torch.testing.assert_close(alone.pooled, whole.pooled, rtol=0, atol=1e-5)
    assert alone.tokens.shape == (5, 1, 24)
    gradients = []
    for found in (whole, alone):
        model.zero_grad()
        found.pooled.square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)  # gradients reach hundreds


def test_types_follow_the_separators_or_are_given():
    model = make(separator_id=3)
    ids = torch.tensor([[1, 7, 3, 8, 9, 3, 0], [1, 5, 3, 0, 0, 0, 0]])
    types = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1]])
    assert torch.equal(model(ids).tokens, model(ids, types=types).tokens)
    assert not torch.equal(model(ids).tokens, make()(ids).tokens)
    mask = torch.tensor([[True] * 6 + [False], [True] * 3 + [False] * 4])
    torch.testing.assert_close(model(ids, mask, reads="pooled").pooled, model(ids, mask).pooled, rtol=0, atol=1e-5)
    torch.testing.assert_close(model(ids, mask).pooled[1], make()(ids, mask).pooled[1], rtol=0, atol=1e-6)  # one text: type 0 alone
    with pytest.raises(DataError, match="types: 0 to 2; allowed is 0 to 1"):
        model(ids, types=2 * types)


def test_robertas_positions_begin_behind_the_paddings_row_and_skip_padding():
    model = make(padding_row=1, num_types=1)
    assert model.positions.shape == (14, 24)  # 12 tokens and the rows 0 and 1
    real = torch.tensor([[True] * 4 + [False], [False] * 2 + [True] * 3])
    assert model.places(real).tolist() == [[2, 3, 4, 5, 1], [1, 1, 2, 3, 4]]
    ids = torch.randint(0, 50, (1, 3))
    left = torch.cat([torch.ones(1, 2, dtype=torch.int64), ids], 1)
    with torch.no_grad():
        found, alone = model(left, real[1:]), model(ids)
    torch.testing.assert_close(found.tokens[:, 2:], alone.tokens, rtol=0, atol=1e-6)  # padding on the left changes nothing
    with pytest.raises(ConfigError, match="padding_row: -1"):
        make(padding_row=-1)
    with pytest.raises(ConfigError, match="separator_id: 50; allowed is 0 to 49"):
        make(separator_id=50)
