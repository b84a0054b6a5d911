r"""Prefix tree of the texts of a batch, so that common beginnings are computed only once.

In a causal tower, a token's vector depends only on that token and the tokens before it. "a photo of a cat" and "a photo of a dog" therefore
share the vectors of all tokens but the last. The nodes of the tree are the list of tokens over which layers run; a node attends to its
ancestors and itself::

    [1 10 11 2]        1 - 10 - 11 - 2
    [1 10 12 2]               \ 12 - 2          6 nodes instead of 8 tokens

Rows with equal lengths and equal numbers of new nodes are attended to together: the queries are their new nodes, the keys all nodes on the
path from the root.
"""

from itertools import groupby

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.layers.packing import Group, Layout
from zoo.types import on_host, send


class PrefixTree(Layout):
    """Layout of the distinct prefixes of a batch of causal texts, each with one position in the list.

    Args:
        token_ids: ids of the texts, padded on the right.
        lengths: number of real tokens of each row; later tokens are not read.

    Attributes:
        index: positions in the flat batch [batch * length] from which the list's tokens can be read.
        nodes: [batch, length] on the CPU, the node (index in the list) of each token.
    """

    def __init__(self, token_ids: Int[Tensor, "batch length"], lengths: Int[Tensor, " batch"]) -> None:
        length, self.device = token_ids.shape[1], token_ids.device
        token_ids, lengths = on_host(token_ids), on_host(lengths)  # the number of nodes must be known to the host
        self.real = torch.arange(length) < lengths[:, None]  # [B, L]
        ids = token_ids.masked_fill(~self.real, -1)
        rows = alphabetical_order(ids)
        new = first_seen(ids[rows])  # [B, L], in alphabetical order
        by_size = (lengths[rows] * (length + 1) + new.sum(1)).argsort(stable=True)
        rows, grouped = rows[by_size], new[by_size]
        places = rows[:, None] * length + torch.arange(length)  # [B, L]
        number = (grouped.flatten().cumsum(0) - 1).unflatten(0, grouped.shape)[by_size.argsort()]  # alphabetical again
        owner = torch.where(new, torch.arange(len(new))[:, None], 0).cummax(0).values
        self.index = send(places[grouped], self.device)
        self.nodes = torch.empty_like(number).index_copy_(0, rows, number.gather(0, owner)[by_size])  # [B, L], as the batch is
        sizes = torch.stack([lengths[rows], grouped.sum(1)], dim=1).tolist()
        super().__init__(self._groups(rows, sizes), causal=True)

    def _groups(self, rows: Int[Tensor, " batch"], sizes: list[list[int]]) -> list[Group]:
        """Return groups of consecutive rows with equal sizes (keys, queries)."""
        groups, start = [], 0
        for (keys, queries), same in groupby(sizes):
            stop = start + len(list(same))
            if queries:
                groups.append(Group(stop - start, queries, keys, send(self.nodes[rows[start:stop], :keys].flatten(), self.device)))
            start = stop
        return groups

    def only(self, positions: Int[Tensor, " batch"]) -> Layout:
        """Return the layout in which one token of each row is a query, at a position below the row's length."""
        positions = on_host(positions)
        rows = positions.argsort(stable=True)
        sizes = [[position + 1, 1] for position in positions[rows].tolist()]
        asked = self.nodes.gather(1, positions[:, None])[rows, 0]
        return Layout(self._groups(rows, sizes), causal=True, asked=send(asked, self.device), order=send(rows, self.device))

    def unpack(self, x: Float[Tensor, "total dim"]) -> Float[Tensor, "batch length dim"]:
        """Return the padded batch of a list, with zeros at padding."""
        return x[send(self.nodes.masked_fill(~self.real, 0), self.device)] * send(self.real, self.device)[..., None]


def alphabetical_order(ids: Int[Tensor, "batch length"]) -> Int[Tensor, " batch"]:
    """Return the indices of the rows sorted by first token, then by second token, and so on."""
    rank = ids.new_zeros(len(ids))
    base = ids.max() + 2 if ids.numel() else 0
    for column in ids.unbind(1):  # ranks of prefixes, one token longer each time; unique keeps them below the number of rows
        rank = torch.unique(rank * base + column + 1, return_inverse=True)[1]
    return rank.argsort(stable=True)


def first_seen(ids: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
    """Return a mask that is True at real tokens (ids of 0 or more) whose prefix occurs in no earlier row; rows must be sorted."""
    differs = torch.ones_like(ids, dtype=torch.bool)
    differs[1:] = ids[1:] != ids[:-1]
    return (differs.cumsum(1) > 0) & (ids >= 0)
