"""The encoder seq2seq: forms that its tests against transformers do not reach (tests/convert/test_seq2seq.py)."""

import pytest
import torch

import zoo
from zoo.encoders.seq2seq import Seq2SeqEncoder
from zoo.errors import ConfigError
from zoo.heads.seq2seq import Seq2Seq
from zoo.layers.position import sinusoids_2017
from zoo.types import EncoderSpec

SMALL = {"vocab_size": 13, "context_length": 9, "dim": 8, "depth": 2, "num_heads": 2, "hidden_dim": 12}


def test_the_paper_equals_torch_without_a_final_norm(scramble):
    """Vaswani et al. 2017 add no norm behind the last layer; torch's nn.Transformer would."""
    ours = scramble(Seq2SeqEncoder(**SMALL))
    layer = torch.nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=False)
    theirs = torch.nn.TransformerEncoder(layer, 2, norm=None, enable_nested_tensor=False).eval()
    names = {
        "self_attn.in_proj_": "attention.qkv.",
        "self_attn.out_proj.": "attention.out.",
        "linear1.": "mlp.fc1.",
        "linear2.": "mlp.fc2.",
    }
    names |= {"norm1.": "residual1.norm.", "norm2.": "residual2.norm."}
    own = ours.state_dict()
    theirs.load_state_dict(
        {
            f"layers.{i}.{their}{w}": own[f"blocks.{i}.{our}{w}"]
            for i in range(2)
            for their, our in names.items()
            for w in ("weight", "bias")
        }
    )
    ids, mask = torch.randint(0, 13, (2, 7)), torch.arange(7) < torch.tensor([[7], [4]])
    x = own["embedding.weight"][ids] * 8**0.5 + sinusoids_2017(torch.arange(7), 8, interleaved=True)
    with torch.no_grad():
        found, expected = ours(ids, mask).tokens, theirs(x, src_key_padding_mask=~mask)
    torch.testing.assert_close(found[mask], expected[mask], atol=1e-5, rtol=1e-5)


def test_the_papers_decoder_equals_torch_without_a_final_norm(scramble):
    sizes = {"depth": 2, "num_heads": 2, "hidden_dim": 12, "context_length": 9, "shared_words": False}
    ours = scramble(Seq2Seq(inputs={"text": EncoderSpec("text", 8, vocab_size=13)}, **sizes)).decoder
    layer = torch.nn.TransformerDecoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=False)
    theirs, own, state = torch.nn.TransformerDecoder(layer, 2, norm=None).eval(), ours.state_dict(), {}
    names = {"self_attn.in_proj_": "attention.qkv.", "self_attn.out_proj.": "attention.out.", "multihead_attn.out_proj.": "cross.out."}
    names |= {"linear1.": "mlp.fc1.", "linear2.": "mlp.fc2."} | {f"norm{n}.": f"residual{n}.norm." for n in (1, 2, 3)}
    for i in range(2):
        for w in ("weight", "bias"):
            state |= {f"layers.{i}.{their}{w}": own[f"blocks.{i}.{our}{w}"] for their, our in names.items()}
            parts = [own[f"blocks.{i}.cross.{part}.{w}"] for part in ("query", "key_value")]
            state[f"layers.{i}.multihead_attn.in_proj_{w}"] = torch.cat(parts)
    theirs.load_state_dict(state)
    ids, tokens, mask = torch.randint(0, 13, (2, 7)), torch.randn(2, 5, 8), torch.arange(5) < torch.tensor([[5], [3]])
    x = own["embedding.weight"][ids] * 8**0.5 + sinusoids_2017(torch.arange(7), 8, interleaved=True)
    causal = torch.ones(7, 7, dtype=torch.bool).triu(1)  # True is blocked here
    with torch.no_grad():
        found = ours.states(ids, ours.remember(tokens, mask))
        expected = theirs(x, tokens, tgt_mask=causal, memory_key_padding_mask=~mask)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", ["learned", "interleaved", "halves", "tensor2tensor", "none"])
def test_padding_on_either_side_changes_nothing(positions, scramble):
    encoder = scramble(Seq2SeqEncoder(**SMALL, positions=positions, pool="mean"))
    ids = torch.tensor([[5, 9, 3, 7]])
    padded, left = torch.tensor([[5, 9, 3, 7, 1, 1]]), torch.tensor([[1, 1, 5, 9, 3, 7]])
    real = torch.tensor([[True] * 4 + [False] * 2])
    with torch.no_grad():
        alone, behind, before = encoder(ids), encoder(padded, real), encoder(left, real.flip(1))
    torch.testing.assert_close(behind.tokens[:, :4], alone.tokens, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(before.tokens[:, 2:], alone.tokens, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(before.pooled, alone.pooled, atol=1e-5, rtol=1e-5)


def test_the_layouts_of_sinusoids_hold_the_same_numbers():
    """Position 1 of width 4: wavelengths 2 pi and 200 pi; the paper interleaves sine and cosine."""
    row = torch.tensor([1])
    assert sinusoids_2017(row, 4, interleaved=True)[0].tolist() == pytest.approx([0.841471, 0.540302, 0.0099998, 0.99995], abs=1e-6)
    assert sinusoids_2017(row, 4, interleaved=False)[0].tolist() == pytest.approx([0.841471, 0.0099998, 0.540302, 0.99995], abs=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"positions": "learnt"}, "positions: there is no 'learnt'"),
        ({"norm_place": "pre"}, "norm_place: there is no 'pre'"),
        ({"position_offset": 2}, "position_offset: 2; allowed is 0, and with positions=learned"),
        ({"num_heads": 3}, "num_heads: 3 does not divide dim 8"),
        ({"pool": "cls"}, "pool: there is no 'cls'"),
    ],
)
def test_wrong_keywords_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Seq2SeqEncoder(**{**SMALL, **wrong})


def test_a_text_that_is_too_long_is_refused():
    with pytest.raises(zoo.DataError, match="texts have 10 tokens; context_length allows 9"):
        Seq2SeqEncoder(**SMALL)(torch.zeros(1, 10, dtype=torch.int64))
