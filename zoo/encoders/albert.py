"""ALBERT: BERT with one block whose weights are shared by all layers, and a narrow token embedding.

Paper: Lan et al. 2019 (arXiv 1909.11942), sections 3.1 and 3.2. Reference: transformers 5.17, ``modeling_albert.py``.

Where we differ: one matrix projects to queries, keys and values. There is one dropout rate, 0 by default (the paper's larger models
train without dropout), and it does not apply to the attention probabilities. All layers share one block (``num_hidden_groups`` is 1 in
every published model).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.layers.mlp import hidden_width
from zoo.layers.post_norm import PostNormBlock, PostNormText
from zoo.registry import register


@register("encoder")
class Albert(PostNormText):
    """Text encoder that gives the tokens of the last block and one pooled vector.

    Args:
        context_length: maximum number of tokens of one text.
        embedding_dim: width of the token, position and type embeddings. After their LayerNorm, a linear layer with bias projects them
            to ``dim``.
        depth: number of times that the shared block runs.
        num_types: number of token types (segments).
        separator_id: id of the symbol that ends each text of a row; token types follow from it (``zoo.layers.post_norm``).
        pool: "cls_tanh" is BERT's pooler, "cls" the first token, "mean", "max", "weighted_mean", "root_mean" and "last" go over real
            tokens (``zoo.layers.pool``), "none" gives none.
        normalise: scale pooled vectors to length 1 (sentence-transformers' Normalize).
        dropout: dropout rate of the embeddings and of the output of each sublayer.

    Raises:
        ConfigError: ``pool`` is unknown, or a number is outside its range.
        DataError: (forward) a row is longer than ``context_length``, or a token type is ``num_types`` or more.
    """

    silent_keywords = ("depth", "num_heads", "activation", "eps", "pool", "normalise")  # depth: all runs share one block

    def __init__(
        self,
        *,
        vocab_size: int = 30000,
        context_length: int = 512,
        embedding_dim: int = 128,
        dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        num_types: int = 2,
        separator_id: int | None = None,
        activation: str = "gelu_tanh",
        eps: float = 1e-12,
        pool: str = "cls_tanh",
        normalise: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            dim=dim,
            vocab_size=vocab_size,
            word_dim=embedding_dim,
            context_length=context_length,
            pool=pool,
            normalise=normalise,
            separator_id=separator_id,
        )
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        self.positions = nn.Parameter(torch.empty(context_length, embedding_dim))
        self.types = nn.Parameter(torch.empty(num_types, embedding_dim))
        self.norm = nn.LayerNorm(embedding_dim, eps=eps)
        self.widen = nn.Linear(embedding_dim, dim)
        hidden_dim = hidden_width(dim, mlp_ratio)
        # ALBERT has one block: checkpoints hold its weights once, and its gradient is the sum over all ``depth`` runs.
        self.block = PostNormBlock(dim=dim, num_heads=num_heads, hidden_dim=hidden_dim, activation=activation, eps=eps, dropout=dropout)
        self.depth = depth
        self.pooler = nn.Linear(dim, dim) if pool == "cls_tanh" else None
        self.dropout = nn.Dropout(dropout)
        self.initialise_text()

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The shared block, repeated ``depth`` times."""
        return [self.block] * self.depth

    def embed(
        self,
        token_ids: Int[Tensor, "*tokens"],
        positions: Float[Tensor, "*places width"],
        types: Float[Tensor, "*kinds width"],
    ) -> Float[Tensor, "*tokens dim"]:
        """Add token, position and type embeddings, normalise the sum, then project it from ``embedding_dim`` to ``dim``."""
        # The norm comes before the projection; a low-rank Bert projects first (see ``zoo.encoders.bert``).
        return self.widen(self.dropout(self.norm(self.embedding(token_ids) + positions + types)))
