"""Linear layers that are fast on a CPU too."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

FUSED = {"gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh"), "relu": ("relu", "")}  # what oneDNN computes with the product
FEW_ROWS = 64  # up to so many, and above one, a product takes 0.55 to 0.65 of the time with the matrix in oneDNN's blocks
MOST_PACKED_BYTES = 2**31  # of second copies of one model's matrices

_packed = WeakTensorKeyDictionary()  # matrix -> (its state, its blocks)


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
        few = x.shape[-1] < x.numel() <= FEW_ROWS * x.shape[-1]
        return torch.ops.mkldnn._linear_pointwise(x, _in_blocks(weight) if few else weight, bias, name, [], algorithm)
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


def pack(weights: Iterable[Tensor]) -> None:
    """Keep matrices [out, in] in oneDNN's blocks too, for ``fast_linear`` of a few rows at a time, as in a batch's decoding.

    It is done again where a matrix has changed since, and not at all where the copies would take more than ``MOST_PACKED_BYTES``.
    """
    weights = [weight for weight in weights if weight.ndim == 2 and not weight.is_inference()]
    with torch.no_grad():
        if not all(fits_onednn(weight, weight) for weight in weights) or sum(weight.nbytes for weight in weights) > MOST_PACKED_BYTES:
            return
        for weight in weights:
            if _in_blocks(weight) is weight:
                _packed[weight] = _state(weight), torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), 2 * FEW_ROWS)


def unpack(weights: Iterable[Tensor]) -> None:
    """Forget the blocks of matrices."""
    for weight in weights:
        _packed.pop(weight, None)


def _in_blocks(weight: Tensor) -> Tensor:
    """A matrix in oneDNN's blocks, where it was packed and has not changed since; else itself."""
    found = _packed.get(weight)
    return weight if found is None or found[0] != _state(weight) else found[1]


def _state(weight: Tensor) -> tuple[int, int]:
    """Changes with every write to a tensor, and with the memory that it stands for."""
    return weight._version, weight.data_ptr()
