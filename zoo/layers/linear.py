"""Linear layers that are fast on a CPU too."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

FUSED = {"gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh"), "relu": ("relu", "")}  # what oneDNN computes with the product


class Linear(nn.Linear):
    """``torch.nn.Linear`` that multiplies with oneDNN where nothing is to be learnt on a CPU.

    torch takes MKL for float32, which on AMD is 1.1 to 1.3 times slower. Outputs agree up to rounding.
    """

    def forward(self, input: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        return fast_linear(input, self.weight, self.bias)


def fast_linear(
    x: Float[Tensor, "*batch in_dim"],
    weight: Float[Tensor, "out_dim in_dim"],
    bias: Float[Tensor, " out_dim"] | None,
    activation: str | None = None,
) -> Float[Tensor, "*batch out_dim"]:
    """Compute x W^T + b and perhaps an activation of ``FUSED``, by oneDNN where that is possible."""
    if fits_onednn(x, weight) and (activation is not None or x.numel() > x.shape[-1]):  # of a single row MKL makes less
        name, algorithm = FUSED[activation] if activation is not None else ("none", "")
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], algorithm)
    out = F.linear(x, weight, bias)
    if activation is None:
        return out
    return F.relu(out) if activation == "relu" else F.gelu(out, approximate=FUSED[activation][1])


def fits_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's product may stand in: on a CPU, float32, no gradient asked for, nobody traces or casts."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled  # type: ignore[attr-defined]
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]
    )


def lay_out(weights: Iterable[Tensor], *, by_columns: bool) -> None:
    """Change in which order matrices [out, in] lie in memory, and nothing else; other than in float32 on a CPU they stay as they are.

    Column after column, a product with a single row takes three quarters of the time, and one with many rows too. Training wants row
    after row: gradients are, and a run that is resumed must add in the same order.
    """
    for weight in weights:
        changes = weight.is_contiguous() if by_columns else not weight.is_contiguous()
        plain = type(weight) is nn.Parameter and weight.device.type == "cpu" and weight.dtype == torch.float32 and not weight.is_inference()
        if changes and plain and weight.ndim == 2:
            with torch.inference_mode(False), torch.no_grad():
                weight.data = weight.detach().t().contiguous().t() if by_columns else weight.detach().contiguous()
