"""Which rows and columns of the similarities belong together."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def pair_targets(groups: Int[Tensor, " batch"]) -> Float[Tensor, "batch batch"]:
    """Share each row's probability evenly among the items of equal group.

    Groups ``[7 3 7]`` give the rows ``[.5 0 .5], [0 1 0], [.5 0 .5]``; with all groups different this is the identity.
    """
    same = (groups[:, None] == groups[None, :]).float()
    return same / same.sum(1, keepdim=True)


class Positives:
    """The positives of a block of similarities, where a process may hold only some rows.

    Args:
        num_rows: rows that this process holds.
        start: its row 0 is row ``start`` of the whole, and the pair of column ``start``.
        groups: of all columns; None means that only pairs are positives.
    """

    def __init__(self, num_rows: int, start: int = 0, groups: Int[Tensor, " columns"] | None = None) -> None:
        self.start, self.own, self.groups = start, slice(start, start + num_rows), groups
        if groups is not None:
            _, self.index, self.size = groups.unique(return_inverse=True, return_counts=True)

    def mean(self, second: Float[Tensor, "columns dim"]) -> Float[Tensor, "rows dim"]:
        """Mean of each row's positives."""
        if self.groups is None:
            return second[self.own]
        sums = second.new_zeros(len(self.size), second.shape[1]).index_add_(0, self.index, second)  # [groups, dim]
        return (sums / self.size[:, None])[self.index[self.own]]  # [rows, dim]

    def others(self, like: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Share of each row's target that its positives beside its pair have: 0 in a group of one, 2/3 in one of three."""
        return torch.zeros_like(like) if self.groups is None else (1 - 1 / self.size.to(like.dtype))[self.index[self.own]]

    def subtract_targets(self, block: Float[Tensor, "_ _"], rows: slice, columns: slice, amount: float) -> None:
        """Take each row's targets, which sum to ``amount``, off its positives; of pairs alone there is nothing to do.

        The pairs' own weights are wrong afterwards, and for ``set_pairs`` to overwrite.
        """
        if self.groups is not None:
            share = (amount / self.size)[self.index[columns]].to(block.dtype)  # [columns]
            block.sub_(torch.where(self._same(rows, columns), share, 0.0))

    def negate(self, block: Float[Tensor, "_ _"], rows: slice, columns: slice) -> None:
        """Change the sign of the positives in a block."""
        if self.groups is None:
            self._pairs(block, rows, columns)[1].neg_()
        else:
            block.mul_(1 - 2 * self._same(rows, columns).to(block.dtype))

    def take_pairs(self, block: Float[Tensor, "_ _"], rows: slice, columns: slice, into: Float[Tensor, " rows"], leave: float) -> None:
        """Move what stands at the pairs of a block to its place in ``into``, and leave a number behind."""
        places, pairs = self._pairs(block, rows, columns)
        into[places] = pairs
        pairs.fill_(leave)

    def set_pairs(self, block: Float[Tensor, "_ _"], rows: slice, columns: slice, values: Float[Tensor, " rows"]) -> None:
        """Overwrite what stands at the pairs of a block."""
        places, pairs = self._pairs(block, rows, columns)
        pairs.copy_(values[places])

    def _pairs(self, block: Tensor, rows: slice, columns: slice) -> tuple[slice, Tensor]:
        """The rows (of this process) whose pairs lie in a block, and a view of these; both empty where there are none."""
        ahead = self.start + rows.start - columns.start  # the block's row 0 has its pair in this column of the block
        pairs = block.diagonal(ahead)
        first = rows.start + max(0, -ahead)
        return slice(first, first + len(pairs)), pairs

    def _same(self, rows: slice, columns: slice) -> Tensor:
        return self.index[self.own][rows, None] == self.index[None, columns]
