"""Post-norm text transformer with learned positions and token types: BERT, and the sentence encoders made from it (MiniLM).

Papers: Devlin et al. 2018 (arXiv 1810.04805), section 3; Reimers and Gurevych 2019 (Sentence-BERT, arXiv 1908.10084), section 3
(mean pooling). Reference: transformers 5.17, ``modeling_bert.py``.

Where we differ: queries, keys and values are one matrix; dropout is one rate for embeddings and sublayers, 0 unless asked for;
texts are single segments, so that every token is of type 0; the table of words may be of lower rank: narrower than the rest,
and widened by a matrix before anything is added to it. (ALBERT widens after the norm, and with a bias.)
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError, name_choices
from zoo.layers.attention import Attention
from zoo.layers.mlp import feed_forward, hidden_width
from zoo.layers.packing import Layout, Packing, can_pack
from zoo.layers.pool import masked_mean
from zoo.registry import register
from zoo.types import Encoded

POOLS = ("cls_tanh", "cls", "mean", "none")


class PostNormBlock(nn.Module):
    """norm(x + attention(x)), then norm(x + mlp(x)). Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.1."""

    def __init__(self, *, dim: int, num_heads: int, hidden_dim: int, activation: str, eps: float, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(dim=dim, num_heads=num_heads)
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.mlp = feed_forward(dim=dim, hidden_dim=hidden_dim, activation=activation)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "*tokens dim"], mask: Bool[Tensor, "batch length"] | None = None, layout: Layout | None = None
    ) -> Float[Tensor, "*asked dim"]:
        """As ``Attention``: a batch [batch, length, dim], or a list [total, dim] of whose tokens the layout asks some or all."""
        change = self.dropout(self.attention(x, mask, layout=layout))
        x = self.norm1((x if layout is None else layout.asking(x)) + change)
        return self.norm2(x + self.dropout(self.mlp(x)))


@register("encoder")
class Bert(nn.Module):
    """Token ids to tokens of the last block and one pooled vector.

    Args:
        context_length: the most tokens that one text may have.
        embedding_dim: width of the table of words; None is ``dim``. A narrower one is widened by a matrix.
        num_types: rows of the table of token types, of which type 0 is used.
        pool: "cls_tanh" is BERT's pooler (a linear layer and tanh of the first token), "cls" the first token, "mean" the mean
            over real tokens (Sentence-BERT), "none" gives no pooled vector.
        dropout: of embeddings and of what each sublayer adds; 0.1 in the paper's pre-training.

    Raises:
        ConfigError: an unknown pool.
        DataError: (forward) a row longer than ``context_length``.
    """

    modality = "text"
    pools_alone = True  # takes ``reads``
    no_weight_decay = ("positions", "types")

    def __init__(
        self,
        *,
        vocab_size: int = 30522,
        context_length: int = 512,
        dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        embedding_dim: int | None = None,
        num_types: int = 2,
        activation: str = "gelu",
        eps: float = 1e-12,
        pool: str = "cls_tanh",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if pool not in POOLS:
            raise ConfigError(f"pool: there is no {pool!r}; {name_choices(pool, POOLS)}")
        self.dim, self.vocab_size, self.context_length, self.pool = dim, vocab_size, context_length, pool
        self.gives_pooled = pool != "none"
        self.embedding = nn.Embedding(vocab_size, embedding_dim or dim)
        self.widen = nn.Linear(embedding_dim, dim, bias=False) if embedding_dim not in (None, dim) else nn.Identity()
        self.positions = nn.Parameter(torch.empty(context_length, dim))
        self.types = nn.Parameter(torch.empty(num_types, dim))
        self.norm = nn.LayerNorm(dim, eps=eps)
        hidden_dim = hidden_width(dim, mlp_ratio)
        self.blocks = nn.ModuleList(
            PostNormBlock(dim=dim, num_heads=num_heads, hidden_dim=hidden_dim, activation=activation, eps=eps, dropout=dropout)
            for _ in range(depth)
        )
        self.pooler = nn.Linear(dim, dim) if pool == "cls_tanh" else None
        self.dropout = nn.Dropout(dropout)
        self._initialise()

    def forward(
        self, token_ids: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"] | None = None, reads: str = "tokens"
    ) -> Encoded:
        """``mask`` is True at real tokens; without one every position is real.

        Args:
            reads: "tokens", or "pooled" where the caller reads nothing but the pooled vectors; these, equal up to rounding, are
                then also all the tokens there are [batch, 1, dim], and no padding is computed.
        """
        length = token_ids.shape[1]
        if length > self.context_length:
            raise DataError(f"texts have {length} tokens; context_length allows {self.context_length}: truncate or split them")
        real = torch.ones_like(token_ids, dtype=torch.bool) if mask is None else mask
        if reads == "pooled" and self._can_pack(token_ids, real):
            return Encoded.of_pooled(self._pool_packed(token_ids, real))
        x = self._embed(token_ids, self.positions[:length])
        for block in self.blocks:
            x = block(x, mask)
        pooled = masked_mean(x, real) if self.pool == "mean" else self._finished(x[:, 0]) if self.gives_pooled else None
        return Encoded(x, pooled, real) if reads != "pooled" or pooled is None else Encoded.of_pooled(pooled)

    def _embed(self, token_ids: Int[Tensor, "*tokens"], positions: Float[Tensor, "*positions dim"]) -> Float[Tensor, "*tokens dim"]:
        return self.dropout(self.norm(self.widen(self.embedding(token_ids)) + positions + self.types[0]))

    def _can_pack(self, token_ids: Tensor, real: Tensor) -> bool:
        """Whether packed rows give the pooled vectors; a first token that is pooled must be among the real ones."""
        possible = can_pack(token_ids) and len(self.blocks) > 0 and self.gives_pooled
        return possible and (self.pool == "mean" or bool(real[:, 0].all()))

    def _pool_packed(self, token_ids: Tensor, real: Tensor) -> Float[Tensor, "batch dim"]:
        """Pooled vectors from real tokens alone."""
        layout = Packing(real)
        x = self._embed(token_ids.flatten()[layout.index], self.positions[layout.index % token_ids.shape[1]])  # [total, dim]
        last = layout if self.pool == "mean" else layout.only(token_ids.new_zeros(len(token_ids)))
        for i, block in enumerate(self.blocks, 1):
            x = block(x, layout=layout if i < len(self.blocks) else last)
        return masked_mean(layout.unpack(x), real) if self.pool == "mean" else self._finished(last.restore(x))

    def _finished(self, first: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        return first if self.pooler is None else torch.tanh(self.pooler(first))

    def _initialise(self) -> None:
        """N(0, 0.02) for matrices and tables, zero biases (google-research/bert ``modeling.py``)."""
        for table in (self.positions, self.types):
            nn.init.normal_(table, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
