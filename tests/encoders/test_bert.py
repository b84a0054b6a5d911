"""Invariants of BERT's encoder; equality with its reference: tests/convert/test_transformers_bert.py."""

import json

import pytest
import torch
from sizes import num_parameters

import zoo
from tests.support.sines import sines_by_their_names
from zoo.assembly.compose import compose
from zoo.assembly.create import create_model
from zoo.assembly.summary import summarize
from zoo.data.loader import Draw
from zoo.encoders.bert import Bert
from zoo.errors import ConfigError, DataError
from zoo.heads.bert import BertHead
from zoo.interop.text_encoders import xlm
from zoo.layers.post_norm import POOLS
from zoo.registry import rows
from zoo.runs.check import check
from zoo.runs.data_setup import make_items, make_source
from zoo.types import EncoderSpec, Wiring

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


def test_positions_restart_in_the_second_text(scramble):
    """Translation language modelling: each sentence has its own positions, and its type is its language."""
    sizes = {"vocab_size": 50, "context_length": 12, "dim": 16, "depth": 1, "num_heads": 2, "separator_id": 2, "pool": "none"}
    model = scramble(Bert(**sizes, restart_positions=True))
    ids = torch.tensor([[1, 5, 6, 2, 7, 8, 9, 2]])
    types = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]])
    assert model.places(torch.ones_like(ids, dtype=torch.bool), types).tolist() == [[0, 1, 2, 3, 0, 1, 2, 3]]
    swapped = model.embed(ids, torch.nn.functional.embedding(torch.tensor([[0, 1, 2, 3] * 2]), model.positions), model.types[types])
    expected = model.blocks[0](swapped)
    torch.testing.assert_close(model(ids).tokens, expected)
    plain = Bert(**sizes)
    plain.load_state_dict(model.state_dict())
    assert not torch.allclose(plain.eval()(ids).tokens, expected)
    with pytest.raises(ConfigError, match="restart_positions: true needs a separator_id"):
        Bert(**{**sizes, "separator_id": None}, restart_positions=True)


def test_pairs_of_translations_are_masked_on_both_sides(tmp_path):
    """XLM's objective needs no code of its own: source parallel with joined texts, masking, and types as languages."""
    rows = [{"en": f"the number {n} and more words", "de": f"die Zahl {n} und mehr Woerter"} for n in range(40)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = ["system=bert_pretraining_nano", "system.head.sequence=null", "data=parallel", f"data.source.path={path}"]
    overrides += ["data.source.joined=true", "data.masking={}", "training.batch_size=8", "evaluation=masked_lm"]
    overrides += ["system.encoders.text.restart_positions=true", "system.encoders.text.num_types=2"]
    config = compose("train", overrides)
    assert check(config).trainable > 0
    system, source = zoo.create_system(config["system"]), make_source(config["data"])
    system.processor.fit(source.captions())
    items = make_items(config, system, source, None)
    batch = items.collate([items[Draw(i, (0, 0, i))] for i in range(8)])
    assert torch.isfinite(system(batch).loss)
    types = system.encoders["text"]._types(batch.inputs["text"], None)
    masked = batch.targets["masked"] != -100
    assert masked[types == 0].any() and masked[types == 1].any()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("xlm_mlm_en_2048", 667_119_041), ("xlm_mlm_tlm_xnli15_1024", 249_071_384), ("xlm_clm_ende_1024", 142_422_203)],
)
def test_parameter_counts_of_xlm_are_the_published_ones(name, expected):
    assert num_parameters(name) + rows("encoder")[name].arguments["vocab_size"] == expected  # with the bias of the head


XLM = {"vocab_size": 13, "context_length": 16, "dim": 8, "depth": 2, "num_heads": 2, "default_type": None, "pool": "cls"}
XLM_GOLDENS = {  # from transformers 5.17, XLMWithLMHeadModel: causal, first four logits of the last token, sum of absolute values
    False: ([-0.009294124, -0.397364715, -0.611215939, -0.557052334], 17.927374),
    True: ([0.110529398, -0.330134528, -0.626756583, -0.648388107], 17.851823),
}


@pytest.mark.parametrize("causal", XLM_GOLDENS)
@torch.no_grad()
def test_logits_of_xlm_are_those_that_the_reference_gave_for_weights_of_sines(causal):
    last, total = XLM_GOLDENS[causal]
    model = Bert(**XLM, causal=causal).eval()
    head = BertHead(inputs={"text": EncoderSpec.of(model)}, transform=False)
    head.connect(Wiring({"text": model}))
    assert sines_by_their_names(xlm, model, head) == 2021
    logits = head.word_logits(model(torch.tensor([[5, 9, 3, 7, 6]]), types=torch.tensor([[0, 0, 0, 1, 1]])).tokens[0])
    torch.testing.assert_close(logits[-1, :4], torch.tensor(last), atol=1e-5, rtol=0)
    torch.testing.assert_close(logits.abs().sum(), torch.tensor(total), atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_causal_encoder_sees_no_later_token_on_either_side_of_padding():
    torch.manual_seed(0)
    model, ids = Bert(**XLM, causal=True).eval(), torch.randint(3, 13, (2, 9))
    changed = ids.clone()
    changed[:, 6] = (ids[:, 6] + 1) % 13
    moved = (model(ids).tokens - model(changed).tokens).abs().amax((0, 2)) > 0
    assert moved.tolist() == [False] * 6 + [True] * 3
    mask = torch.arange(9) < 5
    torch.testing.assert_close(model(ids, mask.expand(2, -1)).tokens[:, :5], model(ids[:, :5]).tokens)


def test_a_default_type_without_a_row_is_refused():
    with pytest.raises(zoo.ConfigError, match="default_type: 0 with num_types 0"):
        Bert(**{**XLM, "default_type": 0, "num_types": 0})
