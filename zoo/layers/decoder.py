"""Pre-norm block of a causal language model, and what all blocks of one call share."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.layers.attention import Layout, attend_heads, causal_mask
from zoo.layers.cache import Cache
from zoo.layers.linear import Linear
from zoo.layers.mlp import feed_forward
from zoo.layers.norm import build_norm
from zoo.layers.rope import rotate


@dataclass(frozen=True)
class Call:
    """What is the same for every block of one call.

    Attributes:
        rotation: cosine and sine of the tokens' angles, with rotary positions.
        allowed: True where a query may see a key; None: each sees the keys up to its own.
        first_key: keys before it are out of every query's window.
        window: of a layout's rows.
    """

    rotation: tuple[Float[Tensor, "*tokens half"], Float[Tensor, "*tokens half"]] | None = None
    allowed: Bool[Tensor, "batch 1 queries keys"] | Bool[Tensor, "queries keys"] | None = None
    first_key: int = 0
    cache: Cache | None = None
    layout: Layout | None = None
    window: int | None = None


class CausalAttention(nn.Module):
    """Self-attention whose keys and values may have fewer heads than the queries, and may be kept.

    Source: Ainslie et al. 2023 (arXiv 2305.13245), section 2.2. Rows of ``qkv.weight`` are q, k, v, each head-major.

    Raises:
        ConfigError: ``num_kv_heads`` does not divide ``num_heads``.
    """

    def __init__(self, *, dim: int, num_heads: int, num_kv_heads: int, head_dim: int, bias: bool) -> None:
        super().__init__()
        if num_kv_heads < 1 or num_heads % num_kv_heads:
            legal = [n for n in range(1, num_heads + 1) if num_heads % n == 0]
            raise ConfigError(f"num_kv_heads: {num_kv_heads} does not divide num_heads {num_heads}; allowed are {legal}")
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.qkv = Linear(dim, (num_heads + 2 * num_kv_heads) * head_dim, bias=bias)
        self.out = Linear(num_heads * head_dim, dim, bias=bias)

    def forward(self, x: Float[Tensor, "*tokens dim"], call: Call, layer: int) -> Float[Tensor, "*tokens dim"]:
        """``layer`` says whose part of the cache it is."""
        heads, kv_heads = self.num_heads, self.num_kv_heads
        states = self.qkv(x).unflatten(-1, (heads + 2 * kv_heads, -1))  # [..., heads of q, k, v, head_dim]
        turned, v = states.split([heads + kv_heads, kv_heads], dim=-2)
        if call.rotation is not None:
            turned = rotate(turned, *call.rotation)
        q, k = turned.split([heads, kv_heads], dim=-2)
        if call.layout is not None:
            q, k, v = (states.flatten(-2) for states in (q, k, v))  # [total, heads * head_dim]
            return self.out(call.layout.attend(q, k, v, num_heads=heads, window=call.window))
        q, k, v = (states.transpose(1, 2) for states in (q, k, v))  # [B, heads, L, head_dim]
        if call.cache is not None:
            k, v = call.cache.append(layer, k, v)
        k, v = k[:, :, call.first_key :], v[:, :, call.first_key :]
        return self.out(attend_heads(q, k, v, allowed=call.allowed, causal=True))


class DecoderBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Source: Radford et al. 2019 (GPT-2), section 2.3; Touvron et al. 2023 (LLaMA, arXiv 2302.13971), section 2.2.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        hidden_dim: int,
        activation: str,
        norm: str,
        eps: float,
        bias: bool,
    ) -> None:
        super().__init__()
        self.norm1 = build_norm(norm, dim, eps)
        self.attention = CausalAttention(dim=dim, num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim, bias=bias)
        self.norm2 = build_norm(norm, dim, eps)
        self.mlp = feed_forward(dim=dim, hidden_dim=hidden_dim, activation=activation, bias=bias)

    def forward(self, x: Float[Tensor, "*tokens dim"], call: Call, layer: int) -> Float[Tensor, "*tokens dim"]:
        x = x + self.attention(self.norm1(x), call, layer)
        return x + self.mlp(self.norm2(x))


def seen_keys(
    real: Bool[Tensor, "batch keys"] | None, queries: int, keys: int, window: int | None, device: torch.device
) -> Bool[Tensor, "batch 1 queries keys"] | Bool[Tensor, "queries keys"] | None:
    """Which keys each query sees; the queries are the last of the keys. None: those up to its own.

    The window counts real tokens alone, so that padding changes nothing: of the keys ``[1 1 0 1]`` with a window of 2 the last
    query sees ``[0 1 0 1]``. A query that would see nothing (padding on the left) sees everything instead of giving NaN.

    Args:
        real: True at real tokens; None: all are.
    """
    window = keys if window is None else window
    if real is None:
        return causal_mask(queries, keys, device, window) if window < keys or 1 < queries < keys else None
    allowed = real[:, None, None, :] & causal_mask(queries, keys, device)  # [B, 1, queries, keys]
    if window < keys:
        order = real.cumsum(1)
        allowed = allowed & (order[:, None, None, :] > order[:, None, keys - queries :, None] - window)
    return allowed | ~allowed.any(-1, keepdim=True)
