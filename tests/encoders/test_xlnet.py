"""XLNet: parameter counts, golden outputs, the formula by loops, memory, padding; against transformers: tests/convert/test_xlnet.py."""

import pytest
import torch
from sizes import num_parameters

import zoo
from tests.support.sines import sines_by_their_names
from zoo.encoders.xlnet import XLNet
from zoo.heads.bert import BertHead
from zoo.interop.text_encoders import xlnet as names
from zoo.types import EncoderSpec, Wiring

SIZES = {"vocab_size": 50, "context_length": 40, "dim": 24, "depth": 2, "num_heads": 3}
TINY = {"vocab_size": 13, "context_length": 32, "dim": 8, "depth": 2, "num_heads": 2, "mlp_ratio": 1.5}


def make(**changes):
    torch.manual_seed(0)
    model = XLNet(**{**SIZES, **changes}).eval()
    for parameter in model.parameters():  # larger than at the start of a training, so that every score counts
        torch.nn.init.normal_(parameter, std=0.3) if parameter.ndim > 1 else None
    return model


@pytest.mark.parametrize(("name", "expected"), [("xlnet_base", 116_718_336), ("xlnet_large", 360_268_800)])
def test_parameter_counts_are_those_of_the_reference(name, expected):
    assert num_parameters(name) == expected


@pytest.mark.parametrize(("name", "expected"), [("xlnet_base", 116_750_336), ("xlnet_large", 360_300_800)])
def test_the_head_adds_a_bias_for_each_word_and_shares_the_table(name, expected):
    with torch.device("meta"):
        head = BertHead(inputs={"text": EncoderSpec("text", 8, vocab_size=32000, word_dim=8)}, transform=False, permutation=True)
    assert num_parameters(name) + sum(parameter.numel() for parameter in head.parameters()) == expected


@torch.no_grad()
def test_outputs_are_those_that_the_reference_gave_for_weights_of_sines():
    """From transformers 5.17, XLNetLMHeadModel with mem_len 4; the order is 2 0 4 1 3, of which 1 and 3 are predicted."""
    model = XLNet(**TINY).eval()
    head = BertHead(inputs={"text": EncoderSpec.of(model)}, transform=False, permutation=True).eval()
    head.connect(Wiring({"text": model}))
    assert sines_by_their_names(names, model, head) == 1333
    ids, types, turns = torch.tensor([[5, 9, 3, 7, 2]]), torch.tensor([[0, 0, 0, 1, 1]]), torch.tensor([[-1, 1, -2, 2, 0]])
    first, memory = model.with_memory(ids, turns, keep=4, types=types)
    again, _ = model.with_memory(ids, turns, keep=4, types=types, memory=memory)
    logits, later = (head.word_logits(encoded.tokens[0, [1, 3]]) for encoded in (first, again))
    torch.testing.assert_close(logits[0, :4], torch.tensor([0.841742, 1.464587, 1.425881, 0.740801]), atol=1e-5, rtol=0)
    torch.testing.assert_close(logits.abs().sum(), torch.tensor(27.177149), atol=1e-4, rtol=0)
    torch.testing.assert_close(later[0, :4], torch.tensor([1.033456, 1.435552, 1.189128, 0.402601]), atol=1e-5, rtol=0)


@torch.no_grad()
def test_scores_are_the_papers_sum_of_three_products():
    """Appendix A.2 and section 2.5 of the paper, written as loops: five own tokens behind two in memory."""
    model, x, before = make(depth=1), torch.randn(5, 24), torch.randn(2, 24)
    types, attention = torch.tensor([0, 0, 1, 1, 2]), model.blocks[0].attention
    context, kinds = torch.cat([before, x]), torch.cat([torch.zeros(2, dtype=torch.int64), types])
    q, (k, v) = attention.query(x).view(5, 3, 8), attention.key_value(context).view(7, 2, 3, 8).unbind(1)
    frequencies = 10000 ** (-torch.arange(0, 24, 2) / 24)
    out = torch.zeros(5, 3, 8)
    for head in range(3):
        u, w, s = attention.content_bias[head], attention.position_bias[head], attention.segment_bias[head]
        scores = torch.empty(5, 7)
        for i in range(5):
            for j in range(7):
                waves = (i - (j - 2)) * frequencies
                position = attention.position(torch.cat([waves.sin(), waves.cos()])).view(3, 8)[head]
                segment = attention.segments[int(types[i] != kinds[j]), head]
                scores[i, j] = (q[i, head] + u) @ k[j, head] + (q[i, head] + w) @ position + (q[i, head] + s) @ segment
        out[:, head] = (scores / 8**0.5).softmax(-1) @ v[:, head]
    relations = model._relations(torch.zeros(1, 5, dtype=torch.int64), None, None, None, types[None], 2)
    torch.testing.assert_close(attention(x[None], context[None], relations)[0], attention.out(out.flatten(1)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pool", ["last", "mean"])
@pytest.mark.parametrize("length", [1, 3, 30])
@torch.no_grad()
def test_padding_on_either_side_changes_nothing(length, pool):
    model, ids = make(pool=pool, separator_id=4), torch.randint(0, 50, (1, length))
    alone, more = model(ids), torch.randint(5, 50, (1, 4))
    for padded, real in ((torch.cat([ids, more], 1), slice(0, length)), (torch.cat([more, ids], 1), slice(4, 4 + length))):
        mask = torch.zeros(1, length + 4, dtype=torch.bool)
        mask[:, real] = True
        found = model(padded, mask)
        torch.testing.assert_close(found.tokens[:, real], alone.tokens, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.pooled, alone.pooled, rtol=0, atol=1e-5)


@torch.no_grad()
def test_segments_follow_from_the_separators():
    model, ids = make(separator_id=4), torch.tensor([[7, 8, 4, 9, 4, 3]])
    given = model(ids, types=torch.tensor([[0, 0, 0, 1, 1, 2]]))
    torch.testing.assert_close(model(ids).tokens, given.tokens, rtol=0, atol=0)
    assert not torch.allclose(make()(ids).tokens, given.tokens, atol=1e-3)


@torch.no_grad()
def test_a_memory_of_everything_gives_what_a_text_read_from_left_to_right_gives():
    """With turns that rise from token to token, no token sees a later one, so that a text may be read in segments."""
    model, ids = make(), torch.randint(0, 50, (2, 12))
    turns = torch.arange(-11, 1).expand(2, -1)
    whole, memory, parts = model(ids, turns).tokens, (), []
    for part, number in zip(ids.split(5, 1), (5, 5, 2), strict=True):
        encoded, memory = model.with_memory(part, turns[:, :number] - turns[:, number - 1 : number], memory=memory, keep=12)
        parts.append(encoded.tokens)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-5)
    assert [kept.shape for kept in memory] == [(2, 12, 24)] * 2 and not any(kept.requires_grad for kept in memory)


def changed(model, ids, turns, place):
    """Return True at the tokens whose vectors change when another word stands at ``place``."""
    other = ids.clone()
    other[0, place] += 1
    return ((model(ids, turns).tokens - model(other, turns).tokens).abs().amax(-1) > 1e-6)[0].tolist()


@torch.no_grad()
def test_a_predicted_token_depends_on_earlier_turns_only():
    """Of ``a b c d e``, d, b and e are predicted in this order; through two blocks, the context stays without them."""
    model, ids, turns = make(), torch.randint(0, 40, (1, 5)), torch.tensor([[0, 2, 0, 1, 3]])
    assert changed(model, ids, turns, 3) == [False, True, False, False, True]
    assert changed(model, ids, turns, 1) == [False, False, False, False, True]
    assert changed(model, ids, turns, 4) == [False] * 5
    assert changed(model, ids, turns, 0) == [True] * 5


@torch.no_grad()
def test_a_query_that_sees_nothing_depends_on_no_token_and_rows_do_not_mix():
    model, ids = make(), torch.randint(0, 40, (2, 6))
    turns = torch.tensor([[1, 2, 3, 4, 5, 6], [0, 0, 1, 0, -(2**31), -(2**31)]])
    assert changed(model, ids[:1], turns[:1], 0) == [False, True, True, True, True, True]
    tokens = model(ids, turns).tokens
    torch.testing.assert_close(model(ids[1:, :4], turns[1:, :4]).tokens, tokens[1:, :4], rtol=0, atol=1e-5)
    torch.testing.assert_close(model(ids[:1], turns[:1]).tokens, tokens[:1], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pool": "max"}, "pool: there is no 'max'"),
        ({"dim": 15}, "dim: got 15; allowed is an even number"),
        ({"num_heads": 5}, "num_heads: 5 does not divide dim 24"),
        ({"separator_id": 50}, "separator_id: 50; allowed is 0 to 49"),
    ],
)
def test_numbers_out_of_range_are_refused(change, words):
    with pytest.raises(zoo.ConfigError, match=words):
        XLNet(**{**SIZES, **change})


def test_a_memory_that_does_not_fit_is_refused():
    model, ids = make(), torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(zoo.DataError, match=r"memory: has 1 tensors of \(rows, width\) \[\(2, 24\)\]; expected: 2, one for each block"):
        model.with_memory(ids, memory=[torch.zeros(2, 3, 24)], keep=3)
    with pytest.raises(zoo.DataError, match="keep: got -1"):
        model.with_memory(ids, keep=-1)
