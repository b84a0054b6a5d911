"""Post-norm text transformer with learned positions and token types: BERT, RoBERTa, and the sentence encoders made from them (MiniLM).

Papers: Devlin et al. 2018 (arXiv 1810.04805), section 3; Liu et al. 2019 (RoBERTa, arXiv 1907.11692); Reimers and Gurevych 2019
(Sentence-BERT, arXiv 1908.10084), section 3 (mean pooling). References: transformers 5.17, ``modeling_bert.py``,
``modeling_roberta.py``.

Where we differ: queries, keys and values are one matrix; dropout is one rate for embeddings and sublayers, 0 unless asked for, and
none on attention's probabilities; token types follow from the separators in a row, or are given; RoBERTa's padding is what the mask
says and not what has the padding's id; the table of words may be of lower rank: narrower than the rest, and widened by a matrix
before anything is added to it. (ALBERT, a family of its own, widens after the norm, and with a bias.)
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.layers.mlp import hidden_width
from zoo.layers.post_norm import PostNormBlock, PostNormText
from zoo.registry import register


@register("encoder")
class Bert(PostNormText):
    """Token ids to tokens of the last block and one pooled vector.

    Args:
        context_length: the most tokens that one text may have.
        embedding_dim: width of the table of words; None is ``dim``. A narrower one is widened by a matrix.
        num_types: rows of the table of token types; without two texts in a row, type 0 is used alone.
        padding_row: row of the table of positions that padding takes: real tokens then have the rows from the next on, counted
            without padding (RoBERTa: 1, so that the first token has row 2 and 512 tokens need 514 rows). None: BERT's, from 0.
        separator_id: the id that ends each text of a row, by which tokens get their type (``zoo.layers.post_norm``).
        pool: "cls_tanh" is BERT's pooler (a linear layer and tanh of the first token), "cls" the first token, "mean" the mean
            over real tokens (Sentence-BERT), "none" gives no pooled vector.
        dropout: of embeddings and of what each sublayer adds; 0.1 in the paper's pre-training.

    Raises:
        ConfigError: an unknown pool, or a number outside its range.
        DataError: (forward) a row longer than ``context_length``, or types without a row in the table.
    """

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
        padding_row: int | None = None,
        separator_id: int | None = None,
        activation: str = "gelu",
        eps: float = 1e-12,
        pool: str = "cls_tanh",
        dropout: float = 0.0,
    ) -> None:
        word_dim = embedding_dim or dim
        super().__init__(
            dim=dim, vocab_size=vocab_size, word_dim=word_dim, context_length=context_length, pool=pool, separator_id=separator_id
        )
        if padding_row is not None and padding_row < 0:
            raise ConfigError(f"padding_row: {padding_row}; allowed is 0 or more (RoBERTa: 1), or null")
        self.padding_row = padding_row
        self.embedding = nn.Embedding(vocab_size, word_dim)
        self.widen = nn.Linear(word_dim, dim, bias=False) if word_dim != dim else nn.Identity()
        self.positions = nn.Parameter(torch.empty(context_length + (0 if padding_row is None else padding_row + 1), dim))
        self.types = nn.Parameter(torch.empty(num_types, dim))
        self.norm = nn.LayerNorm(dim, eps=eps)
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
        """The blocks in the order in which they run."""
        return list(self.blocks)

    def places(self, real: Bool[Tensor, "batch length"]) -> Int[Tensor, "batch length"] | None:
        """Rows of the table of positions: with ``padding_row`` 1 ``[1 1 1 0]`` gives 2 3 4 1."""
        return None if self.padding_row is None else real.cumsum(1) * real + self.padding_row

    def embed(
        self,
        token_ids: Int[Tensor, "*tokens"],
        positions: Float[Tensor, "*places width"],
        types: Float[Tensor, "*kinds width"],
    ) -> Float[Tensor, "*tokens dim"]:
        """Words, widened where they are narrow, with positions and types, normalised."""
        return self.dropout(self.norm(self.widen(self.embedding(token_ids)) + positions + types))
