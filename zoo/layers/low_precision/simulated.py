"""Products that round as int8 and int4 do but have a gradient, for quantisation-aware training.

Weights and activations are rounded to the numbers that the kernels of ``products`` multiply, with the same scales: the forward pass is that
of inference up to the rounding of sums. The backward pass takes the rounding for the identity (straight-through estimator). The weights
themselves stay in their type, so that what is saved is an ordinary checkpoint.

Papers: Jacob et al. 2018 (arXiv 1712.05877), section 3; straight-through estimator: Bengio et al. 2013 (arXiv 1308.3432).
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from zoo.layers.low_precision.int4 import rounded_to_int4
from zoo.layers.low_precision.products import activate, int8_rows, row_steps

SIMULATED = {"simulated_int8": "int8", "simulated_int4": "int4"}  # mark of a linear layer -> precision that it simulates


def simulated_product(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, precision: str) -> Tensor | None:
    """Return x W^T + b of rounded x and W with a gradient, or None if the stored weights are to be taken.

    Args:
        x: activations [..., in].
        weight: matrix [out, in], on any device.
        bias: bias [out].
        activation: name in ``products.FUSED``, or None.
        precision: key of ``SIMULATED``.
    """
    if weight.is_meta or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return None  # counts and exported files describe the weights as they are stored
    round_weight, round_rows = (_int8_weight, _int8_activations) if SIMULATED[precision] == "int8" else (rounded_to_int4, _to_bf16)
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        rounded_weight = round_weight(weight.detach()).to(weight.dtype)
        rounded_x = round_rows(x.detach()).to(x.dtype)
    product = F.linear(_StraightThrough.apply(x, rounded_x), _StraightThrough.apply(weight, rounded_weight), bias)  # type: ignore[arg-type]
    return activate(product, activation)


class _StraightThrough(torch.autograd.Function):
    """Return ``rounded`` in place of ``x``; the gradient passes to ``x`` unchanged."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rounded: Tensor) -> Tensor:
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def _int8_weight(weight: Float[Tensor, "out_dim in_dim"]) -> Float[Tensor, "out_dim in_dim"]:
    steps, scales = int8_rows(weight)
    return steps * scales[:, None]


def _int8_activations(x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch in_dim"]:
    rows = x.reshape(-1, x.shape[-1]).float()  # [rows, in]
    steps = row_steps(rows)
    return ((rows / steps).round_() * steps).reshape(x.shape)


def _to_bf16(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16)
