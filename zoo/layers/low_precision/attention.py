"""Attention in bfloat16 on a CPU that multiplies in it, for encoders without mask."""

import torch
from jaxtyping import Float
from torch import Tensor

from zoo.layers.low_precision.cpu import has_amx, has_bf16

FEWEST_KEYS = 128  # below, torch's own attention is as fast (CLIP B/32 with 50 tokens, sentences)
QUERIES_OF_A_BLOCK = 256  # scores of more queries leave the cache; 1,500 tokens take less than half the time of torch's own attention


def fits_low_attention(q: Tensor, k: Tensor, precision: str | None) -> bool:
    """True if ``attend_low`` is faster than torch's attention, which for bfloat16 takes longer than for float32 without AMX.

    Args:
        q: queries [batch, queries, dim], in bfloat16, or in float32 beside layers in int8.
        k: keys [batch, keys, dim].
        precision: "fp16", "int8" or "int4" of the layers around, or None.
    """
    return (
        k.shape[1] >= FEWEST_KEYS
        and q.device.type == "cpu"
        and (q.dtype == torch.bfloat16 or (precision in ("int8", "int4") and q.dtype == torch.float32))
        and not (torch.is_grad_enabled() and q.requires_grad)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]
        and has_bf16()
        and not has_amx()
    )


def attend_low(
    q: Float[Tensor, "batch queries dim"], k: Float[Tensor, "batch keys dim"], v: Float[Tensor, "batch keys dim"], *, num_heads: int
) -> Float[Tensor, "batch queries dim"]:
    """Attend in bfloat16 with scale head_dim ** -0.5, in blocks of queries; equal to ``attend`` up to bfloat16."""
    batch, scale = len(q), (q.shape[-1] // num_heads) ** -0.5
    q, k, v = (_heads(x.bfloat16(), num_heads) for x in (q, k, v))  # [B * heads, N, head_dim]
    nothing = q.new_zeros(1, 1, 1)
    blocks = [
        torch.baddbmm(nothing, block, k.mT, beta=0, alpha=scale).softmax(-1) @ v for block in q.split(QUERIES_OF_A_BLOCK, dim=1)
    ]  # [B * heads, block, head_dim]
    return torch.cat(blocks, dim=1).unflatten(0, (batch, num_heads)).transpose(1, 2).flatten(2)  # [B, queries, dim]


def _heads(x: Tensor, num_heads: int) -> Tensor:
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2).flatten(0, 1)  # [B * heads, N, head_dim]
