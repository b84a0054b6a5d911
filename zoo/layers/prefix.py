r"""Texts as a tree of tokens: what several texts begin with is computed once.

In a causal tower a token's vector depends on it and the tokens before it alone, so that "a photo of a cat" and "a photo of a
dog" share all but one. The nodes of the tree are the list of tokens that layers run over; a node attends to its ancestors::

    [1 10 11 2]        1 - 10 - 11 - 2
    [1 10 12 2]               \ 12 - 2          6 nodes instead of 8 tokens

Rows whose new nodes and lengths are equal in number attend together: queries are their new nodes, keys the way from the root.
"""

from itertools import groupby

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.layers.packing import Group, Layout


class PrefixTree(Layout):
    """The different beginnings of a batch of causal texts, each with one place in the list.

    Args:
        lengths: how many tokens of each row count; what stands behind them is not read.

    Attributes:
        index: places in the flat batch [batch * length] at which the list's tokens may be read.
    """

    def __init__(self, token_ids: Int[Tensor, "batch length"], lengths: Int[Tensor, " batch"]) -> None:
        length = token_ids.shape[1]
        self.real = torch.arange(length, device=token_ids.device) < lengths[:, None]  # [B, L]
        ids = token_ids.masked_fill(~self.real, -1)
        rows = alphabetical_order(ids)
        new = first_seen(ids[rows])  # [B, L], in alphabetical order
        by_size = (lengths[rows] * (length + 1) + new.sum(1)).argsort(stable=True)
        rows, grouped = rows[by_size], new[by_size]
        places = rows[:, None] * length + torch.arange(length, device=rows.device)  # [B, L]
        number = (grouped.flatten().cumsum(0) - 1).unflatten(0, grouped.shape)[by_size.argsort()]  # alphabetical again
        owner = torch.where(new, torch.arange(len(new), device=new.device)[:, None], 0).cummax(0).values
        self.index = places[grouped]
        self.nodes = torch.empty_like(number).index_copy_(0, rows, number.gather(0, owner)[by_size])  # [B, L], as the batch is
        sizes = torch.stack([lengths[rows], grouped.sum(1)], dim=1).tolist()
        super().__init__(self._groups(rows, sizes), causal=True)

    def _groups(self, rows: Int[Tensor, " batch"], sizes: list[list[int]]) -> list[Group]:
        """Groups of rows that follow on each other with equal sizes (keys, queries)."""
        groups, start = [], 0
        for (keys, queries), same in groupby(sizes):
            stop = start + len(list(same))
            if queries:
                groups.append(Group(stop - start, queries, keys, self.nodes[rows[start:stop], :keys].flatten()))
            start = stop
        return groups

    def only(self, positions: Int[Tensor, " batch"]) -> Layout:
        """The layout in which one token of each row asks, at one of the positions that count."""
        rows = positions.argsort(stable=True)
        sizes = [[position + 1, 1] for position in positions[rows].tolist()]
        asked = self.nodes.gather(1, positions[:, None])[rows, 0]
        return Layout(self._groups(rows, sizes), causal=True, asked=asked, order=rows)

    def unpack(self, x: Float[Tensor, "total dim"]) -> Float[Tensor, "batch length dim"]:
        """The padded batch, with zeros at padding."""
        return x[self.nodes.masked_fill(~self.real, 0)] * self.real[..., None]


def alphabetical_order(ids: Int[Tensor, "batch length"]) -> Int[Tensor, " batch"]:
    """Rows in the order of their first tokens, among equal ones of their second, and so on."""
    rank = ids.new_zeros(len(ids))
    base = ids.max() + 2 if ids.numel() else 0
    for column in ids.unbind(1):
        rank = torch.unique(rank * base + column + 1, return_inverse=True)[1]
    return rank.argsort(stable=True)


def first_seen(ids: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
    """True at real tokens (not negative) whose beginning of the row, in alphabetical order, no row before has."""
    differs = torch.ones_like(ids, dtype=torch.bool)
    differs[1:] = ids[1:] != ids[:-1]
    return (differs.cumsum(1) > 0) & (ids >= 0)
