"""Contrastive losses as pure functions of features of the whole (global) batch."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

TILE = 1024  # rows of logits that exist at once: fewer cost more launches than they save in memory traffic (measured on two cores)


def pair_targets(groups: Int[Tensor, " batch"]) -> Float[Tensor, "batch batch"]:
    """Share each row's probability evenly among the items of equal group.

    Groups ``[7 3 7]`` give the rows ``[.5 0 .5], [0 1 0], [.5 0 .5]``; with all groups different this is the identity.
    """
    same = (groups[:, None] == groups[None, :]).float()
    return same / same.sum(1, keepdim=True)


def info_nce(
    first: Float[Tensor, "batch dim"],
    second: Float[Tensor, "batch dim"],
    scale: Float[Tensor, ""],
    groups: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of the cross-entropies over rows and over columns of ``scale * first @ second.T``.

    A large batch never holds its logits at once: memory grows with the batch, not with its square.

    Args:
        first: unit vectors of one modality.
        second: unit vectors of the other; row i belongs to row i.
        groups: items of equal number are positives of each other; None means that only pairs are.

    Source: Radford et al. 2021, figure 3; shared targets as in Yang et al. 2022 (UniCL, arXiv 2204.03610), eq. 3.
    """
    if len(first) > 2 * TILE and first.dtype.itemsize >= 4:
        return tiled_info_nce(first, second, scale, groups)
    logits = scale * first @ second.T  # [B, B]
    targets = torch.arange(len(first), device=first.device) if groups is None else pair_targets(groups)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def tiled_info_nce(
    first: Float[Tensor, "batch dim"],
    second: Float[Tensor, "batch dim"],
    scale: Float[Tensor, ""],
    groups: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """``info_nce`` a tile of rows at a time, computed again in backward.

    The cross-entropy of a row is its log-sum-exp minus the mean logit of its positives. Only the first part needs all
    pairs; the second is one product with the mean of each group, the same in sum for rows and for columns.
    """
    if groups is None:
        positive = second
    else:
        _, index, size = groups.unique(return_inverse=True, return_counts=True)
        sums = second.new_zeros(len(size), second.shape[1]).index_add(0, index, second)  # [groups, dim]
        positive = (sums / size[:, None])[index]  # [B, dim]
    matched = scale * (first * positive).sum(1)  # [B]
    return _SumOfRowsAndColumns.apply(first, second, scale, matched) / (2 * len(first))


class _SumOfRowsAndColumns(torch.autograd.Function):
    """Sum of all cross-entropies: one matrix product per tile serves its rows and its share of every column.

    ``matched`` is taken off before summing, while the differences are small and exact.
    """

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, scale: Tensor, matched: Tensor) -> Tensor:
        rows = torch.empty_like(first[:, 0])
        column_max, column_sum = torch.full_like(rows, -torch.inf), torch.zeros_like(rows)
        for tile, logits, spare in _tiles(first, second, scale):
            row_max = logits.amax(1, keepdim=True)  # [tile, 1]
            rows[tile] = torch.sub(logits, row_max, out=spare).exp_().sum(1).log_() + row_max[:, 0]
            new_max = torch.maximum(column_max, logits.amax(0))  # [B]
            column_sum *= (column_max - new_max).exp_()  # what was summed so far, relative to the new maximum
            column_sum += logits.sub_(new_max).exp_().sum(0)
            column_max = new_max
        columns = column_max + column_sum.log_()
        ctx.save_for_backward(first, second, scale, rows, columns)
        return (rows - matched).sum() + (columns - matched).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # type: ignore[override]
        first, second, scale, rows, columns = ctx.saved_tensors
        grad_first, grad_second = torch.empty_like(first), torch.zeros_like(second)
        for tile, logits, spare in _tiles(first, second, scale):
            torch.sub(logits, rows[tile, None], out=spare).exp_()  # softmax over the row
            weights = logits.sub_(columns).exp_().add_(spare)  # and over the column
            torch.mm(weights, second, out=grad_first[tile])
            grad_second.addmm_(weights.T, first[tile])
        grad_scale = (grad_first * first).sum() * grad
        return grad_first.mul_(grad * scale), grad_second.mul_(grad * scale), grad_scale, (-2 * grad).expand(len(first))


def _tiles(first: Tensor, second: Tensor, scale: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Each tile of rows, its logits, and a spare tensor of the same shape; both are overwritten by the next tile."""
    buffers = first.new_empty(2, min(TILE, len(first)), len(second))
    for start in range(0, len(first), TILE):
        tile = slice(start, min(start + TILE, len(first)))
        logits, spare = buffers[:, : tile.stop - start]  # [tile, B] each
        yield tile, torch.mm(first[tile] * scale, second.T, out=logits), spare


def sigmoid_loss(
    first: Float[Tensor, "batch dim"],
    second: Float[Tensor, "batch dim"],
    scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
    groups: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Each of the batch x batch pairs is a yes/no question; summed over pairs, divided by the batch (not its square).

    Source: Zhai et al. 2023 (SigLIP, arXiv 2303.15343), algorithm 1.
    """
    logits = scale * first @ second.T + bias  # [B, B]
    same = torch.eye(len(first), device=first.device) if groups is None else (groups[:, None] == groups[None, :]).float()
    return -F.logsigmoid((2 * same - 1) * logits).sum() / len(first)
