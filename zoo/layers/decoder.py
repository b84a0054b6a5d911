"""Pre-norm block of a causal language model, and what all blocks of one call share."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.layers.attention import Layout, attend_heads, causal_mask
from zoo.layers.cache import Cache
from zoo.layers.linear import Linear
from zoo.layers.mlp import feed_forward
from zoo.layers.norm import build_norm


@runtime_checkable
class Rotation(Protocol):
    """Turns the queries and keys of one call by their positions: ``zoo.layers.rope.Turn``, ``zoo.layers.xpos.ScaledTurn``."""

    def __call__(self, states: Tensor, num_queries: int) -> tuple[Tensor, Tensor]:
        """Queries and keys, each [*tokens, heads, head_dim], of ``states``, whose first ``num_queries`` heads are the queries'."""
        ...


@dataclass(frozen=True)
class Call:
    """What is the same for every block of one call.

    Attributes:
        rotation: of queries and keys, with rotary positions.
        allowed: True where a query may see a key; None: each sees the keys up to its own.
        first_key: keys before it are out of every query's window.
        window: of a layout's rows.
    """

    rotation: Rotation | None = None
    allowed: Bool[Tensor, "batch 1 queries keys"] | Bool[Tensor, "queries keys"] | None = None
    first_key: int = 0
    cache: Cache | None = None
    layout: Layout | None = None
    window: int | None = None


class Prefix(nn.Module):
    """Learnt keys and values that every token sees, as if they stood before the text, and that have no position.

    Source: Li and Liang 2021 (prefix tuning, arXiv 2101.00190), section 4.2; without the network that they make them of in training.
    """

    def __init__(self, *, num_tokens: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.randn(num_heads, num_tokens, head_dim) * 0.02)
        self.values = nn.Parameter(torch.randn(num_heads, num_tokens, head_dim) * 0.02)

    def listed(self) -> tuple[Float[Tensor, "num_tokens kv_dim"], Float[Tensor, "num_tokens kv_dim"]]:
        """Keys and values with their heads side by side."""
        return self.keys.transpose(0, 1).flatten(1), self.values.transpose(0, 1).flatten(1)

    def before(
        self, k: Float[Tensor, "batch num_heads keys head_dim"], v: Float[Tensor, "batch num_heads keys head_dim"]
    ) -> list[Float[Tensor, "batch num_heads longer head_dim"]]:
        """Keys and values with these before them."""
        return [torch.cat([x.to(y.dtype).expand(len(y), -1, -1, -1), y], dim=2) for x, y in ((self.keys, k), (self.values, v))]

    def seen(self, allowed: Tensor | None, queries: int, keys: int, device: torch.device) -> Tensor | None:
        """Which keys a query sees, with these before them; see ``seen_keys``."""
        num_tokens = self.keys.shape[1]
        if allowed is not None:
            return F.pad(allowed, (num_tokens, 0), value=True)
        return causal_mask(queries, num_tokens + keys, device) if queries > 1 else None


class CausalAttention(nn.Module):
    """Self-attention whose keys and values may have fewer heads than the queries, and may be kept.

    Source: Ainslie et al. 2023 (arXiv 2305.13245), section 2.2. Rows of ``qkv.weight`` are q, k, v, each head-major.

    Args:
        norm: of the joined heads, before the last linear layer.
        dropout: of the attention's weights, in training.

    Raises:
        ConfigError: ``num_kv_heads`` does not divide ``num_heads``.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        bias: bool,
        norm: nn.Module | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if num_kv_heads < 1 or num_heads % num_kv_heads:
            legal = [n for n in range(1, num_heads + 1) if num_heads % n == 0]
            raise ConfigError(f"num_kv_heads: {num_kv_heads} does not divide num_heads {num_heads}; allowed are {legal}")
        self.num_heads, self.num_kv_heads, self.dropout = num_heads, num_kv_heads, dropout
        self.qkv = Linear(dim, (num_heads + 2 * num_kv_heads) * head_dim, bias=bias)
        self.norm = norm
        self.prefix: Prefix | None = None  # see ``zoo.layers.adapters``
        self.out = Linear(num_heads * head_dim, dim, bias=bias)

    def forward(self, x: Float[Tensor, "*tokens dim"], call: Call, layer: int) -> Float[Tensor, "*tokens dim"]:
        """``layer`` says whose part of the cache it is."""
        heads, kv_heads = self.num_heads, self.num_kv_heads
        states = self.qkv(x).unflatten(-1, (heads + 2 * kv_heads, -1))  # [..., heads of q, k, v, head_dim]
        asking, v = states.split([heads + kv_heads, kv_heads], dim=-2)
        q, k = asking.split([heads, kv_heads], dim=-2) if call.rotation is None else call.rotation(asking, heads)
        joined = self._attend(q, k, v, call, layer)
        return self.out(joined if self.norm is None else self.norm(joined))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, call: Call, layer: int) -> Float[Tensor, "*tokens joined_dim"]:
        """Heads [..., heads, head_dim] to what they say, side by side."""
        dropout = self.dropout if self.training else 0.0
        if call.layout is not None:
            q, k, v = (states.flatten(-2) for states in (q, k, v))  # [total, heads * head_dim]
            before = None if self.prefix is None else self.prefix.listed()
            return call.layout.attend(q, k, v, num_heads=self.num_heads, window=call.window, dropout=dropout, before=before)
        q, k, v = (states.transpose(1, 2) for states in (q, k, v))  # [B, heads, L, head_dim]
        if call.cache is not None:
            k, v = call.cache.append(layer, k, v)
        k, v, allowed = k[:, :, call.first_key :], v[:, :, call.first_key :], call.allowed
        if self.prefix is not None:
            allowed = self.prefix.seen(allowed, q.shape[2], k.shape[2], q.device)
            k, v = self.prefix.before(k, v)
        return attend_heads(q, k, v, allowed=allowed, causal=True, dropout=dropout)


class DecoderBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Source: Radford et al. 2019 (GPT-2), section 2.3; Touvron et al. 2023 (LLaMA, arXiv 2302.13971), section 2.2.

    Args:
        inner_norms: a second norm within attention (of the joined heads) and one within the feed-forward part (of its hidden channels),
            each before the linear layer that goes back to the residual stream.
        dropout: of both branches, in training.
        attention_dropout: of the attention's weights, in training.
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
        inner_norms: tuple[nn.Module | None, nn.Module | None] = (None, None),
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        heads = {"num_heads": num_heads, "num_kv_heads": num_kv_heads, "head_dim": head_dim}
        self.norm1 = build_norm(norm, dim, eps)
        self.attention = CausalAttention(dim=dim, **heads, bias=bias, norm=inner_norms[0], dropout=attention_dropout)
        self.norm2 = build_norm(norm, dim, eps)
        self.mlp = feed_forward(dim=dim, hidden_dim=hidden_dim, activation=activation, bias=bias, norm=inner_norms[1])
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "*tokens dim"], call: Call, layer: int) -> Float[Tensor, "*tokens dim"]:
        x = x + self.drop(self.attention(self.norm1(x), call, layer))
        return x + self.drop(self.mlp(self.norm2(x)))


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
