"""Targets of contrastive losses: the positives among the rows and columns of a similarity matrix."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def pair_targets(groups: Int[Tensor, " batch"]) -> Float[Tensor, "batch batch"]:
    """Return a target distribution per row: equal probabilities for all items of the row's group.

    Groups ``[7 3 7]`` give the rows ``[.5 0 .5], [0 1 0], [.5 0 .5]``; if all groups differ, the result is the identity matrix.
    """
    same = (groups[:, None] == groups[None, :]).float()
    return same / same.sum(1, keepdim=True)


class Positives:
    """The positives in blocks of a similarity matrix of which this process may hold only some rows.

    Args:
        num_rows: number of rows that this process holds.
        start: index in the global batch of this process's row 0, whose pair is column ``start``.
        groups: group of each column; items of equal groups are positives of each other. None: only pairs are positives.
    """

    def __init__(self, num_rows: int, start: int = 0, groups: Int[Tensor, " columns"] | None = None) -> None:
        self.start, self.own, self.groups = start, slice(start, start + num_rows), groups
        if groups is not None:
            # Number of each group: places in the sorted groups, of which some stay unused. ``unique`` would number them without gaps,
            # but its result has a size that the host would have to wait for.
            self.index = torch.searchsorted(groups.sort().values, groups)
            self.size = torch.zeros_like(groups).index_add_(0, self.index, torch.ones_like(groups)).clamp(min=1)  # 1: unused

    def mean(self, second: Float[Tensor, "columns dim"]) -> Float[Tensor, "rows dim"]:
        """Return the mean of the vectors that are positives of each row."""
        if self.groups is None:
            return second[self.own]
        sums = second.new_zeros(len(self.size), second.shape[1]).index_add_(0, self.index, second)  # [groups, dim]
        return (sums / self.size[:, None])[self.index[self.own]]  # [rows, dim]

    def others(self, like: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Return the share of each row's target that lies on positives other than its pair: 0 in a group of 1, 2/3 in a group of 3."""
        return torch.zeros_like(like) if self.groups is None else (1 - 1 / self.size.to(like.dtype))[self.index[self.own]]

    def subtract_targets(self, block: Float[Tensor, "_ _"], rows: slice, columns: slice, amount: float) -> None:
        """Subtract each row's targets, which sum to ``amount``, from its positives in a block, in place.

        Without groups, this does nothing. The entries of the pairs themselves are wrong afterwards: overwrite them with ``set_pairs``.
        """
        if self.groups is not None:
            share = (amount / self.size)[self.index[columns]].to(block.dtype)  # [columns]
            block.sub_(torch.where(self._same(rows, columns), share, 0.0))

    def negate(self, block: Float[Tensor, "_ _"], rows: slice, columns: slice) -> None:
        """Change the sign of the positives in a block, in place."""
        if self.groups is None:
            self._pairs(block, rows, columns)[1].neg_()
        else:
            block.mul_(1 - 2 * self._same(rows, columns).to(block.dtype))

    def take_pairs(self, block: Float[Tensor, "_ _"], rows: slice, columns: slice, into: Float[Tensor, " rows"], leave: float) -> None:
        """Move the entries of the pairs in a block to their rows of ``into``, and write ``leave`` in their place."""
        places, pairs = self._pairs(block, rows, columns)
        into[places] = pairs
        pairs.fill_(leave)

    def set_pairs(self, block: Float[Tensor, "_ _"], rows: slice, columns: slice, values: Float[Tensor, " rows"]) -> None:
        """Overwrite the entries of the pairs in a block with the values of their rows."""
        places, pairs = self._pairs(block, rows, columns)
        pairs.copy_(values[places])

    def _pairs(self, block: Tensor, rows: slice, columns: slice) -> tuple[slice, Tensor]:
        """Return the rows (of this process) whose pairs lie in a block, and a view of these entries; both may be empty."""
        ahead = self.start + rows.start - columns.start  # column of the block that holds the pair of the block's row 0
        pairs = block.diagonal(ahead)
        first = rows.start + max(0, -ahead)
        return slice(first, first + len(pairs)), pairs

    def _same(self, rows: slice, columns: slice) -> Tensor:
        return self.index[self.own][rows, None] == self.index[None, columns]
