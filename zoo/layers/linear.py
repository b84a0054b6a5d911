"""Linear layers that use oneDNN for fast inference on a CPU."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.layers.low_precision.packings import forget, kept, packing
from zoo.layers.low_precision.products import FUSED, activate, low_product
from zoo.layers.low_precision.simulated import SIMULATED, simulated_product

FEW_ROWS = 64  # products of 2 to 64 rows take 0.55 to 0.65 of the time with the matrix in oneDNN's blocked format
MOST_PACKED_BYTES = 2**31  # limit on the blocked copies of one model's matrices

IN_BLOCKS = "fp32"  # kind of these copies in ``packings``


class Linear(nn.Linear):
    """``torch.nn.Linear`` that multiplies with oneDNN in inference on a CPU.

    torch uses MKL for float32, which is 1.1 to 1.3 times slower on AMD. Outputs agree up to rounding.

    Attributes:
        precision: "fp16", "int8" or "int4" if ``set_precision`` has marked the layer, a key of ``SIMULATED`` if ``simulate_precision`` has;
            None computes in the type of the weight.
    """

    precision: str | None = None

    def forward(self, input: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        return fast_linear(input, self.weight, self.bias, precision=self.precision)

    def train(self, mode: bool = True) -> "Linear":
        """Set training or evaluation mode as ``torch.nn.Module.train``.

        Raises:
            ConfigError: the layer is marked, and so has no gradient.
        """
        if mode and self.precision is not None and self.precision not in SIMULATED:
            raise ConfigError(f"precision: {self.precision!r} is for inference; call set_precision(model, 'fp32') before training")
        return super().train(mode)


def is_marked(layer: nn.Module) -> bool:
    """True if a layer computes in fp16, int8 or int4 from a packed copy of its weight, or simulates int8 or int4."""
    return isinstance(layer, Linear) and layer.precision is not None


def fast_linear(
    x: Float[Tensor, "*batch in_dim"],
    weight: Float[Tensor, "out_dim in_dim"],
    bias: Float[Tensor, " out_dim"] | None,
    activation: str | None = None,
    precision: str | None = None,
) -> Float[Tensor, "*batch out_dim"]:
    """Compute x W^T + b, followed by an activation of ``FUSED`` unless None, by the fastest kernel.

    Args:
        x: rows of activations.
        weight: matrix; a parameter, if ``precision`` is given, because its packed copy is kept under it.
        bias: bias.
        activation: name in ``FUSED``.
        precision: "fp16", "int8" or "int4", or a key of ``SIMULATED``; None computes in the type of the weight.
    """
    if precision in SIMULATED:
        low = simulated_product(x, weight, bias, activation, precision)
    else:
        low = low_product(x, weight, bias, activation, precision)
    if low is not None:
        return low
    if (activation is not None or x.numel() > x.shape[-1]) and fits_onednn(x, weight):  # for a single row MKL is faster
        name, algorithm = FUSED[activation] if activation is not None else ("none", "")
        few = x.shape[-1] < x.numel() <= FEW_ROWS * x.shape[-1]
        return torch.ops.mkldnn._linear_pointwise(x, _in_blocks(weight) if few else weight, bias, name, [], algorithm)
    return activate(F.linear(x, weight, bias), activation)


def fits_onednn(x: Tensor, weight: Tensor) -> bool:
    """True if oneDNN may compute the product: float32 on a CPU, without gradients, autocast, tracing or compilation."""
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
    """Store matrices [out, in] column by column or row by row, in place; their values do not change.

    Only float32 parameters on a CPU are changed. With columns, a product with one row or with many rows takes three quarters of the time.
    Training needs rows: gradients are stored by rows, and a resumed run must add numbers in the same order.
    """
    for weight in weights:
        changes = weight.is_contiguous() if by_columns else not weight.is_contiguous()
        plain = type(weight) is nn.Parameter and weight.device.type == "cpu" and weight.dtype == torch.float32 and not weight.is_inference()
        if changes and plain and weight.ndim == 2:
            with torch.inference_mode(False), torch.no_grad():
                weight.data = weight.detach().t().contiguous().t() if by_columns else weight.detach().contiguous()


def pack(weights: Iterable[Tensor]) -> None:
    """Cache copies of matrices [out, in] in oneDNN's blocked format, which speed up ``fast_linear`` with few rows (batched decoding).

    Copies of matrices that have changed since are renewed. Nothing is cached if the matrices take more than ``MOST_PACKED_BYTES``.
    """
    weights = [weight for weight in weights if weight.ndim == 2 and not weight.is_inference()]
    with torch.no_grad():
        if not all(fits_onednn(weight, weight) for weight in weights) or sum(weight.nbytes for weight in weights) > MOST_PACKED_BYTES:
            return
        for weight in weights:
            packing(weight, IN_BLOCKS, _blocked)


def unpack(weights: Iterable[Tensor]) -> None:
    """Delete the cached copies of matrices."""
    forget(weights)


def _in_blocks(weight: Tensor) -> Tensor:
    """Return the cached copy of a matrix in blocked format, or the matrix itself if there is no copy or it has changed since."""
    found = kept(weight, IN_BLOCKS)
    return weight if found is None else found[0]


def _blocked(weight: Tensor) -> tuple[Tensor]:
    return (torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 2 * FEW_ROWS),)
