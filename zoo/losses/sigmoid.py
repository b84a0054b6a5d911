"""The pairwise sigmoid loss of SigLIP.

Paper: Zhai et al. 2023 (SigLIP, arXiv 2303.15343), algorithm 1. References: big_vision ``siglip.py``, open_clip ``SigLipLoss``.

Differences: open_clip passes the second modality from neighbour to neighbour; ``local_sigmoid_loss`` gathers it instead.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from zoo.losses.blocks import blocks, full_precision, is_small, scaled_gradients
from zoo.losses.distributed import gather, is_distributed, rank, sum_over_ranks, world_size
from zoo.losses.pairs import Positives


def sigmoid_loss(
    first: Float[Tensor, "batch dim"],
    second: Float[Tensor, "batch dim"],
    scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
    groups: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Return the sum of the binary cross-entropies of all batch x batch pairs, divided by the batch size (not its square).

    The logits of a large batch are never held in memory at once. Autocast is switched off inside.

    Args:
        first: unit vectors of one modality.
        second: unit vectors of the other modality; row i is the pair of row i of ``first``.
        scale: factor on the cosines (inverse temperature).
        bias: added to the logits.
        groups: items of equal group are positives of each other; None: only pairs are positives.
    """
    with full_precision(first):
        return (plain_sigmoid_loss if is_small(first) else tiled_sigmoid_loss)(first, second, scale, bias, groups)


def plain_sigmoid_loss(
    first: Float[Tensor, "batch dim"],
    second: Float[Tensor, "batch dim"],
    scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
    groups: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Compute ``sigmoid_loss`` from the full matrix of logits."""
    logits = scale * first @ second.T + bias  # [B, B]
    same = torch.eye(len(first), device=first.device) if groups is None else (groups[:, None] == groups[None, :]).float()
    return -F.logsigmoid((2 * same - 1) * logits).sum() / len(first)


def tiled_sigmoid_loss(
    first: Float[Tensor, "batch dim"],
    second: Float[Tensor, "batch dim"],
    scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
    groups: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Compute ``sigmoid_loss`` one block of logits at a time."""
    return _Questions.apply(first, second, scale, bias, Positives(len(first), 0, groups), False, torch.is_grad_enabled())


def local_sigmoid_loss(
    first: Float[Tensor, "rows dim"],
    second: Float[Tensor, "rows dim"],
    scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
    groups: Int[Tensor, " rows"] | None = None,
) -> Float[Tensor, ""]:
    """Compute ``sigmoid_loss`` of the global batch; each process computes only its own rows.

    Value and gradients have the same meaning as those of ``zoo.losses.local_info_nce``.

    Args:
        first: unit vectors of one modality, of this process's items.
        second: unit vectors of the other modality.
        scale: factor on the cosines (inverse temperature).
        bias: added to the logits.
        groups: groups of this process's items.
    """
    if not is_distributed():
        return sigmoid_loss(first, second, scale, bias, groups)
    with full_precision(first):
        positives = Positives(len(first), rank() * len(first), None if groups is None else gather(groups))
        return _Questions.apply(first, gather(second), scale, bias, positives, True, torch.is_grad_enabled())


class _Questions(torch.autograd.Function):
    """Sum of the losses of all pairs, divided by the number of columns.

    The loss of a pair depends on one logit, so the forward pass computes the gradients too. ``shared`` is True if other processes hold the
    other rows; ``learn`` is True if gradients are needed.
    """

    @staticmethod
    def forward(
        ctx: Any, first: Tensor, second: Tensor, scale: Tensor, bias: Tensor, positives: Positives, shared: bool, learn: bool
    ) -> Tensor:
        ctx.factor, ctx.shared, offset = float(scale), shared, float(bias)
        needs_second = learn and ctx.needs_input_grad[1]
        needs_first = learn and (ctx.needs_input_grad[0] or not needs_second)  # the gradient of the scale needs one of the two
        grad_first, grad_second = torch.zeros_like(first) if needs_first else None, torch.zeros_like(second) if needs_second else None
        total, grad_bias = first.new_zeros(()), first.new_zeros(())
        for rows, columns, logits in blocks(first, second, ctx.factor):
            positives.negate(logits.add_(offset), rows, columns)  # with positives negated, -logsigmoid(-x) is the loss of every pair
            total -= F.logsigmoid(-logits).sum()
            if not learn:
                continue
            positives.negate(weights := logits.sigmoid_(), rows, columns)  # gradient of the loss with respect to the logits
            grad_bias += weights.sum()
            if grad_first is not None:
                grad_first[rows].addmm_(weights, second[columns])
            if grad_second is not None:
                grad_second[columns].addmm_(weights.T, first[rows])
        ctx.save_for_backward(first, second, grad_first, grad_second, grad_bias)
        return (sum_over_ranks(total) if shared else total) / len(second)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        first, second, *sides, grad_bias = ctx.saved_tensors
        amount = grad * (world_size() if ctx.shared else 1) / len(second)
        grad_first, grad_second = (None if side is None else side.clone() for side in sides)  # backward may run twice
        return *scaled_gradients(first, second, grad_first, grad_second, ctx.factor, amount), amount * grad_bias, None, None, None
