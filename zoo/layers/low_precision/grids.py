"""Grids of integers for real numbers: symmetric, with a zero point, and with a gradient that stops at the ends.

The packed products of zoo take the symmetric one (``products.int8_rows``). The others are those of torch and torchao, with which weights
and ranges of activations from there are compared.

Papers: Jacob et al. 2018 (arXiv 1712.05877), sections 2.1 and 3; straight-through estimator: Bengio et al. 2013 (arXiv 1308.3432).
References: torchao 0.18, ``choose_qparams_affine``; torch 2.11, ``fake_quantize_per_tensor_affine``.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def symmetric_steps(
    rows: Float[Tensor, "rows width"], *, steps: int | float, low: int | None = None, high: int | None = None
) -> tuple[Float[Tensor, "rows width"], Float[Tensor, " rows"]]:
    """Return each row in whole steps, and the step of each row.

    ``[-1, -0.26, 0, 0.5, 1.27]`` in 127 steps is ``-100 -26 0 50 127``. Halves go to the even number.

    Args:
        steps: number of steps of the largest absolute value; torchao takes 127.5 in eight bits and 7.5 in four, so that the smallest number
            may reach -128 and -8.
        low: smallest number of steps; None: no limit.
        high: largest number of steps; None: no limit.
    """
    size = rows.abs().amax(1).clamp_(min=torch.finfo(torch.float32).tiny * steps) / steps  # [rows]; a row of zeros has a tiny step
    whole = (rows / size[:, None]).round_()
    return whole if low is None and high is None else whole.clamp_(low, high), size


def affine_steps(
    rows: Float[Tensor, "rows width"], *, low: int, high: int
) -> tuple[Float[Tensor, "rows width"], Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Return each row in whole steps from ``low`` to ``high``, and the step and the zero point of each row.

    ``[-1, -0.26, 0, 0.5, 1.27]`` from -128 to 127 has the zero point -16 and is ``-128 -45 -16 40 127``. Zero is always on the grid.
    """
    least, most = rows.amin(1).clamp(max=0.0), rows.amax(1).clamp(min=0.0)
    size = ((most - least) / (high - low)).clamp_(min=torch.finfo(torch.float32).tiny)
    zero = (low - (least / size).round_()).clamp_(low, high)
    return ((rows / size[:, None]).round_() + zero[:, None]).clamp_(low, high), size, zero


def fake_quantised(x: Float[Tensor, "*shape"], *, scale: float, zero: int, low: int, high: int) -> Float[Tensor, "*shape"]:
    """Return the numbers of a fixed grid that are nearest to ``x``; the gradient is 1 between its ends and 0 beyond them.

    With scale 0.1 from -8 to 7, ``[-1.5, -0.3, 0, 0.26, 0.9]`` becomes ``-0.8 -0.3 0 0.3 0.7``, with gradients ``0 1 1 1 0``.
    """
    return _Clipped.apply(x, scale, zero, low, high)  # type: ignore[return-value]


class _Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, zero: int, low: int, high: int) -> Tensor:
        steps = (x / scale).round() + zero
        ctx.save_for_backward((steps >= low) & (steps <= high))
        return (steps.clamp(low, high) - zero) * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None, None
