"""ELECTRA: a BERT with a token embedding of its own width, pre-trained to find tokens that a small generator has replaced.

Paper: Clark et al. 2020 (arXiv 2003.10555), section 3 and tables 1 and 6. Reference: transformers 5.17, ``modeling_electra.py``. The
pre-training is the head ``replaced_tokens``.

Where we differ: one matrix projects to queries, keys and values. There is one dropout rate, 0 by default, and it does not apply to the
attention probabilities.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.layers.mlp import hidden_width
from zoo.layers.post_norm import PostNormBlock, PostNormText
from zoo.registry import register


@register("encoder")
class Electra(PostNormText):
    """Text encoder that gives the tokens of the last block and one pooled vector.

    Args:
        context_length: maximum number of tokens of one text.
        embedding_dim: width of the token, position and type embeddings; None means ``dim``. If it is not ``dim``, a linear layer with bias
            projects them after their LayerNorm.
        num_types: number of token types (segments).
        separator_id: id of the symbol that ends each text of a row; token types follow from it (``zoo.layers.post_norm``).
        pool: "cls" is the first token, "cls_tanh" BERT's pooler, "mean", "max", "weighted_mean", "root_mean" and "last" go over real tokens
            (``zoo.layers.pool``), "none" gives none.
        normalise: scale pooled vectors to length 1 (sentence-transformers' Normalize).
        dropout: dropout rate of the embeddings and of the output of each sublayer; 0.1 in the paper's pre-training.

    Raises:
        ConfigError: ``pool`` is unknown, or a number is outside its range.
        DataError: (forward) a row is longer than ``context_length``, or a token type is ``num_types`` or more.
    """

    silent_keywords = ("num_heads", "activation", "eps", "pool", "normalise")

    def __init__(
        self,
        *,
        vocab_size: int = 30522,
        context_length: int = 512,
        embedding_dim: int | None = None,
        dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        num_types: int = 2,
        separator_id: int | None = None,
        activation: str = "gelu",
        eps: float = 1e-12,
        pool: str = "cls",
        normalise: bool = False,
        dropout: float = 0.0,
    ) -> None:
        width = embedding_dim or dim
        super().__init__(
            dim=dim,
            vocab_size=vocab_size,
            word_dim=width,
            context_length=context_length,
            pool=pool,
            normalise=normalise,
            separator_id=separator_id,
        )
        self.embedding = nn.Embedding(vocab_size, width)
        self.positions = nn.Parameter(torch.empty(context_length, width))
        self.types = nn.Parameter(torch.empty(num_types, width))
        self.norm = nn.LayerNorm(width, eps=eps)
        self.widen = nn.Identity() if width == dim else nn.Linear(width, dim)
        hidden_dim = hidden_width(dim, mlp_ratio)
        self.blocks = nn.ModuleList(
            PostNormBlock(dim=dim, num_heads=num_heads, hidden_dim=hidden_dim, activation=activation, eps=eps, dropout=dropout)
            for _ in range(depth)
        )
        self.pooler = nn.Linear(dim, dim) if pool == "cls_tanh" else None
        self.dropout = nn.Dropout(dropout)
        self.initialise_text()

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The transformer blocks, in execution order."""
        return list(self.blocks)

    def embed(
        self,
        token_ids: Int[Tensor, "*tokens"],
        positions: Float[Tensor, "*places width"],
        types: Float[Tensor, "*kinds width"],
    ) -> Float[Tensor, "*tokens dim"]:
        """Add token, position and type embeddings, normalise the sum, then project it to ``dim``."""
        return self.widen(self.dropout(self.norm(self.embedding(token_ids) + positions + types)))
