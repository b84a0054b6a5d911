"""InfoNCE, the loss of CLIP: cross entropy of a softmax over rows and of one over columns.

Papers: Radford et al. 2021 (CLIP, arXiv 2103.00020), figure 3; shared targets as in Yang et al. 2022 (UniCL, arXiv
2204.03610), eq. 3. Reference: open_clip ``ClipLoss``, whose ``local_loss`` with ``gather_with_grad`` is ``local_info_nce``.

Differences: open_clip computes one matrix product per direction; here one product serves both directions.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from zoo.losses.blocks import blocks, full_precision, is_small, places, scaled_gradients
from zoo.losses.distributed import gather, is_distributed, max_over_ranks, rank, sum_over_ranks, world_size
from zoo.losses.pairs import Positives, pair_targets

KEPT_BYTES = 256 * 2**20  # exponentials up to this size are kept for backward; larger ones are computed again there
LOG2_E = math.log2(math.e)  # turns natural logits into base-2 logits


def info_nce(
    first: Float[Tensor, "batch dim"],
    second: Float[Tensor, "batch dim"],
    scale: Float[Tensor, ""],
    groups: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Return the mean of the cross-entropies over rows and over columns of ``scale * first @ second.T``.

    The logits of a large batch are never held in memory at once: memory grows with the batch, not with its square. Autocast is switched
    off inside.

    Args:
        first: unit vectors of one modality.
        second: unit vectors of the other modality; row i is the pair of row i of ``first``.
        scale: factor on the cosines (inverse temperature).
        groups: items of equal group are positives of each other; None: only pairs are positives.
    """
    with full_precision(first):
        return (plain_info_nce if is_small(first) else tiled_info_nce)(first, second, scale, groups)


def plain_info_nce(
    first: Float[Tensor, "batch dim"],
    second: Float[Tensor, "batch dim"],
    scale: Float[Tensor, ""],
    groups: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Compute ``info_nce`` from the full matrix of logits."""
    logits = scale * first @ second.T  # [B, B]
    targets = torch.arange(len(first), device=first.device) if groups is None else pair_targets(groups)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def tiled_info_nce(
    first: Float[Tensor, "batch dim"],
    second: Float[Tensor, "batch dim"],
    scale: Float[Tensor, ""],
    groups: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Compute ``info_nce`` one block of logits at a time."""
    return _CrossEntropies.apply(first, second, scale, Positives(len(first), 0, groups), False, torch.is_grad_enabled())


def local_info_nce(
    first: Float[Tensor, "rows dim"],
    second: Float[Tensor, "rows dim"],
    scale: Float[Tensor, ""],
    groups: Int[Tensor, " rows"] | None = None,
) -> Float[Tensor, ""]:
    """Compute ``info_nce`` of the global batch; each process computes only its own rows.

    Every process must hold the same number of rows, and gets the same value. The gradients of a process are ``world_size`` times its share
    of the global gradient, because data-parallel training takes the mean over processes: with shares a and b of two processes, the mean of
    2a and 2b is a + b, the gradient of the global loss.

    Args:
        first: unit vectors of one modality, of this process's items.
        second: unit vectors of the other modality.
        scale: factor on the cosines (inverse temperature).
        groups: groups of this process's items.
    """
    if not is_distributed():
        return info_nce(first, second, scale, groups)
    with full_precision(first):
        positives = Positives(len(first), rank() * len(first), None if groups is None else gather(groups))
        return _CrossEntropies.apply(first, gather(second), scale, positives, True, torch.is_grad_enabled())


class _CrossEntropies(torch.autograd.Function):
    """Half the mean of all cross-entropies of rows and columns; one product per block serves both directions.

    Only the sums of exponentials need all blocks. Rows and columns share one exponential, 2^(logit - shift): CPUs compute powers of 2 three
    times as fast as powers of e, and with one shift for all logits no pass has to find maxima. The sums are exact if each is far above the
    possible loss by underflow, and none has overflowed. Otherwise they are computed again with the maxima of rows and columns subtracted.

    The pairs are kept out of the sums. The small loss of a trained model is then log1p(others / pair), and the gradient of its pair
    -others / (pair + others), both with full precision; softmax minus 1 would round to 0.

    ``shared`` is True if other processes hold the other rows; ``learn`` is True if gradients are needed.
    """

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, scale: Tensor, positives: Positives, shared: bool, learn: bool) -> Tensor:
        ctx.factor, ctx.positives, ctx.shared = float(scale), positives, shared
        ctx.shift = _shift(ctx.factor, len(second), first.dtype)
        keep = learn and len(first) * len(second) * first.itemsize <= KEPT_BYTES
        sums, others = _sums(first, second, ctx.factor, ctx.shift, positives, shared=shared, keep=keep)
        if not sums.are_exact(shared=shared):
            ctx.shift = None
            sums, others = _sums_about_maxima(first, second, ctx.factor, positives, shared=shared)
        per_row, per_column, own = 1 / sums.whole_rows, 1 / sums.whole_columns, positives.own
        # Gradient at a pair: softmax - target, over rows and columns. softmax - 1 = -others / whole, computed without cancellation.
        pair_weights = 2 * positives.others(per_row) - sums.rows * per_row - (sums.columns * per_column)[own]
        ctx.save_for_backward(first, second, per_row, per_column, pair_weights, *others)
        total = (_cross_entropy(sums.rows, sums.row_pairs) + _cross_entropy(sums.columns[own], sums.column_pairs)).sum()
        if positives.groups is not None:  # the loss subtracts the mean logit of a row's positives, not the logit of its pair
            total += 2 * ctx.factor * (first * (second[own] - positives.mean(second))).sum()
        return (sum_over_ranks(total) if shared else total) / (2 * len(second))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        first, second, *_ = ctx.saved_tensors
        needs_second = ctx.needs_input_grad[1]
        needs_first = ctx.needs_input_grad[0] or not needs_second  # the gradient of the scale needs one of the two
        grad_first, grad_second = torch.zeros_like(first) if needs_first else None, torch.zeros_like(second) if needs_second else None
        for rows, columns, weights in _weights(ctx):
            if grad_first is not None:
                grad_first[rows].addmm_(weights, second[columns])
            if grad_second is not None:
                grad_second[columns].addmm_(weights.T, first[rows])
        amount = grad * (world_size() if ctx.shared else 1) / (2 * len(second))
        return *scaled_gradients(first, second, grad_first, grad_second, ctx.factor, amount), None, None, None


@dataclass
class _Sums:
    """Sums of exponentials without the pairs, and base-2 logits of the pairs; the same shift is subtracted from both.

    Attributes:
        rows: sums over each row of this process, without its pair.
        columns: sums over each column and the rows of all processes, without its pair.
        row_pairs: logits of this process's pairs, with the shift of their rows.
        column_pairs: logits of this process's pairs, with the shift of their columns.
        whole_rows: ``rows`` with the pairs added.
        whole_columns: ``columns`` with the pairs of all processes added.
    """

    rows: Tensor
    columns: Tensor
    row_pairs: Tensor
    column_pairs: Tensor
    whole_rows: Tensor
    whole_columns: Tensor

    @classmethod
    def of(cls, rows: Tensor, columns: Tensor, row_pairs: Tensor, column_pairs: Tensor, own: slice, *, shared: bool) -> "_Sums":
        """Return the sums over all processes, from those of this process."""
        both = torch.stack([columns, torch.zeros_like(columns)])
        both[1, own] = column_pairs.exp2()
        columns, pairs = sum_over_ranks(both) if shared else both  # stacked, so that one all-reduce is enough
        return cls(rows, columns, row_pairs, column_pairs, rows + row_pairs.exp2(), columns + pairs)

    def are_exact(self, *, shared: bool) -> bool:
        """True if the sums of all processes are exact up to rounding.

        An addend below the smallest normal number may be lost. If a sum is ``floor`` or more, its possible loss is below its rounding
        error. For 16384 columns in float32 this holds if the largest logit of each row is above -60 + shift.
        """
        info, sums = torch.finfo(self.rows.dtype), torch.cat([self.whole_rows, self.whole_columns])
        floor = len(self.columns) * info.tiny / info.eps
        wrong = ((sums < floor) | ~sums.isfinite()).sum()
        return not (sum_over_ranks(wrong) if shared else wrong)


def _cross_entropy(others: Tensor, pair: Tensor) -> Tensor:
    """Return the natural logarithm of (others + 2^pair) / 2^pair."""
    # log1p keeps the digits of small losses; the second form cannot divide by a pair that underflowed to 0.
    power = pair.exp2()
    return torch.where(others < power, (others / power).log1p(), (others + power).log() - pair / LOG2_E)


def _shift(scale: float, count: int, dtype: torch.dtype) -> float:
    """Return the shift to subtract from base-2 logits of unit vectors so that a sum of ``count`` exponentials cannot overflow.

    In float32, with sums below 2^125 and 16384 columns, it is 0 up to a scale of 76, and 33 at a scale of 100.
    """
    return max(0.0, scale * LOG2_E + math.log2(count) - (math.log2(torch.finfo(dtype).max) - 3))


def _sums(
    first: Tensor, second: Tensor, scale: float, shift: float, positives: Positives, *, shared: bool, keep: bool
) -> tuple[_Sums, list[Tensor]]:
    """Return the sums of 2^(logits - shift), and the exponentials if ``keep``."""
    row_sums, column_sums, pairs, kept = torch.zeros_like(first[:, 0]), torch.zeros_like(second[:, 0]), torch.empty_like(first[:, 0]), []
    for rows, columns, logits in _logits(first, second, scale, shift):
        positives.take_pairs(logits, rows, columns, pairs, -torch.inf)
        powers = logits.exp2_()
        row_sums[rows] += powers.sum(1)
        column_sums[columns] += powers.sum(0)
        if keep:
            kept.append(powers)
    return _Sums.of(row_sums, column_sums, pairs, pairs, positives.own, shared=shared), kept


def _logits(first: Tensor, second: Tensor, scale: float, shift: float = 0.0) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield the base-2 logits minus the shift, block by block."""
    for rows, columns, logits in blocks(first, second, scale * LOG2_E):
        yield rows, columns, logits.sub_(shift) if shift else logits


def _sums_about_maxima(
    first: Tensor, second: Tensor, scale: float, positives: Positives, *, shared: bool
) -> tuple[_Sums, tuple[Tensor, Tensor]]:
    """Return the sums of 2^(logits - maximum of the row, or of the column), and these maxima."""
    row_sums, column_sums, pairs = torch.zeros_like(first[:, 0]), torch.zeros_like(second[:, 0]), torch.empty_like(first[:, 0])
    row_maxima = scale * LOG2_E * (first * second[positives.own]).sum(1)  # start at the pair's logit; blocks can only raise it
    column_maxima = torch.full_like(column_sums, -torch.inf)
    column_maxima[positives.own] = row_maxima
    for rows, columns, logits in _logits(first, second, scale):
        positives.take_pairs(logits, rows, columns, pairs, -torch.inf)
        _add_to_sums(row_sums[rows], row_maxima[rows], logits)
        _add_to_sums(column_sums[columns], column_maxima[columns], logits.T)
    if shared:
        largest = max_over_ranks(column_maxima)
        column_sums.mul_((column_maxima - largest).exp2_())
        column_maxima = largest
    column_pairs = pairs - column_maxima[positives.own]
    return _Sums.of(row_sums, column_sums, pairs - row_maxima, column_pairs, positives.own, shared=shared), (row_maxima, column_maxima)


def _add_to_sums(sums: Tensor, maxima: Tensor, logits: Tensor) -> None:
    """Add a block's rows, in place, to sums of exponentials and to the maxima that are subtracted in their exponents."""
    larger = torch.maximum(maxima, logits.amax(1))
    sums.mul_((maxima - larger).exp2_()).add_((logits - larger[:, None]).exp2_().sum(1))
    maxima.copy_(larger)


def _weights(ctx: Any) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield the gradients of the logits, block by block: softmax over rows plus softmax over columns minus both targets."""
    first, second, per_row, per_column, pair_weights, *others = ctx.saved_tensors
    made = _both_softmaxes(first, second, per_row, per_column, ctx.factor, ctx.shift, others)
    for rows, columns, weights in made:
        ctx.positives.subtract_targets(weights, rows, columns, 2.0)
        ctx.positives.set_pairs(weights, rows, columns, pair_weights)
        yield rows, columns, weights


def _both_softmaxes(
    first: Tensor, second: Tensor, per_row: Tensor, per_column: Tensor, scale: float, shift: float | None, others: Sequence[Tensor]
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield the softmax over rows plus the softmax over columns, block by block; ``others`` are maxima, kept exponentials or empty."""
    if shift is None:
        row_maxima, column_maxima = others
        for rows, columns, logits in _logits(first, second, scale):
            over_row = (logits - row_maxima[rows, None]).exp2_().mul_(per_row[rows, None])
            yield rows, columns, logits.sub_(column_maxima[columns]).exp2_().mul_(per_column[columns]).add_(over_row)
    elif others:
        for (rows, columns), powers in zip(places(first, second), others, strict=True):
            yield rows, columns, (per_row[rows, None] + per_column[columns]).mul_(powers)
    else:
        for rows, columns, logits in _logits(first, second, scale, shift):
            yield rows, columns, (per_row[rows, None] + per_column[columns]).mul_(logits.exp2_())
