"""Pre-norm and post-norm blocks of a causal language model, and the arguments that all blocks of one call share."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.layers.attention import Layout, attend_heads, causal_mask
from zoo.layers.cache import Cache
from zoo.layers.experts import Experts
from zoo.layers.linear import Linear
from zoo.layers.norm import build_norm


@runtime_checkable
class Rotation(Protocol):
    """Rotation of queries and keys by their positions, for one call: ``zoo.layers.rope.Turn``, ``zoo.layers.xpos.ScaledTurn``."""

    def __call__(self, states: Tensor, num_queries: int) -> tuple[Tensor, Tensor]:
        """Return rotated queries and keys [*tokens, heads, head_dim]; the first ``num_queries`` heads of ``states`` are the queries."""
        ...


@dataclass(frozen=True)
class Call:
    """Arguments of one forward call that are the same for every block.

    Attributes:
        rotation: rotary positions of queries and keys; None without rotary positions.
        allowed: True where a query may attend to a key; None: each query attends to the keys up to its own position.
        first_key: index of the first key that any query's window reaches; earlier keys are skipped.
        cache: keys and values of earlier tokens; None without a cache.
        layout: attention pattern of a packed list of tokens; None for a padded batch.
        window: maximum number of keys per query in a layout; None: no limit.
        real: True at the real tokens of this call; None: all are real.
        bias: added to the scores of a padded batch (T5's relative positions); ``allowed`` must then express causality.
    """

    rotation: Rotation | None = None
    allowed: Bool[Tensor, "batch 1 queries keys"] | Bool[Tensor, "queries keys"] | None = None
    first_key: int = 0
    cache: Cache | None = None
    layout: Layout | None = None
    window: int | None = None
    real: Bool[Tensor, "batch length"] | None = None
    bias: Float[Tensor, "1 num_heads queries keys"] | None = None


class Prefix(nn.Module):
    """Learned keys and values, placed before every text, to which every token attends; they have no position.

    Source: Li and Liang 2021 (prefix tuning, arXiv 2101.00190), section 4.2, but without their reparametrisation by a network in training.
    """

    def __init__(self, *, num_tokens: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.randn(num_heads, num_tokens, head_dim) * 0.02)
        self.values = nn.Parameter(torch.randn(num_heads, num_tokens, head_dim) * 0.02)

    def listed(self) -> tuple[Float[Tensor, "num_tokens kv_dim"], Float[Tensor, "num_tokens kv_dim"]]:
        """Return keys and values with their heads concatenated, for packed lists."""
        return self.keys.transpose(0, 1).flatten(1), self.values.transpose(0, 1).flatten(1)

    def before(
        self, k: Float[Tensor, "batch num_heads keys head_dim"], v: Float[Tensor, "batch num_heads keys head_dim"]
    ) -> list[Float[Tensor, "batch num_heads longer head_dim"]]:
        """Return keys and values with the prefix inserted before them."""
        return [torch.cat([x.to(y.dtype).expand(len(y), -1, -1, -1), y], dim=2) for x, y in ((self.keys, k), (self.values, v))]

    def seen(self, allowed: Tensor | None, queries: int, keys: int, device: torch.device) -> Tensor | None:
        """Return the mask of ``seen_keys``, extended by the prefix, to which every query attends."""
        num_tokens = self.keys.shape[1]
        if allowed is not None:
            return F.pad(allowed, (num_tokens, 0), value=True)
        return causal_mask(queries, num_tokens + keys, device) if queries > 1 else None


class CausalAttention(nn.Module):
    """Grouped-query self-attention with an optional key-value cache.

    Source: Ainslie et al. 2023 (arXiv 2305.13245), section 2.2. The rows of ``qkv.weight`` are q, k, v, each head-major.

    Args:
        dim: width of the input and the output.
        num_heads: heads of the queries.
        num_kv_heads: heads of keys and values; a divisor of ``num_heads``.
        head_dim: width of each head.
        bias: True gives the output layer a bias, and the projection to queries, keys and values unless ``qkv_bias`` says otherwise.
        qkv_bias: bias of that projection; None: as ``bias`` (Qwen 2 has it there alone).
        qk_norms: norms of each head of queries and of keys, before the rotation (Qwen 3, Gemma 3); None leaves them out.
        scale: factor on the scores; None takes head_dim ** -0.5.
        cap: soft limit of the scores (Gemma 2); None: no limit.
        norm: applied to the concatenated heads, before the last linear layer.
        dropout: rate on the attention weights, in training.

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
        qkv_bias: bool | None = None,
        qk_norms: tuple[nn.Module, nn.Module] | None = None,
        scale: float | None = None,
        cap: float | None = None,
        norm: nn.Module | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if num_kv_heads < 1 or num_heads % num_kv_heads:
            legal = [n for n in range(1, num_heads + 1) if num_heads % n == 0]
            raise ConfigError(f"num_kv_heads: {num_kv_heads} does not divide num_heads {num_heads}; allowed are {legal}")
        self.num_heads, self.num_kv_heads, self.dropout = num_heads, num_kv_heads, dropout
        self.scale, self.cap = scale, cap
        self.qkv = Linear(dim, (num_heads + 2 * num_kv_heads) * head_dim, bias=bias if qkv_bias is None else qkv_bias)
        self.q_norm, self.k_norm = (None, None) if qk_norms is None else qk_norms
        self.norm = norm
        self.prefix: Prefix | None = None  # see ``zoo.layers.adapters``
        self.out = Linear(num_heads * head_dim, dim, bias=bias)

    def forward(self, x: Float[Tensor, "*tokens dim"], call: Call, layer: int) -> Float[Tensor, "*tokens dim"]:
        """Return the output of attention; ``layer`` is the index of this block's keys and values in the cache."""
        heads, kv_heads = self.num_heads, self.num_kv_heads
        states = self.qkv(x).unflatten(-1, (heads + 2 * kv_heads, -1))  # [..., heads of q, k, v, head_dim]
        # Queries and keys stay in one tensor, so that one call rotates both.
        asking, v = states.split([heads + kv_heads, kv_heads], dim=-2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = asking.split([heads, kv_heads], dim=-2)
            asking = torch.cat([self.q_norm(q), self.k_norm(k)], dim=-2)
        q, k = asking.split([heads, kv_heads], dim=-2) if call.rotation is None else call.rotation(asking, heads)
        joined = self._attend(q, k, v, call, layer)
        return self.out(joined if self.norm is None else self.norm(joined))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, call: Call, layer: int) -> Float[Tensor, "*tokens joined_dim"]:
        """Attend with queries, keys and values [..., heads, head_dim]; return the concatenated heads."""
        dropout = self.dropout if self.training else 0.0
        if call.layout is not None:
            q, k, v = (states.flatten(-2) for states in (q, k, v))  # [total, heads * head_dim]
            before = None if self.prefix is None else self.prefix.listed()
            settings = {"scale": self.scale, "cap": self.cap, "dropout": dropout}
            return call.layout.attend(q, k, v, num_heads=self.num_heads, window=call.window, before=before, **settings)
        q, k, v = (states.transpose(1, 2) for states in (q, k, v))  # [B, heads, L, head_dim]
        if call.cache is not None:
            k, v = call.cache.append(layer, k, v)  # keys are cached after rotation: positions are absolute and never change
        allowed = call.allowed
        if call.first_key:
            k, v = k[:, :, call.first_key :], v[:, :, call.first_key :]
        if self.prefix is not None:
            allowed = self.prefix.seen(allowed, q.shape[2], k.shape[2], q.device)
            k, v = self.prefix.before(k, v)
        options = {"scale": self.scale, "cap": self.cap, "dropout": dropout}
        return attend_heads(q, k, v, allowed=allowed, causal=True, bias=call.bias, **options)


class DecoderBlock(nn.Module):
    """Pre-norm block: x + attention(norm(x)), then x + mlp(norm(x)).

    Source: Radford et al. 2019 (GPT-2), section 2.3; Touvron et al. 2023 (LLaMA, arXiv 2302.13971), section 2.2; Gemma 2 (arXiv
    2408.00118), section 2, for the norms after each branch.

    Args:
        dim: width of the tokens.
        attention: self-attention.
        mlp: feed-forward part, perhaps a mixture of experts.
        norm: name in ``zoo.layers.norm.NORMS``.
        eps: added inside the norms for numerical stability.
        post_norms: True normalises the output of both branches too, before it is added to x (Gemma 2 and 3).
        dropout: rate on both branches, in training.
    """

    def __init__(
        self,
        *,
        dim: int,
        attention: CausalAttention,
        mlp: nn.Module,
        norm: str,
        eps: float,
        post_norms: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = build_norm(norm, dim, eps)
        self.attention = attention
        self.norm2 = build_norm(norm, dim, eps)
        self.mlp = mlp
        self.routes = isinstance(mlp, Experts)
        self.post_norm1, self.post_norm2 = (build_norm(norm, dim, eps) if post_norms else None for _ in range(2))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "*tokens dim"], call: Call, layer: int) -> Float[Tensor, "*tokens dim"]:
        attended = self.attention(self.norm1(x), call, layer)
        x = x + self._dropped(attended if self.post_norm1 is None else self.post_norm1(attended))
        changed = self.mlp(self.norm2(x), call.real) if self.routes else self.mlp(self.norm2(x))
        return x + self._dropped(changed if self.post_norm2 is None else self.post_norm2(changed))

    def _dropped(self, branch: Tensor) -> Tensor:
        return self.drop(branch) if self.training else branch  # two calls a layer less while a text is generated


class PostNormDecoderBlock(nn.Module):
    """Post-norm block: norm(x + attention(x)), then norm(x + mlp(x)).

    Source: Radford et al. 2018 (GPT-1), section 3.1; Liu et al. 2018 (arXiv 1801.10198), section 4.2.3.

    Args:
        dim: width of the tokens.
        attention: self-attention.
        mlp: feed-forward part.
        norm: name in ``zoo.layers.norm.NORMS``.
        eps: added inside the norms for numerical stability.
    """

    def __init__(self, *, dim: int, attention: CausalAttention, mlp: nn.Module, norm: str, eps: float) -> None:
        super().__init__()
        self.attention = attention
        self.norm1 = build_norm(norm, dim, eps)
        self.mlp = mlp
        self.norm2 = build_norm(norm, dim, eps)

    def forward(self, x: Float[Tensor, "*tokens dim"], call: Call, layer: int) -> Float[Tensor, "*tokens dim"]:
        x = self.norm1(x + self.attention(x, call, layer))
        return self.norm2(x + self.mlp(x))


def prefix_keys(lengths: Int[Tensor, " batch"], real: Bool[Tensor, "batch length"] | None, length: int) -> Bool[Tensor, "batch length"]:
    """Return the mask that is True at the first ``lengths`` real tokens of each row; padding may be on either side."""
    places = torch.arange(length, device=lengths.device)[None] if real is None else real.cumsum(1) - 1
    inside = places < lengths[:, None]
    return inside if real is None else inside & real


def with_prefix(allowed: Tensor | None, prefix: Bool[Tensor, "batch keys"] | None) -> Tensor | None:
    """Return a causal mask in which the tokens of the prefix see each other; without one, the mask unchanged.

    2 tokens of prefix and 3 others give the rows ``11000 11000 11100 11110 11111``, and with a window of 2 tokens ``11000 11000 01100 00110
    00011``: a prefix has no window inside (PaliGemma 2).

    Args:
        allowed: of ``seen_keys``; None is the plain causal rule.
        prefix: of ``prefix_keys``; None: there is none.
    """
    if prefix is None:
        return allowed
    keys = prefix.shape[1]
    causal = causal_mask(keys, keys, prefix.device) if allowed is None else allowed
    return causal | (prefix[:, None, :, None] & prefix[:, None, None, :])  # [batch, 1, queries, keys]


def seen_by_query(prefixes: Int[Tensor, " batch"], real: Bool[Tensor, "batch length"]) -> Bool[Tensor, "batch length length"]:
    """Return the self-attention masks of a text model that is trained to read in several directions; rows are queries.

    Source: Dong et al. 2019, "Unified Language Model Pre-training" (UniLM, arXiv 1905.03197), figure 1. Padding sees nothing.

    Args:
        prefixes: of each row, the number of first real tokens that all tokens see; every token also sees itself and those before it. The
            number of real tokens is the bidirectional mask, 0 left to right, and the length of the source text sequence to sequence. -1 is
            right to left: every token sees itself and those behind it.
        real: True at real tokens.
    """
    length = real.shape[1]
    forward = with_prefix(None, prefix_keys(prefixes, real, length))
    assert forward is not None
    backward = causal_mask(length, length, real.device).T
    seen = torch.where((prefixes < 0)[:, None, None], backward, forward[:, 0])
    return seen & real[:, None, :] & real[:, :, None]


def seen_keys(
    real: Bool[Tensor, "batch keys"] | None, queries: int, keys: int, window: int | None, device: torch.device
) -> Bool[Tensor, "batch 1 queries keys"] | Bool[Tensor, "queries keys"] | None:
    """Return the causal mask (True is allowed) of queries that are the last positions of the keys.

    The result is None if the plain causal rule is enough. The window counts only real tokens, so that padding changes nothing: with keys
    ``[1 1 0 1]`` and a window of 2, the last query attends to ``[0 1 0 1]``. A query without any allowed key (padding on the left) attends
    to every key, because a softmax over nothing is NaN.

    Args:
        real: True at real tokens; None: all are real.
        queries: number of queries.
        keys: number of keys.
        window: maximum number of keys that a query attends to, its own included; None: no limit.
        device: device of the mask.
    """
    window = keys if window is None else window
    if real is None:
        return causal_mask(queries, keys, device, window) if window < keys or 1 < queries < keys else None
    allowed = real[:, None, None, :] & causal_mask(queries, keys, device)  # [B, 1, queries, keys]
    if window < keys:
        order = real.cumsum(1)  # number of real tokens up to each key: 1 2 2 3 for 1 1 0 1
        allowed = allowed & (order[:, None, None, :] > order[:, None, keys - queries :, None] - window)
    return allowed | ~allowed.any(-1, keepdim=True)
