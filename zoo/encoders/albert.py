"""ALBERT: BERT with one block that runs again and again, and a narrow table of words.

Paper: Lan et al. 2019 (arXiv 1909.11942), sections 3.1 and 3.2. Reference: transformers 5.17, ``modeling_albert.py``.

Where we differ: queries, keys and values are one matrix; dropout is one rate, 0 unless asked for (the paper's larger models have
none), and none on attention's probabilities; all blocks are one group, as in every published model.
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
    """Token ids to tokens of the last block and one pooled vector.

    Args:
        context_length: the most tokens that one text may have.
        embedding_dim: width of the tables of words, positions and types, which a layer with a bias widens after their norm.
        depth: how often the one block runs.
        num_types: rows of the table of token types.
        separator_id: the id that ends each text of a row, by which tokens get their type (``zoo.layers.post_norm``).
        pool: "cls_tanh" is BERT's pooler, "cls" the first token, "mean" the mean over real tokens, "none" gives no pooled vector.
        dropout: of embeddings and of what each sublayer adds.

    Raises:
        ConfigError: an unknown pool, or a number outside its range.
        DataError: (forward) a row longer than ``context_length``, or types without a row in the table.
    """

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
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            dim=dim, vocab_size=vocab_size, word_dim=embedding_dim, context_length=context_length, pool=pool, separator_id=separator_id
        )
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        self.positions = nn.Parameter(torch.empty(context_length, embedding_dim))
        self.types = nn.Parameter(torch.empty(num_types, embedding_dim))
        self.norm = nn.LayerNorm(embedding_dim, eps=eps)
        self.widen = nn.Linear(embedding_dim, dim)
        hidden_dim = hidden_width(dim, mlp_ratio)
        self.block = PostNormBlock(dim=dim, num_heads=num_heads, hidden_dim=hidden_dim, activation=activation, eps=eps, dropout=dropout)
        self.depth = depth
        self.pooler = nn.Linear(dim, dim) if pool == "cls_tanh" else None
        self.dropout = nn.Dropout(dropout)
        self.initialise_text()

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The one block, as often as it runs."""
        return [self.block] * self.depth

    def embed(
        self,
        token_ids: Int[Tensor, "*tokens"],
        positions: Float[Tensor, "*places width"],
        types: Float[Tensor, "*kinds width"],
    ) -> Float[Tensor, "*tokens dim"]:
        """Words with positions and types, normalised, then widened."""
        return self.widen(self.dropout(self.norm(self.embedding(token_ids) + positions + types)))
