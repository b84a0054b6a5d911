"""Instructions of this CPU that decide which kernel is the fastest, or is right at all."""

import platform
from functools import cache

import torch

X86 = ("x86_64", "AMD64", "i686", "x86")


@cache
def has_bf16() -> bool:
    """True if the CPU multiplies bfloat16 itself (AVX-512 BF16 or AMX), and torch's blocked format works.

    Without, torch's bfloat16 product of 1,576 rows takes nine times as long as float32 (Zen 3).
    """
    if not (torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported()):
        return False
    try:
        torch.ops.mkldnn._reorder_linear_weight(torch.zeros(8, 8, dtype=torch.bfloat16), 8)
    except RuntimeError:  # a build of oneDNN that lacks the format
        return False
    return True


@cache
def has_amx() -> bool:
    """True if the CPU has tiles for matrix products, with which torch's own bfloat16 attention is fast."""
    return torch.cpu._is_amx_tile_supported()


def has_vnni() -> bool:
    """True if the CPU adds four products of int8 in 32 bits. Without, two products are added in 16 bits, which may saturate."""
    return torch.cpu._is_vnni_supported()


# torch.compile cannot trace the question to the CPU, so each layer that simulates int8 in training would break the graph; it also warns
# of functools.cache. The mark is that of torch.compiler.assume_constant_result, whose import takes a second.
has_vnni._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def has_fbgemm() -> bool:
    """True if torch was built with fbgemm (x86 only), whose int8 and fp16 products are the fastest with few rows."""
    return "fbgemm" in torch.backends.quantized.supported_engines


def instructions() -> dict[str, bool]:
    """Return which of the instructions that decide the speed of low precisions this CPU has, by name."""
    return {"bf16": has_bf16(), "AMX": has_amx(), "VNNI": has_vnni()}


def reason_to_avoid(precision: str) -> str | None:
    """Say why a precision gains little on this CPU; None if it has the instructions, or is no x86, of which torch tells nothing."""
    if platform.machine() not in X86:
        return None
    if precision == "bf16" and not (has_bf16() or has_amx()):
        return "this CPU has no bfloat16 instructions (AVX-512 BF16 or AMX): bf16 halves the memory but is slower than fp32; take int8"
    if precision == "int8" and not has_vnni():
        return "this CPU has no int8 instructions (VNNI), so int8 gains less speed and accuracy than on one that has them"
    return None
