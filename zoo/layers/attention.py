"""Multi-head attention; the only module that calls torch's scaled-dot-product attention."""

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.layers.linear import Linear, fast_linear
from zoo.layers.low_precision.attention import attend_low, fits_low_attention


@runtime_checkable
class Layout(Protocol):
    """Attention pattern of a list of tokens [total, dim] without padding; see ``zoo.layers.packing``.

    ``asked`` holds the positions of the query tokens in the list; None means that every token is a query.
    """

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
        scale: float | None = None,
        cap: float | None = None,
        dropout: float = 0.0,
        before: tuple[Tensor, Tensor] | None = None,
    ) -> Float[Tensor, "asked dim"]: ...


class Attention(nn.Module):
    """Multi-head self-attention with queries, keys and values from one matrix multiplication.

    Source: Vaswani et al. 2017, section 3.2. The rows of ``qkv.weight`` are q, k, v, each head-major (timm, CLIP ``in_proj``).

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
        mask: Bool[Tensor, "batch num_tokens"] | Bool[Tensor, "batch num_tokens num_tokens"] | None = None,
        causal: bool = False,
        layout: Layout | None = None,
    ) -> Float[Tensor, "*asked dim"]:
        """Attend within each row of a batch [batch, num_tokens, dim], or within a list [total, dim] by its layout.

        Args:
            x: a batch, or a list of tokens if ``layout`` is given.
            mask: True at tokens that may be attended to; with an axis of queries before that of keys, by the query.
            causal: True lets each token attend only to itself and the tokens before it.
            layout: attention pattern of a list; ``mask`` and ``causal`` are then ignored.
        """
        if layout is not None:
            return self.out(layout.attend(*self._project(x, layout), num_heads=self.num_heads))
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if mask is None and not causal and fits_low_attention(q, k, self.out_precision):
            return self.out(attend_low(q, k, v, num_heads=self.num_heads).to(q.dtype))
        return self.out(attend(q, k, v, num_heads=self.num_heads, mask=mask, causal=causal))

    @property
    def out_precision(self) -> str | None:
        """Precision of the output layer, "fp16", "int8" or "int4" if it is marked."""
        return self.out.precision if isinstance(self.out, Linear) else None

    def _project(self, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        """Return the queries of the layout's query tokens, and the keys and values of all tokens."""
        # Slicing qkv.weight saves work, but would bypass an adapter, a quantised layer or its packed copy, and forward hooks.
        if layout.asked is None or type(self.qkv) is not Linear or self.qkv._forward_hooks or self.qkv.precision is not None:
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
        """Return the attention weight of each query token (row) for each key token (column); for inspection, not used by ``forward``."""
        q, k, _ = self.qkv(x).chunk(3, dim=-1)
        return attention_weights(q, k, num_heads=self.num_heads, mask=mask, causal=causal)


class CrossAttention(nn.Module):
    """Multi-head cross-attention from one sequence to another; the rows of ``key_value.weight`` are k, v."""

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
        """Attend from ``x`` to ``context``; ``mask`` is True at the tokens of ``context`` that may be attended to."""
        k, v = self.key_value(context).chunk(2, dim=-1)
        return self.out(attend(self.query(x), k, v, num_heads=self.num_heads, mask=mask))


class KeysWithoutBias(Linear):
    """Projection to keys, values and optionally queries with one matrix and without a bias on keys (Whisper).

    The rows of ``weight`` are q, k, v; ``bias`` holds those of q and v.

    Args:
        dim: width of each of the three outputs.
        queries: False leaves out the queries.
        in_dim: width of the input; None takes ``dim``.
    """

    def __init__(self, dim: int, *, queries: bool = True, in_dim: int | None = None) -> None:
        parts = 3 if queries else 2
        super().__init__(dim if in_dim is None else in_dim, parts * dim, bias=False)
        self.dim, self.bias = dim, nn.Parameter(torch.zeros((parts - 1) * dim))

    def forward(self, input: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        *query, value = self.bias.split(self.dim)
        return fast_linear(input, self.weight, torch.cat([*query, torch.zeros_like(value), value]), precision=self.precision)


def refuse_uneven_heads(dim: int, num_heads: int) -> None:
    """Raise ConfigError unless ``num_heads`` is positive and divides ``dim``."""
    if num_heads < 1 or dim % num_heads:
        legal = [n for n in range(1, dim + 1) if dim % n == 0 and dim // n >= 8]  # heads below 8 channels are legal, but no help
        raise ConfigError(f"num_heads: {num_heads} does not divide dim {dim}; divisors of {dim}: {legal}")


def attend(
    q: Float[Tensor, "batch queries dim"],
    k: Float[Tensor, "batch keys kv_dim"],
    v: Float[Tensor, "batch keys kv_dim"],
    *,
    num_heads: int,
    mask: Bool[Tensor, "batch keys"] | Bool[Tensor, "batch queries keys"] | None = None,
    causal: bool = False,
    window: int | None = None,
    prefix: Int[Tensor, " batch"] | None = None,
    scale: float | None = None,
    cap: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "batch queries dim"]:
    """Split into heads, attend, concatenate the heads.

    Args:
        q: queries.
        k: keys.
        v: values.
        num_heads: heads of the queries. Keys and values may have fewer: each of their heads then serves equally many consecutive heads of
            the queries.
        mask: True at keys that may be attended to, of each row or of each query of each row.
        causal: True if each query attends only to keys up to its own position; the queries are the last positions of the keys.
        window: maximum number of keys that a causal query attends to, its own included; None: no limit.
        prefix: number of first tokens of each row that see each other, also outside the window; None: of no row.
        scale: factor on the scores; None takes head_dim ** -0.5.
        cap: soft limit of the scores, see ``attend_heads``.
        dropout: share of the attention weights that are set to zero.
    """
    head_dim, (queries, keys) = q.shape[-1] // num_heads, (q.shape[1], k.shape[1])
    q, k, v = (x.unflatten(-1, (-1, head_dim)).transpose(1, 2) for x in (q, k, v))  # [B, heads, N, head_dim]
    narrow = window is not None and causal and window < keys
    # Without a mask, equal lengths and no window, allowed stays None: torch's causal flag is faster than a mask.
    allowed = attention_mask(mask, queries, causal, window)
    if causal and mask is None and (queries < keys or narrow):
        allowed = causal_mask(queries, keys, q.device, window)
    if causal and prefix is not None:
        seen = causal_mask(queries, keys, q.device, window) if allowed is None else allowed
        inside = torch.arange(keys, device=q.device) < prefix[:, None]  # [B, keys]
        allowed = seen | (inside[:, None, keys - queries :, None] & inside[:, None, None, :])  # [B, 1, queries, keys]
    return attend_heads(q, k, v, allowed=allowed, causal=causal, scale=scale, cap=cap, dropout=dropout)


def attend_heads(
    q: Float[Tensor, "batch num_heads queries head_dim"],
    k: Float[Tensor, "batch num_kv_heads keys head_dim"],
    v: Float[Tensor, "batch num_kv_heads keys head_dim"],
    *,
    allowed: Bool[Tensor, "batch 1 queries_or_1 keys"] | Bool[Tensor, "queries keys"] | None = None,
    causal: bool = False,
    bias: Float[Tensor, "batch_or_1 num_heads queries keys"] | None = None,
    scale: float | None = None,
    cap: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "batch queries dim"]:
    """Attend with scale head_dim ** -0.5, and concatenate the heads.

    If several query heads share a head of keys and values (grouped-query attention), keys and values are not copied. With one query, the
    query heads that share keys are passed as several queries of one head; with more queries, the keys are expanded without a copy.

    Args:
        q: queries.
        k: keys; their number of heads divides that of the queries.
        v: values, with as many heads as the keys.
        allowed: True where a query may attend to a key; it must also express causality.
        causal: True applies a causal mask, if ``allowed`` and ``bias`` are None; there must then be as many queries as keys, or one query.
        bias: added to the scores; not possible with shared heads.
        scale: factor on the scores; None takes head_dim ** -0.5 (T5: 1).
        cap: soft limit of the scores: cap * tanh(score / cap), before the mask (Gemma 2); None: no limit.
        dropout: share of the attention weights that are set to zero.
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
    causal = bool(causal and seen is None and queries > 1)  # a single query is the last position: it attends to all keys
    if cap is not None:
        assert bias is None
        x = _attend_capped(q, k, v, allowed, causal=causal, scale=scale, cap=cap, dropout=dropout)
    else:
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout, is_causal=causal, scale=scale)
    return x.reshape(batch, num_heads, queries, head_dim).transpose(1, 2).flatten(2)  # [B, queries, dim]


def _attend_capped(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, *, causal: bool, scale: float | None, cap: float, dropout: float
) -> Tensor:
    """Attend with scores that a tanh limits; torch's fused attention has no place for it."""
    scores = (q @ k.transpose(-2, -1)) * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = cap * torch.tanh(scores / cap)
    if causal:
        allowed = causal_mask(q.shape[-2], k.shape[-2], q.device)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    weights = F.dropout(scores.float().softmax(-1).to(q.dtype), dropout, training=dropout > 0)
    return weights @ v


def attention_weights(
    q: Float[Tensor, "batch queries dim"],
    k: Float[Tensor, "batch keys dim"],
    *,
    num_heads: int,
    mask: Bool[Tensor, "batch keys"] | None = None,
    causal: bool = False,
) -> Float[Tensor, "batch num_heads queries keys"]:
    """Return the attention weights of ``attend``, which itself never holds them in memory; each row sums to 1."""
    q, k = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k))  # [B, heads, N, head_dim]
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5  # [B, heads, queries, keys]
    allowed = attention_mask(mask, q.shape[2], causal)
    if allowed is None and causal:
        allowed = causal_mask(q.shape[2], k.shape[2], q.device)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    return scores.softmax(-1)


def attention_mask(
    mask: Bool[Tensor, "batch keys"] | Bool[Tensor, "batch queries keys"] | None, queries: int, causal: bool, window: int | None = None
) -> Bool[Tensor, "batch 1 queries_or_1 keys"] | None:
    """Return a mask of keys, or of queries and keys, combined with causality (True is allowed), or None if ``mask`` is None.

    Keys ``[1 1 0]`` with ``causal`` give the rows ``[1 0 0], [1 1 0], [1 1 0]``. A query without any allowed key (an empty item, or causal
    padding on the left) attends to every key, because a softmax over nothing is NaN; its output is never used.
    """
    if mask is None:
        return None
    allowed = mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]  # [B, 1, 1 or queries, keys]
    if causal:
        allowed = allowed & causal_mask(queries, mask.shape[-1], mask.device, window)
    return allowed | ~allowed.any(-1, keepdim=True)


def causal_mask(queries: int, keys: int, device: torch.device, window: int | None = None) -> Bool[Tensor, "queries keys"]:
    """Return the causal mask (True is allowed) of queries that are the last positions of the keys.

    2 queries of 3 keys give the rows ``[1 1 0], [1 1 1]``; with a window of 2, ``[1 1 0], [0 1 1]``.
    """
    seen = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return seen if window is None else seen.triu(keys - queries - window + 1)
