"""Packed rows against torch's own attention over the padded batch."""

import pytest
import torch
from torch import nn

from zoo.layers.attention import Attention
from zoo.layers.packing import Packing
from zoo.layers.transformer import Block

MASKS = {
    "padding behind": torch.arange(7)[None] < torch.tensor([3, 7, 1, 3, 5])[:, None],
    "padding before": torch.arange(7)[None] >= torch.tensor([3, 0, 6, 3, 5])[:, None],
    "holes": torch.tensor([[1, 0, 1, 1, 0, 0, 1], [0, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]]).bool(),
    "one row": torch.ones(1, 7, dtype=torch.bool),
}


def reference_of(attention):
    """torch's MultiheadAttention with the same weights; its mask is True where attention is forbidden."""
    dim = attention.out.in_features
    reference = nn.MultiheadAttention(dim, attention.num_heads, batch_first=True)
    reference.in_proj_weight.data, reference.in_proj_bias.data = attention.qkv.weight.data, attention.qkv.bias.data
    reference.out_proj.weight.data, reference.out_proj.bias.data = attention.out.weight.data, attention.out.bias.data
    return reference


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("rounding", [1, 4])
@pytest.mark.parametrize("num_heads", [1, 5])
def test_real_tokens_get_what_the_padded_batch_gives_them(name, rounding, num_heads, scramble):
    mask, attention = MASKS[name], scramble(Attention(dim=15, num_heads=num_heads))
    x = torch.randn(*mask.shape, 15)
    packing = Packing(mask, rounding=rounding)
    found = packing.unpack(attention(packing.pack(x), layout=packing))
    expected = reference_of(attention)(x, x, x, key_padding_mask=~mask, need_weights=False)[0]
    torch.testing.assert_close(found[mask], expected[mask], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rounding", [1, 4])
def test_causal_rows_do_not_look_right(rounding, scramble):
    mask, attention = MASKS["padding behind"], scramble(Attention(dim=15, num_heads=3))
    x = torch.randn(*mask.shape, 15)
    packing = Packing(mask, causal=True, rounding=rounding)
    found = packing.unpack(attention(packing.pack(x), layout=packing))
    forbidden = torch.ones(7, 7, dtype=torch.bool).triu(1)
    expected = reference_of(attention)(x, x, x, attn_mask=forbidden, need_weights=False)[0]
    torch.testing.assert_close(found[mask], expected[mask], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rounding", [1, 4])
def test_a_block_that_answers_for_one_token_per_row_gives_what_the_whole_one_gives_there(causal, rounding, scramble):
    mask, block = MASKS["padding behind"], scramble(Block(dim=12, num_heads=3, hidden_dim=20))
    positions = mask.sum(1) - 1 if causal else torch.tensor([1, 4, 0, 0, 3])
    x = torch.randn(*mask.shape, 12, requires_grad=True)
    packing = Packing(mask, causal=causal, rounding=rounding)
    single = packing.only(positions)
    found = single.restore(block(packing.pack(x), layout=single))
    whole = block(x, mask, causal)[torch.arange(5), positions]
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(out.square().sum(), [x, *block.parameters()]) for out in (found, whole)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_the_list_holds_the_real_tokens_by_length():
    packing = Packing(torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 0]]).bool())
    assert packing.index.tolist() == [7, 0, 1, 3, 4, 5]
    assert [(group.rows, group.keys) for group in packing.groups] == [(1, 1), (1, 2), (1, 3)]


def test_equal_lengths_attend_in_one_call_without_a_mask():
    (group,) = Packing(torch.ones(9, 4, dtype=torch.bool)).groups
    assert (group.rows, group.queries, group.keys, group.mask) == (9, 4, 4, None)


def test_rows_without_a_token_get_zeros(scramble):
    block = scramble(Block(dim=12, num_heads=3, hidden_dim=20))
    for mask in (torch.tensor([[0, 0], [1, 0]]).bool(), torch.zeros(2, 2, dtype=torch.bool)):
        packing = Packing(mask)
        found = packing.unpack(block(packing.pack(torch.randn(2, 2, 12)), layout=packing))
        assert torch.isfinite(found).all() and (found[~mask] == 0).all()


def test_an_adapter_in_the_place_of_the_projection_is_asked():
    class Twice(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    block, twice = Block(dim=12, num_heads=3, hidden_dim=20), Twice(12, 36)
    block.attention.qkv = twice
    packing, x = Packing(torch.ones(2, 3, dtype=torch.bool)), torch.randn(2, 3, 12)
    single = packing.only(torch.tensor([2, 1]))
    found = single.restore(block(packing.pack(x), layout=single))
    torch.testing.assert_close(found, block(x)[torch.arange(2), torch.tensor([2, 1])], rtol=1e-5, atol=1e-5)
