"""Base of the BERT family of text encoders: post-norm blocks, token types, pooling, and packing of rows without padding.

Papers: Vaswani et al. 2017 (arXiv 1706.03762), section 3.1; Devlin et al. 2018 (arXiv 1810.04805), section 3; Reimers and Gurevych
2019 (Sentence-BERT, arXiv 1908.10084), section 3 (mean pooling).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError, name_choices
from zoo.layers.attention import Attention
from zoo.layers.decoder import seen_by_query
from zoo.layers.mlp import feed_forward
from zoo.layers.packing import Layout, Packing, can_pack
from zoo.layers.pool import masked_last, masked_max, masked_mean, masked_root_mean, masked_weighted_mean
from zoo.layers.text_encoder import WordEncoder
from zoo.layers.text_tokens import real_tokens
from zoo.types import Encoded, on_host

OVER_TOKENS = {  # pools that need the tokens of the last block
    "mean": masked_mean,
    "max": masked_max,
    "weighted_mean": masked_weighted_mean,
    "root_mean": masked_root_mean,
    "last": masked_last,
}
POOLS = ("cls_tanh", "cls", *OVER_TOKENS, "none")


class PostNormBlock(nn.Module):
    """Post-norm block: norm(x + attention(x)), then norm(x + mlp(x)). Source: Vaswani et al. 2017, section 3.1."""

    def __init__(self, *, dim: int, num_heads: int, hidden_dim: int, activation: str, eps: float, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(dim=dim, num_heads=num_heads)
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.mlp = feed_forward(dim=dim, hidden_dim=hidden_dim, activation=activation)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "*tokens dim"],
        mask: Bool[Tensor, "batch length"] | Bool[Tensor, "batch length length"] | None = None,
        layout: Layout | None = None,
    ) -> Float[Tensor, "*asked dim"]:
        """Return the outputs of a batch [batch, length, dim], or of the layout's query tokens in a list [total, dim]."""
        change = self.dropout(self.attention(x, mask, layout=layout))
        x = self.norm1((x if layout is None else layout.asking(x)) + change)
        return self.norm2(x + self.dropout(self.mlp(x)))


class PostNormText(WordEncoder):
    """Base class of post-norm text encoders: token ids to the tokens of the last block and one pooled vector.

    A subclass implements ``layers`` and ``embed``. Its constructor creates the tables ``embedding``, ``positions`` and ``types``, and
    ``pooler``, and then calls ``initialise_text``.

    Args:
        dim: width of the tokens.
        vocab_size: number of token ids.
        word_dim: width of the word embedding.
        context_length: maximum number of tokens per row.
        pool: "cls_tanh" (first token, linear layer and tanh), "cls" (first token), over real tokens "mean", "max", "weighted_mean" (weights
            1, 2, 3, ...), "root_mean" (sum by the root of the number) or "last" (the last one), or "none".
        normalise: scale pooled vectors to length 1, as sentence-transformers' module Normalize.
        separator_id: see below.

    Attributes:
        separator_id: id of the token that ends each text of a row with two texts: ``[CLS] a [SEP] b [SEP]`` has the types 0 0 0 1 1. None:
            every token has type 0 unless the caller passes types.
        word_dim: width of the word embedding, for a head that is tied to it.
        default_type: type of the tokens of a row whose types neither the separators nor the caller tell; None adds no type to them.
        is_causal: True if each token attends only to itself and to those before it.

    Raises:
        ConfigError: ``pool`` is unknown, or ``separator_id`` is outside the vocabulary.
        DataError: (forward) a row is longer than ``context_length``, or a type has no row in the table.
    """

    takes_query_masks = True
    context_length: int
    no_weight_decay = ("positions", "types")
    embedding: nn.Embedding
    positions: nn.Parameter
    types: nn.Parameter | None
    default_type: int | None = 0
    is_causal: bool = False
    pooler: nn.Linear | None

    def __init__(
        self, *, dim: int, vocab_size: int, word_dim: int, context_length: int, pool: str, separator_id: int | None, normalise: bool
    ) -> None:
        super().__init__()
        if pool not in POOLS:
            raise ConfigError(f"pool: there is no {pool!r}; {name_choices(pool, POOLS)}")
        if separator_id is not None and not 0 <= separator_id < vocab_size:
            raise ConfigError(f"separator_id: {separator_id}; allowed is 0 to {vocab_size - 1} (below vocab_size), or null")
        self.dim, self.vocab_size, self.word_dim, self.context_length = dim, vocab_size, word_dim, context_length
        self.pool, self.separator_id, self.normalise = pool, separator_id, normalise
        self.gives_pooled = pool != "none"

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Blocks in the order in which they run."""
        raise NotImplementedError

    @property
    def final_norm(self) -> None:
        """No norm: each block ends with one."""
        return None

    def embed(
        self,
        token_ids: Int[Tensor, "*tokens"],
        positions: Float[Tensor, "*places width"],
        types: Float[Tensor, "*kinds width"],
    ) -> Float[Tensor, "*tokens dim"]:
        """Return the input of the first block.

        Args:
            token_ids: ids of a batch [batch, length] or of a list [total].
            positions: position embedding of each token.
            types: type embedding of each token, or one for all.
        """
        raise NotImplementedError

    def places(
        self, real: Bool[Tensor, "batch length"], types: Int[Tensor, "batch length"] | None = None
    ) -> Int[Tensor, "batch length"] | None:
        """Return the row of ``positions`` for each token, or None if it is the token's index in its row of the batch.

        Args:
            real: True at real tokens.
            types: type of each token; None if all have type 0.
        """
        return None

    def forward(
        self,
        token_ids: Int[Tensor, "batch length"],
        mask: Bool[Tensor, "batch length"] | Bool[Tensor, "batch length length"] | None = None,
        *,
        reads: str = "tokens",
        types: Int[Tensor, "batch length"] | None = None,
    ) -> Encoded:
        """Encode token ids.

        Args:
            token_ids: ids, padded to equal length.
            mask: True at real tokens; None: all are real. With two axes of tokens, True where a query (row) may attend to a key
                (column), and on the diagonal at real tokens.
            reads: "tokens", or "pooled" if the caller needs only the pooled vectors. With "pooled", padding is not computed, and the result
                holds the pooled vectors (equal up to rounding) in place of tokens, as [batch, 1, dim].
            types: type of each token; None derives the types from the separators.

        Raises:
            DataError: a row is longer than ``context_length``, or a type has no row in the table.
        """
        by_query = mask is not None and mask.ndim == 3
        real = real_tokens(token_ids, mask.diagonal(dim1=1, dim2=2) if by_query else mask, self.context_length)  # type: ignore[union-attr]
        types = self._types(token_ids, types)
        if self.is_causal:
            left_to_right = seen_by_query(torch.zeros(len(token_ids), dtype=torch.int64, device=token_ids.device), real)
            mask = left_to_right if mask is None or not by_query else left_to_right & mask
            by_query = True  # packed rows have no such mask
        if reads == "pooled" and not by_query and self._can_pack(token_ids, real):
            return Encoded.of_pooled(self._pool_packed(token_ids, real, types))
        x = self._enter(token_ids, real, types)
        for block in self.layers:
            x = block(x, mask)
        if self.pool in OVER_TOKENS:
            pooled = self._scaled(OVER_TOKENS[self.pool](x, real))
        else:
            pooled = self._finished(x[:, 0]) if self.gives_pooled else None
        return Encoded(x, pooled, real) if reads != "pooled" or pooled is None else Encoded.of_pooled(pooled)

    def _types(self, token_ids: Tensor, types: Tensor | None) -> Int[Tensor, "batch length"] | None:
        """Return the type of each token, or None if all have type 0."""
        most = -1 if self.types is None else len(self.types) - 1
        if types is not None:
            known = on_host(types)
            if not known.is_meta and known.numel() and not 0 <= int(known.min()) <= int(known.max()) <= most:
                raise DataError(f"types: {int(known.min())} to {int(known.max())}; allowed is 0 to {most} (num_types {most + 1})")
            return types
        if self.separator_id is None or most <= 0:  # a table with one row has no second type
            return None
        ends = token_ids == self.separator_id
        return (ends.cumsum(1) - ends.long()).clamp(max=most)  # minus itself: a separator still belongs to the text that it ends

    def _enter(
        self, token_ids: Int[Tensor, "batch length"], real: Tensor, types: Tensor | None, index: Int[Tensor, " total"] | None = None
    ) -> Float[Tensor, "*tokens dim"]:
        """Return the input of the first block, for the whole batch or for the positions ``index`` of the flat batch."""
        length, places = token_ids.shape[1], self.places(real, types)
        if index is not None:
            token_ids, places = token_ids.flatten()[index], index % length if places is None else places.flatten()[index]
            types = None if types is None else types.flatten()[index]
        positions = self.positions[:length] if places is None else F.embedding(places, self.positions)
        return self.embed(token_ids, positions, self._kinds(types, positions))

    def _kinds(self, types: Tensor | None, positions: Float[Tensor, "*places width"]) -> Float[Tensor, "*kinds width"]:
        """Return the type embedding of each token, or one for all."""
        if self.types is None or (types is None and self.default_type is None):
            return positions.new_zeros(positions.shape[-1])
        return self.types[self.default_type or 0] if types is None else F.embedding(types, self.types)

    def _can_pack(self, token_ids: Tensor, real: Tensor) -> bool:
        """True if pooled vectors can be computed from packed rows; for pools of the first token, that token must be real in each row."""
        possible = can_pack(token_ids) and len(self.layers) > 0 and self.gives_pooled
        return possible and (self.pool in OVER_TOKENS or bool(on_host(real)[:, 0].all()))

    def _pool_packed(self, token_ids: Tensor, real: Tensor, types: Tensor | None) -> Float[Tensor, "batch dim"]:
        """Return the pooled vectors, computed from real tokens only."""
        layout = Packing(real)
        x = self._enter(token_ids, real, types, layout.index)  # [total, dim]
        # If the first token is pooled, the last block computes only this token of each row.
        over_tokens = OVER_TOKENS.get(self.pool)
        last = layout if over_tokens is not None else layout.only(torch.zeros(len(token_ids), dtype=torch.int64))
        for i, block in enumerate(self.layers, 1):
            x = block(x, layout=layout if i < len(self.layers) else last)
        return self._finished(last.restore(x)) if over_tokens is None else self._scaled(over_tokens(layout.unpack(x), real))

    def _finished(self, first: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        return self._scaled(first if self.pooler is None else torch.tanh(self.pooler(first)))

    def _scaled(self, pooled: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        return F.normalize(pooled, dim=-1) if self.normalise else pooled

    def initialise_text(self) -> None:
        """Initialise matrices and tables from N(0, 0.02^2) and biases with zeros (google-research/bert ``modeling.py``)."""
        for name, table in self.named_parameters(recurse=False):
            assert table.ndim == 2, name  # positions and types
            nn.init.normal_(table, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
