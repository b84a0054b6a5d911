"""Products x W^T + b in bf16, fp16, int8 and int4 on a CPU: the choice of a kernel, by rows and by instructions of the CPU."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from zoo.errors import ConfigError
from zoo.layers.low_precision.cpu import has_bf16, has_fbgemm, has_vnni
from zoo.layers.low_precision.int4 import from_four_bits, int4_product, pack_int4
from zoo.layers.low_precision.packings import packing

FUSED = {"gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh"), "relu": ("relu", "")}  # oneDNN's names of fused activations
SUMS_IN_16_BITS = 63  # largest weight without VNNI: 2 * 255 * 63 fits 16 bits; with 127, the sum of two products would saturate
ACTIVATION_STEPS = 127  # a row of activations is stored in -127 to 127, by its own scale
MANY_ROWS = 64  # below, fbgemm's int8 product takes a third of the time of oneDNN's, and torch's int4 product less than one in float32
ROWS_OF_A_BLOCK = 256  # rows that int8 computes together, so that their sums stay in the cache
ROWS_OF_WIDE_PRODUCT = 16  # from here on, a bfloat16 product without bfloat16 instructions is faster through float32


def low_product(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, precision: str | None) -> Tensor | None:
    """Return the product in fewer bits, with its activation, or None if a plain product is to be taken.

    Args:
        x: activations.
        weight: matrix, which stays as it is.
        bias: bias.
        activation: name in ``FUSED``, or None.
        precision: "fp16", "int8" or "int4" of a marked layer; None goes by the types of ``x`` and ``weight``.

    Raises:
        ConfigError: a marked layer is not on the CPU.
    """
    if precision is not None:
        if weight.is_meta or torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
            return None  # counts, graphs and exported files describe the weights as they are stored
        if weight.device.type != "cpu":
            cure = "call set_precision(model, 'fp16') again after moving it" if precision == "fp16" else "use bf16 there"
            raise ConfigError(f"precision: {precision!r} was set for a CPU, the model is on {weight.device}; {cure}")
        if not x.numel():
            return None
        product = MARKED_PRODUCTS[precision]
        if not torch.is_grad_enabled():
            return product(x, weight, bias, activation)
        with torch.no_grad():
            found = product(x, weight, bias, activation)
        return _InferenceOnly.apply(found, x, weight) if x.requires_grad or weight.requires_grad else found
    if x.dtype == weight.dtype == torch.bfloat16 and _is_plain(x, weight):
        return _bf16(x, weight, bias, activation)
    return None


class _InferenceOnly(torch.autograd.Function):
    """Identity whose gradient is an error."""

    @staticmethod
    def forward(ctx: Any, found: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return found.view_as(found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        raise ConfigError(
            "precision: fp16, int8 and int4 on a CPU are for inference, and have no gradient; load the model in fp32 to train it"
        )


def _int8(
    x: Float[Tensor, "*batch in_dim"], weight: Tensor, bias: Tensor | None, activation: str | None
) -> Float[Tensor, "*batch out_dim"]:
    """Return a product with a scale for each row of activations and for each row of the matrix.

    A row's result depends on no other row, so that an item gives the same alone and in a batch. The integer sums are exact.
    """
    rows = x.reshape(-1, x.shape[-1]).float()  # [rows, in]
    product = _int8_few if len(rows) < MANY_ROWS and has_fbgemm() else _int8_many
    out = rows.new_empty(len(rows), len(weight))
    offset = rows.new_zeros(()) if bias is None else bias.float()
    for block, found in zip(rows.split(ROWS_OF_A_BLOCK), out.split(ROWS_OF_A_BLOCK), strict=True):
        steps = row_steps(block)
        torch.addcmul(offset, product(block / steps, weight), steps, out=found)
        _activate_in_place(found, activation)
    return out.to(x.dtype).reshape(*x.shape[:-1], len(weight))


def _int8_few(rows: Float[Tensor, "rows in_dim"], weight: Tensor) -> Float[Tensor, "rows out_dim"]:
    """Return the product of rows from -127 to 127, which are rounded, with fbgemm."""
    (matrix,) = packing(weight, "int8 few", pack_int8_few)
    return torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(rows, 1.0, 128, matrix)


def _int8_many(rows: Float[Tensor, "rows in_dim"], weight: Tensor) -> Float[Tensor, "rows out_dim"]:
    """Return the product of rows from -127 to 127, which are rounded, with oneDNN."""
    matrix, scales, zeros = packing(weight, "int8", pack_int8)
    stored = torch.quantize_per_tensor(rows, 1.0, 128, torch.quint8).int_repr()
    return torch.ops.onednn.qlinear_pointwise(stored, 1.0, 128, matrix, scales, zeros, None, 1.0, 0, torch.float32, "none", [], "")


def _activate_in_place(out: Tensor, activation: str | None) -> None:
    if activation == "relu":
        out.relu_()
    elif activation is not None:
        torch.ops.aten.gelu_(out, approximate=FUSED[activation][1])


def row_steps(rows: Float[Tensor, "rows in_dim"]) -> Float[Tensor, "rows 1"]:
    """Return the step of each row's integers: the largest absolute value becomes ``ACTIVATION_STEPS``; a row of zeros has a tiny step."""
    return rows.abs().amax(1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny * ACTIVATION_STEPS) / ACTIVATION_STEPS


def pack_int8(weight: Float[Tensor, "out_dim in_dim"]) -> tuple[Tensor, Tensor, Tensor]:
    """Return a matrix as int8 in oneDNN's blocked format, the scale of each of its rows, and their zero points."""
    stored, scales = int8_rows(weight)
    return torch.ops.onednn.qlinear_prepack(stored, None), scales, torch.zeros(len(weight), dtype=torch.int32)


def pack_int8_few(weight: Float[Tensor, "out_dim in_dim"]) -> tuple[Any]:
    """Return a matrix as int8 in fbgemm's format."""
    stored, scales = int8_rows(weight)
    matrix = torch._make_per_channel_quantized_tensor(  # type: ignore[attr-defined]
        stored, scales, torch.zeros(len(weight), dtype=torch.int64), 0
    )
    return (_by_fbgemm(torch.ops.quantized.linear_prepack, matrix),)


def _by_fbgemm(pack: Callable[..., Any], matrix: Tensor) -> Any:
    """Return a matrix packed without a bias, in fbgemm's format."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"  # type: ignore[assignment]
    try:
        return pack(matrix, None)
    finally:
        torch.backends.quantized.engine = before  # type: ignore[assignment]


def int8_rows(weight: Float[Tensor, "out_dim in_dim"]) -> tuple[Tensor, Float[Tensor, " out_dim"]]:
    """Return a matrix in int8, and the scale of each row; without VNNI with fewer steps (``SUMS_IN_16_BITS``)."""
    most = 127 if has_vnni() else SUMS_IN_16_BITS
    weight = weight.float()
    scales = weight.abs().amax(1).clamp_(min=torch.finfo(torch.float32).tiny * most) / most  # [out]
    return (weight / scales[:, None]).round_().to(torch.int8).contiguous(), scales


def _fp16(
    x: Float[Tensor, "*batch in_dim"], weight: Tensor, bias: Tensor | None, activation: str | None
) -> Float[Tensor, "*batch out_dim"]:
    """Return a product with weights rounded to float16, by fbgemm; activations and sums stay in float32.

    With 1 to 16 rows it takes .3 to .6 of the time of a float32 product (Zen 3), because it reads half of the bytes; with 300 and more
    about as long.
    """
    if x.ndim == 1:
        return _fp16(x[None], weight, bias, activation)[0]  # fbgemm takes rows only
    (matrix,) = packing(weight, "fp16", pack_fp16, width=2)
    wide = x.dtype == torch.float32  # calls that change nothing take time, too: a token of a text has a hundred small products
    out = torch.ops.quantized.linear_dynamic_fp16.default(x if wide else x.float(), matrix)
    if bias is not None:
        out += bias
    _activate_in_place(out, activation)
    return out if wide else out.to(x.dtype)


def pack_fp16(weight: Float[Tensor, "out_dim in_dim"]) -> tuple[Any]:
    """Return a matrix as float16 in fbgemm's format; weights beyond 65504 become that number."""
    return (_by_fbgemm(torch.ops.quantized.linear_prepack_fp16, weight.float().contiguous()),)


def _int4(
    x: Float[Tensor, "*batch in_dim"], weight: Tensor, bias: Tensor | None, activation: str | None
) -> Float[Tensor, "*batch out_dim"]:
    """Return a product with weights in four bits and activations rounded to bfloat16; each row's result depends on no other row."""
    matrix, scales = packing(weight, "int4", pack_int4)
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) < MANY_ROWS:
        out = int4_product(rows, matrix, scales, len(weight)).to(x.dtype)
    else:
        out = F.linear(rows.to(torch.bfloat16).float(), from_four_bits(weight, scales)).to(x.dtype)
    out = out if bias is None else out + bias
    return activate(out, activation).reshape(*x.shape[:-1], len(weight))


MARKED_PRODUCTS = {"fp16": _fp16, "int8": _int8, "int4": _int4}  # precision of a marked layer -> its product


def _bf16(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor | None:
    """Return a bfloat16 product from packed weights, or through float32 if the CPU has no bfloat16 instructions."""
    if has_bf16():
        if type(weight) is not torch.nn.Parameter:  # a slice or a folded matrix is new in every call, so that packing would not pay
            return None
        (matrix,) = packing(weight, "bf16", pack_bf16)
        name, algorithm = FUSED[activation] if activation is not None else ("none", "")
        return torch.ops.mkldnn._linear_pointwise(x, matrix, bias, name, [], algorithm)
    if x.numel() < ROWS_OF_WIDE_PRODUCT * x.shape[-1]:
        return None
    wide = F.linear(x.float(), weight.float(), None if bias is None else bias.float())
    return activate(wide, activation).to(x.dtype)


def pack_bf16(weight: Float[Tensor, "out_dim in_dim"]) -> tuple[Tensor]:
    """Return a matrix in oneDNN's blocked format."""
    return (torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 64),)


def activate(out: Tensor, activation: str | None) -> Tensor:
    """Apply an activation of ``FUSED``; None gives the input."""
    if activation is None:
        return out
    return F.relu(out) if activation == "relu" else F.gelu(out, approximate=FUSED[activation][1])


def _is_plain(x: Tensor, weight: Tensor) -> bool:
    """True if a product may leave torch's ``linear``: on a CPU, without gradients, autocast, tracing or compilation."""
    return (
        x.device.type == "cpu"
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
        and type(weight) in (torch.nn.Parameter, Tensor)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]
    )
