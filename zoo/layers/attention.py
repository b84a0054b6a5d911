"""Multi-head attention: the one place that calls scaled-dot-product attention."""

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.layers.linear import Linear, fast_linear


@runtime_checkable
class Layout(Protocol):
    """Which tokens of a list [total, dim] attend to which, where they are no padded batch; see ``zoo.layers.packing``."""

    asked: Int[Tensor, " asked"] | None

    def asking(self, x: Float[Tensor, "total dim"]) -> Float[Tensor, "asked dim"]: ...

    def attend(
        self,
        q: Float[Tensor, "asked dim"],
        k: Float[Tensor, "total kv_dim"],
        v: Float[Tensor, "total kv_dim"],
        *,
        num_heads: int,
        window: int | None = None,
        dropout: float = 0.0,
        before: tuple[Tensor, Tensor] | None = None,
    ) -> Float[Tensor, "asked dim"]: ...


class Attention(nn.Module):
    """Multi-head self-attention with queries, keys and values from one matrix multiplication.

    Source: Vaswani et al. 2017, section 3.2. Rows of ``qkv.weight`` are q, k, v, each head-major (timm, CLIP ``in_proj``).

    Raises:
        ConfigError: ``num_heads`` does not divide ``dim``.
    """

    def __init__(self, *, dim: int, num_heads: int, bias: bool = True) -> None:
        super().__init__()
        refuse_uneven_heads(dim, num_heads)
        self.num_heads = num_heads
        self.qkv = Linear(dim, 3 * dim, bias=bias)
        self.out = Linear(dim, dim, bias=bias)

    def forward(
        self,
        x: Float[Tensor, "*tokens dim"],
        mask: Bool[Tensor, "batch num_tokens"] | None = None,
        causal: bool = False,
        layout: Layout | None = None,
    ) -> Float[Tensor, "*asked dim"]:
        """Attend within each row of a batch [batch, num_tokens, dim], or as the layout of a list [total, dim] says.

        Args:
            mask: True at tokens that may be attended to.
        """
        if layout is not None:
            return self.out(layout.attend(*self._project(x, layout), num_heads=self.num_heads))
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.out(attend(q, k, v, num_heads=self.num_heads, mask=mask, causal=causal))

    def _project(self, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of the tokens that ask, keys and values of all."""
        if layout.asked is None or type(self.qkv) is not Linear or self.qkv._forward_hooks:  # an adapter may have taken its place
            q, k, v = self.qkv(x).chunk(3, dim=-1)
            return layout.asking(q), k, v
        dim, weight, bias = x.shape[-1], self.qkv.weight, self.qkv.bias
        q = fast_linear(layout.asking(x), weight[:dim], None if bias is None else bias[:dim])
        k, v = fast_linear(x, weight[dim:], None if bias is None else bias[dim:]).chunk(2, dim=-1)
        return q, k, v

    def weights(
        self,
        x: Float[Tensor, "batch num_tokens dim"],
        mask: Bool[Tensor, "batch num_tokens"] | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "batch num_heads num_tokens num_tokens"]:
        """How much each token (row) takes from each (column); for pictures and probes, not on the way to an output."""
        q, k, _ = self.qkv(x).chunk(3, dim=-1)
        return attention_weights(q, k, num_heads=self.num_heads, mask=mask, causal=causal)


class CrossAttention(nn.Module):
    """Multi-head attention of one sequence to another; rows of ``key_value.weight`` are k, v."""

    def __init__(self, *, dim: int, num_heads: int, bias: bool = True) -> None:
        super().__init__()
        refuse_uneven_heads(dim, num_heads)
        self.num_heads = num_heads
        self.query = Linear(dim, dim, bias=bias)
        self.key_value = Linear(dim, 2 * dim, bias=bias)
        self.out = Linear(dim, dim, bias=bias)

    def forward(
        self,
        x: Float[Tensor, "batch queries dim"],
        context: Float[Tensor, "batch keys dim"],
        mask: Bool[Tensor, "batch keys"] | None = None,
    ) -> Float[Tensor, "batch queries dim"]:
        """``mask`` is True at the tokens of ``context`` that may be attended to."""
        k, v = self.key_value(context).chunk(2, dim=-1)
        return self.out(attend(self.query(x), k, v, num_heads=self.num_heads, mask=mask))


class KeysWithoutBias(Linear):
    """Queries, where asked for, keys and values of one matrix; keys have no bias (Whisper). Rows of ``weight`` are q, k, v.

    Args:
        in_dim: of what is projected; None: ``dim``.
    """

    def __init__(self, dim: int, *, queries: bool = True, in_dim: int | None = None) -> None:
        parts = 3 if queries else 2
        super().__init__(dim if in_dim is None else in_dim, parts * dim, bias=False)
        self.dim, self.bias = dim, nn.Parameter(torch.zeros((parts - 1) * dim))

    def forward(self, input: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        *query, value = self.bias.split(self.dim)
        return fast_linear(input, self.weight, torch.cat([*query, torch.zeros_like(value), value]))


def refuse_uneven_heads(dim: int, num_heads: int) -> None:
    """Raise ConfigError where the heads do not share the width evenly."""
    if num_heads < 1 or dim % num_heads:
        legal = [n for n in range(1, dim + 1) if dim % n == 0 and dim // n >= 8]
        raise ConfigError(f"num_heads: {num_heads} does not divide dim {dim}; divisors of {dim}: {legal}")


def attend(
    q: Float[Tensor, "batch queries dim"],
    k: Float[Tensor, "batch keys kv_dim"],
    v: Float[Tensor, "batch keys kv_dim"],
    *,
    num_heads: int,
    mask: Bool[Tensor, "batch keys"] | None = None,
    causal: bool = False,
    window: int | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "batch queries dim"]:
    """Split into heads, attend with scale head_dim ** -0.5, join the heads.

    Args:
        num_heads: of the queries; keys and values may have fewer heads, each for as many queries' heads that follow on each other.
        causal: the queries are the last of the keys; each sees the keys up to its own.
        window: a causal query sees so many keys at most, its own among them.
        dropout: share of the weights that are set to zero.
    """
    head_dim, (queries, keys) = q.shape[-1] // num_heads, (q.shape[1], k.shape[1])
    q, k, v = (x.unflatten(-1, (-1, head_dim)).transpose(1, 2) for x in (q, k, v))  # [B, heads, N, head_dim]
    narrow = window is not None and causal and window < keys
    allowed = attention_mask(mask, queries, causal, window)
    if causal and mask is None and (queries < keys or narrow):
        allowed = causal_mask(queries, keys, q.device, window)
    return attend_heads(q, k, v, allowed=allowed, causal=causal, dropout=dropout)


def attend_heads(
    q: Float[Tensor, "batch num_heads queries head_dim"],
    k: Float[Tensor, "batch num_kv_heads keys head_dim"],
    v: Float[Tensor, "batch num_kv_heads keys head_dim"],
    *,
    allowed: Bool[Tensor, "batch 1 queries_or_1 keys"] | Bool[Tensor, "queries keys"] | None = None,
    causal: bool = False,
    bias: Float[Tensor, "1 num_heads queries keys"] | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "batch queries dim"]:
    """Attend with scale head_dim ** -0.5, and join the heads.

    Keys and values are never repeated for the heads that share them: a single query's heads stand where queries do, and those of
    several queries see the same memory.

    Args:
        allowed: True where a query may see a key; it must hold causality too.
        causal: where nothing is said of ``allowed``, as many queries as keys see the keys up to their own.
        bias: added to the scores, where no heads are shared.
        scale: another factor of the products than head_dim ** -0.5 (T5: 1).
        dropout: share of the weights that are set to zero.
    """
    batch, num_heads, queries, head_dim = q.shape
    shared = num_heads // k.shape[1]  # query heads for each head of the keys
    if shared > 1 and queries == 1:
        q = q.reshape(batch, -1, shared, head_dim)  # [B, kv_heads, shared, head_dim]
    elif shared > 1:
        if allowed is not None and allowed.ndim == 4:
            allowed = allowed.repeat_interleave(k.shape[1], dim=0)  # [B * kv_heads, 1, queries, keys]
        q = q.reshape(-1, shared, queries, head_dim)  # [B * kv_heads, shared, queries, head_dim]
        k, v = (x.flatten(0, 1)[:, None].expand(-1, shared, -1, -1) for x in (k, v))  # [B * kv_heads, shared, keys, head_dim]
    seen: Tensor | None = allowed
    if bias is not None:
        assert shared == 1 and (allowed is not None or not causal)
        seen = bias if allowed is None else bias.masked_fill(~allowed, float("-inf"))  # [B or 1, heads, queries, keys]
    causal = causal and seen is None and queries > 1
    x = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout, is_causal=causal, scale=scale)
    return x.reshape(batch, num_heads, queries, head_dim).transpose(1, 2).flatten(2)  # [B, queries, dim]


def attention_weights(
    q: Float[Tensor, "batch queries dim"],
    k: Float[Tensor, "batch keys dim"],
    *,
    num_heads: int,
    mask: Bool[Tensor, "batch keys"] | None = None,
    causal: bool = False,
) -> Float[Tensor, "batch num_heads queries keys"]:
    """The softmax that ``attend`` multiplies the values with and never holds; each row sums to one."""
    q, k = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k))  # [B, heads, N, head_dim]
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5  # [B, heads, queries, keys]
    allowed = attention_mask(mask, q.shape[2], causal)
    if allowed is None and causal:
        allowed = causal_mask(q.shape[2], k.shape[2], q.device)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    return scores.softmax(-1)


def attention_mask(
    mask: Bool[Tensor, "batch keys"] | None, queries: int, causal: bool, window: int | None = None
) -> Bool[Tensor, "batch 1 queries_or_1 keys"] | None:
    """Combine a key mask with causality; True is allowed.

    Keys ``[1 1 0]`` with ``causal`` give the rows ``[1 0 0], [1 1 0], [1 1 0]``. Where a query would be allowed nothing
    (an empty item, or causal padding to the left) it sees every key instead of giving NaN; nobody reads its output.
    """
    if mask is None:
        return None
    allowed = mask[:, None, None, :]  # [B, 1, 1, keys]
    if causal:
        allowed = allowed & causal_mask(queries, mask.shape[1], mask.device, window)
    return allowed | ~allowed.any(-1, keepdim=True)


def causal_mask(queries: int, keys: int, device: torch.device, window: int | None = None) -> Bool[Tensor, "queries keys"]:
    """Queries that are the last of the keys: 2 of 3 see ``[1 1 0], [1 1 1]``, and with a window of 2 ``[1 1 0], [0 1 1]``."""
    seen = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return seen if window is None else seen.triu(keys - queries - window + 1)
