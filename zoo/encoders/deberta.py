"""DeBERTa, versions 1 to 3: a post-norm text encoder whose attention scores content and relative position separately.

Papers: He et al. 2020 (arXiv 2006.03654), section 3.1, equation 4; He et al. 2021 (DeBERTa v3, arXiv 2111.09543), which changes the
pre-training only (head ``replaced_tokens``). References: transformers 5.17, ``modeling_deberta.py`` and ``modeling_deberta_v2.py``;
microsoft/DeBERTa.

Where we differ: one matrix projects to queries, keys and values. There is one dropout rate, 0 by default; the attention probabilities and
the table of positions have no dropout. Only rows of the table that the length of a text can reach are projected. The tokens of padding are
arbitrary. There is no enhanced mask decoder: the released weights of version 3 have none, and transformers does not run it.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, name_choices
from zoo.layers.attention import attend_heads, attention_mask, refuse_uneven_heads
from zoo.layers.linear import Linear
from zoo.layers.mlp import feed_forward, find_activation, hidden_width
from zoo.layers.text_encoder import WordEncoder
from zoo.layers.text_tokens import pooled_text, real_tokens
from zoo.registry import register
from zoo.types import Encoded

POOLS = ("cls", "mean", "none")


def distance_rows(length: int, *, span: int, max_distance: int | None, device: torch.device) -> Int[Tensor, "{length} {length}"]:
    """Return the row of the position table for each pair of query and key: ``span`` plus the distance of query minus key.

    If ``max_distance`` is given, distances beyond half the span share rows, see ``shared_distances``. Rows are limited to 0 ... 2 * span
    - 1.
    """
    places = torch.arange(length, device=device)
    distance = places[:, None] - places[None]
    if max_distance is not None:
        distance = shared_distances(distance, exact=span // 2, max_distance=max_distance)
    return (distance + span).clamp(0, 2 * span - 1)


def shared_distances(distance: Int[Tensor, "*places"], *, exact: int, max_distance: int) -> Int[Tensor, "*places"]:
    """Return distances up to ``exact`` as they are, and those beyond it on a logarithmic scale, with their sign.

    With exact 128 and max_distance 512: 128 -> 128, 150 -> 143, -300 -> -207, 511 -> 255, 600 -> 270.
    """
    far = distance.abs().clamp(min=exact)  # smaller distances stay as they are below
    # float32 as in the reference: in another precision, distances at the border of two rows would change places.
    steps = torch.log(far.float() / exact) / torch.log(torch.tensor((max_distance - 1) / exact)) * (exact - 1)
    return torch.where(distance.abs() <= exact, distance, (torch.ceil(steps).long() + exact) * distance.sign())


class ProjectionByHeads(nn.Module):
    """Projection of version 1 to queries, keys and values: the rows of its matrix lie head by head, and keys have no bias.

    The rows for two heads of width 1 are ``q0 k0 v0 q1 k1 v1``; the outputs are ``q0 q1 k0 k1 v0 v1``, as those of the other versions.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.heads = Linear(dim, 3 * dim, bias=False)
        self.query_bias, self.value_bias = (nn.Parameter(torch.zeros(dim)) for _ in range(2))

    def forward(self, x: Float[Tensor, "*tokens dim"]) -> Float[Tensor, "*tokens three_dim"]:
        q, k, v = self.heads(x).unflatten(-1, (self.num_heads, 3, -1)).unbind(-2)  # each [..., num_heads, head_dim]
        return torch.cat([q.flatten(-2) + self.query_bias, k.flatten(-2), v.flatten(-2) + self.value_bias], dim=-1)


class DisentangledAttention(nn.Module):
    """Multi-head self-attention with scores between contents, from content to position, and from position to content.

    Args:
        dim: width of the tokens.
        num_heads: number of heads.
        share_positions: project positions with the matrices of the content; otherwise with matrices of their own.
        content_to_position: score a query's content against the relative position of the key.
        position_to_content: score a key's content against the relative position of the query.
        key_bias: keys, also those of positions, have a bias; see ``Deberta``.
    """

    def __init__(
        self, *, dim: int, num_heads: int, share_positions: bool, content_to_position: bool, position_to_content: bool, key_bias: bool
    ) -> None:
        super().__init__()
        self.num_heads, self.share_positions = num_heads, share_positions
        self.content_to_position, self.position_to_content = content_to_position, position_to_content
        self.qkv = Linear(dim, 3 * dim) if key_bias else ProjectionByHeads(dim, num_heads)
        self.out = Linear(dim, dim)
        apart = not share_positions
        self.position_key = Linear(dim, dim, bias=key_bias) if apart and content_to_position else None
        self.position_query = Linear(dim, dim) if apart and position_to_content else None
        terms = 1 + content_to_position + position_to_content
        self.scale = (dim // num_heads * terms) ** -0.5  # the sum of several scores has a larger variance

    def forward(
        self,
        x: Float[Tensor, "batch length dim"],
        table: Float[Tensor, "rows dim"],
        rows: Int[Tensor, "length length"],
        allowed: Bool[Tensor, "batch 1 1 length"] | None,
    ) -> Float[Tensor, "batch length dim"]:
        """Attend over the whole row.

        Args:
            table: vectors of relative positions.
            rows: row of ``table`` for each query and key.
            allowed: True at keys that may be attended to; None allows all.
        """
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))  # [B, h, L, d]
        position_q, position_k = self._positions(table)  # each [h, rows, head_dim]
        bias: Tensor | None = None
        if position_k is not None:
            bias = (q @ position_k.transpose(-2, -1)).gather(-1, rows.expand(*q.shape[:2], -1, -1))  # [B, h, queries, keys]
        if position_q is not None:
            by_key = (k @ position_q.transpose(-2, -1)).gather(-1, rows.T.expand(*q.shape[:2], -1, -1))  # [B, h, keys, queries]
            bias = by_key.transpose(-2, -1) if bias is None else bias + by_key.transpose(-2, -1)
        return self.out(attend_heads(q, k, v, allowed=allowed, bias=None if bias is None else bias * self.scale, scale=self.scale))

    def _positions(self, table: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return queries and keys of the positions, each [num_heads, rows, head_dim], or None if there is no such score."""
        if self.share_positions:
            queries, keys, _ = self.qkv(table).chunk(3, dim=-1)
        else:
            queries, keys = (None if layer is None else layer(table) for layer in (self.position_query, self.position_key))
        used = ((queries, self.position_to_content), (keys, self.content_to_position))
        q, k = (x.unflatten(-1, (self.num_heads, -1)).transpose(0, 1) if x is not None and asked else None for x, asked in used)
        return q, k


class Block(nn.Module):
    """Post-norm block: norm(x + attention(x)), then norm(x + mlp(x))."""

    def __init__(self, *, attention: DisentangledAttention, dim: int, hidden_dim: int, activation: str, eps: float, dropout: float) -> None:
        super().__init__()
        self.attention = attention
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.mlp = feed_forward(dim=dim, hidden_dim=hidden_dim, activation=activation)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "batch length dim"], table: Tensor, rows: Tensor, allowed: Tensor | None
    ) -> Float[Tensor, "batch length dim"]:
        x = self.norm1(x + self.dropout(self.attention(x, table, rows, allowed)))
        return self.norm2(x + self.dropout(self.mlp(x)))


class EmbeddingConvolution(nn.Module):
    """Convolution of the embeddings over neighbouring tokens, added to the output of the first block (DeBERTa v2)."""

    def __init__(self, *, dim: int, kernel: int, activation: str, eps: float, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, kernel, padding=(kernel - 1) // 2)
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.activation, self.dropout = find_activation(activation), nn.Dropout(dropout)

    def forward(
        self, embedded: Float[Tensor, "batch length dim"], x: Float[Tensor, "batch length dim"]
    ) -> Float[Tensor, "batch length dim"]:
        """Return norm(x + activation(conv(embedded))); ``embedded`` must be zero at padding."""
        changed = self.conv(embedded.transpose(1, 2)).transpose(1, 2)
        return self.norm(x + self.activation(self.dropout(changed)))


@register("encoder")
class Deberta(WordEncoder):
    """Text encoder that gives the tokens of the last block and one pooled vector; it has no absolute positions.

    Args:
        context_length: maximum number of tokens of one text; the weights do not depend on it if ``buckets`` are given.
        buckets: distances in either direction that have a row of the position table; distances beyond half of it share rows on a
            logarithmic scale. None: every distance below ``max_distance`` has a row.
        max_distance: distance in tokens from which on all distances share one row.
        share_positions: project positions with the matrices of the content.
        norm_positions: normalise the position table before it is projected.
        content_to_position: score a query's content against the relative position of the key.
        position_to_content: score a key's content against the relative position of the query.
        key_bias: false is version 1: keys and the keys of positions have no bias, and the matrix of queries, keys and values lies head by
            head (``ProjectionByHeads``).
        conv_kernel: width of a convolution of the embeddings beside the first block (3 in version 2); 0 for none.
        conv_activation: activation of that convolution.
        pool: "cls" is the first token, "mean" the mean over real tokens, "none" gives no pooled vector.
        normalise: scale pooled vectors to length 1 (sentence-transformers' Normalize).
        dropout: rate on the embeddings and on the output of each sublayer; 0.1 in the paper.

    Raises:
        ConfigError: ``pool`` or an activation is unknown, or numbers do not fit together.
        DataError: (forward) a row is longer than ``context_length``.
    """

    context_length: int
    no_weight_decay = ("distances",)
    silent_keywords = (
        *("num_heads", "activation", "max_distance", "content_to_position", "position_to_content", "conv_activation"),
        *("eps", "pool", "normalise"),
    )

    def __init__(
        self,
        *,
        vocab_size: int = 128100,
        context_length: int = 512,
        dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        buckets: int | None = 256,
        max_distance: int = 512,
        share_positions: bool = True,
        norm_positions: bool = True,
        content_to_position: bool = True,
        position_to_content: bool = True,
        key_bias: bool = True,
        conv_kernel: int = 0,
        conv_activation: str = "gelu",
        activation: str = "gelu",
        eps: float = 1e-7,
        pool: str = "cls",
        normalise: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        refuse_uneven_heads(dim, num_heads)
        _refuse(pool, buckets, max_distance, conv_kernel)
        self.dim, self.vocab_size, self.word_dim, self.context_length = dim, vocab_size, dim, context_length
        self.pool, self.gives_pooled, self.normalise = pool, pool != "none", normalise
        self.span, self.max_distance = (max_distance, None) if buckets is None else (buckets, max_distance)
        self.embedding = nn.Embedding(vocab_size, dim)
        self.embedding_norm = nn.LayerNorm(dim, eps=eps)
        self.distances = nn.Parameter(torch.empty(2 * self.span, dim))
        self.distances_norm = nn.LayerNorm(dim, eps=eps) if norm_positions else nn.Identity()
        heads: dict[str, bool] = {"content_to_position": content_to_position, "position_to_content": position_to_content}
        heads |= {"key_bias": key_bias}
        self.blocks = nn.ModuleList(
            Block(
                attention=DisentangledAttention(dim=dim, num_heads=num_heads, share_positions=share_positions, **heads),
                **{"dim": dim, "hidden_dim": hidden_width(dim, mlp_ratio), "activation": activation, "eps": eps, "dropout": dropout},
            )
            for _ in range(depth)
        )
        conv = {"kernel": conv_kernel, "activation": conv_activation, "eps": eps, "dropout": dropout}
        self.conv = EmbeddingConvolution(dim=dim, **conv) if conv_kernel else None
        self.dropout = nn.Dropout(dropout)
        self._initialise()

    @property
    def final_norm(self) -> None:
        """No norm: each block ends with one."""
        return None

    def forward(
        self, token_ids: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"] | None = None, *, reads: str = "tokens"
    ) -> Encoded:
        """Encode token ids to tokens [batch, length, dim] and a pooled vector.

        Args:
            mask: True at real tokens; None if there is no padding.
        """
        length, real = token_ids.shape[1], real_tokens(token_ids, mask, self.context_length)
        # Zeros at padding, which the convolution would otherwise carry into the last real tokens.
        x = embedded = self.dropout(self.embedding_norm(self.embedding(token_ids)) * real[..., None])
        table, rows = self._positions(length)
        allowed = attention_mask(mask, length, causal=False)
        for layer, block in enumerate(self.blocks):
            x = block(x, table, rows, allowed)
            if layer == 0 and self.conv is not None:
                x = self.conv(embedded, x)
        return Encoded(x, pooled_text(x, real, self.pool, normalise=self.normalise), real)

    def _positions(self, length: int) -> tuple[Float[Tensor, "rows dim"], Int[Tensor, "length length"]]:
        """Return the normalised rows of the table that a text of this length can reach, and the row of each pair of tokens among them."""
        rows = distance_rows(length, span=self.span, max_distance=self.max_distance, device=self.distances.device)
        exact = self.span if self.max_distance is None else self.span // 2
        first, last = (self.span - length + 1, self.span + length) if 0 < length <= exact else (0, 2 * self.span)
        return self.distances_norm(self.distances[first:last]), rows - first

    def _initialise(self) -> None:
        """Initialise matrices and tables from N(0, 0.02^2) and biases with zeros."""
        nn.init.normal_(self.distances, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding | nn.Conv1d):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear | nn.Conv1d) and module.bias is not None:
                nn.init.zeros_(module.bias)


def _refuse(pool: str, buckets: int | None, max_distance: int, conv_kernel: int) -> None:
    if pool not in POOLS:
        raise ConfigError(f"pool: there is no {pool!r}; {name_choices(pool, POOLS)}")
    if max_distance < 1 or (buckets is not None and (buckets < 4 or buckets % 2 or max_distance <= buckets // 2 + 1)):
        raise ConfigError(
            f"buckets: got {buckets} with max_distance {max_distance}; allowed are an even number from 4 on and a max_distance above "
            "buckets / 2 + 1, or null for a row for each distance"
        )
    if conv_kernel < 0 or (conv_kernel and conv_kernel % 2 == 0):
        raise ConfigError(f"conv_kernel: got {conv_kernel}; allowed is an odd number, or 0 for no convolution")
