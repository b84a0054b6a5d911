"""Post-norm text transformer with learned positions and token types: BERT, RoBERTa, XLM, and sentence encoders based on them (MiniLM).

Papers: Devlin et al. 2018 (arXiv 1810.04805), section 3; Liu et al. 2019 (RoBERTa, arXiv 1907.11692); Reimers and Gurevych 2019
(Sentence-BERT, arXiv 1908.10084), section 3 (mean pooling); Conneau and Lample 2019 (XLM, arXiv 1901.07291), whose token types are
languages. References: transformers 5.17, ``modeling_bert.py``, ``modeling_roberta.py``, ``modeling_xlm.py``.

Where we differ:

* One matrix projects to queries, keys and values.
* Embeddings and sublayers have one dropout rate, 0 by default; the attention probabilities have no dropout.
* Token types follow from the separators in a row, unless the caller passes them.
* In RoBERTa, the mask defines the padding; the reference uses the padding's token id.
* The token embedding may be narrower than ``dim``. A matrix without bias then projects it to ``dim`` before positions and types are
  added. (ALBERT, see ``zoo.encoders.albert``, projects after the norm and with a bias.)
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
    """Text encoder that gives the tokens of the last block and one pooled vector.

    Args:
        context_length: maximum number of tokens of one text.
        embedding_dim: width of the token embedding; None means ``dim``. If it is not ``dim``, a matrix projects it to ``dim``.
        num_types: number of token types (segments; in XLM, languages); 0 for none.
        default_type: type of the tokens of a row with a single text; null adds none (XLM, unless the caller passes the language).
        padding_row: row of the position table that padding uses. Real tokens then use the rows after it, counted without padding
            (RoBERTa: 1, so the first token has row 2 and 512 tokens need 514 rows). None numbers all positions from 0 (BERT).
        separator_id: id of the symbol that ends each text of a row; token types follow from it (``zoo.layers.post_norm``).
        restart_positions: count positions from 0 again in each text of a row. With pairs of translations, whose types are then their
            languages, this is translation language modelling (Conneau and Lample 2019, arXiv 1901.07291, section 3.3).
        causal: each token attends only to itself and to those before it (XLM's causal language models).
        pool: "cls_tanh" is BERT's pooler (a linear layer and tanh of the first token), "cls" the first token, "mean", "max",
            "weighted_mean", "root_mean" and "last" go over real tokens (Sentence-BERT; ``zoo.layers.pool``), "none" gives no pooled vector.
        normalise: scale pooled vectors to length 1 (sentence-transformers' Normalize).
        dropout: dropout rate of the embeddings and of the output of each sublayer; 0.1 in the paper's pre-training.

    Raises:
        ConfigError: ``pool`` is unknown, or a number is outside its range.
        DataError: (forward) a row is longer than ``context_length``, or a token type is ``num_types`` or more.
    """

    silent_keywords = ("num_heads", "activation", "eps", "pool", "normalise", "restart_positions", "default_type", "causal")
    # WordNet glosses (MiniLM): rank correlation of similarities with fp32 99.51 %, one scale per tensor 97.32 % (benchmarks/quality.py)
    low_precision = {"int8": ()}

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
        default_type: int | None = 0,
        padding_row: int | None = None,
        separator_id: int | None = None,
        restart_positions: bool = False,
        causal: bool = False,
        activation: str = "gelu",
        eps: float = 1e-12,
        pool: str = "cls_tanh",
        normalise: bool = False,
        dropout: float = 0.0,
    ) -> None:
        word_dim = embedding_dim or dim  # a head that ties its decoder to the token embedding needs this width
        super().__init__(
            dim=dim,
            vocab_size=vocab_size,
            word_dim=word_dim,
            context_length=context_length,
            pool=pool,
            normalise=normalise,
            separator_id=separator_id,
        )
        if padding_row is not None and padding_row < 0:
            raise ConfigError(f"padding_row: {padding_row}; allowed is 0 or more (RoBERTa: 1), or null")
        if restart_positions and (separator_id is None or num_types < 2 or padding_row is not None):
            raise ConfigError(
                f"restart_positions: true needs a separator_id, num_types of 2 or more and no padding_row; got {separator_id}, {num_types} "
                f"and {padding_row}"
            )
        if default_type is not None and not 0 <= default_type < num_types:
            raise ConfigError(f"default_type: {default_type} with num_types {num_types}; allowed is 0 to num_types - 1, or null")
        self.padding_row, self.restart_positions = padding_row, restart_positions
        self.default_type, self.is_causal = default_type, causal
        self.embedding = nn.Embedding(vocab_size, word_dim)
        self.widen = nn.Linear(word_dim, dim, bias=False) if word_dim != dim else nn.Identity()
        # With a padding row, real tokens begin after it, so the table has padding_row + 1 additional rows (RoBERTa: 514 for 512).
        self.positions = nn.Parameter(torch.empty(context_length + (0 if padding_row is None else padding_row + 1), dim))
        # By default, row 0 is also added to single texts, as in the reference.
        self.types = nn.Parameter(torch.empty(num_types, dim)) if num_types else None
        self.norm = nn.LayerNorm(dim, eps=eps)
        hidden_dim = hidden_width(dim, mlp_ratio)
        self.blocks = nn.ModuleList(
            PostNormBlock(dim=dim, num_heads=num_heads, hidden_dim=hidden_dim, activation=activation, eps=eps, dropout=dropout)
            for _ in range(depth)
        )
        self.pooler = nn.Linear(dim, dim) if pool == "cls_tanh" else None  # weights of no use to another pool would stay untrained
        self.dropout = nn.Dropout(dropout)
        self.initialise_text()

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The transformer blocks, in execution order."""
        return list(self.blocks)

    def places(
        self, real: Bool[Tensor, "batch length"], types: Int[Tensor, "batch length"] | None = None
    ) -> Int[Tensor, "batch length"] | None:
        """Return the row of the position table for each token; None means 0, 1, 2, ... (BERT).

        With ``padding_row`` 1, the mask ``[1 1 1 0]`` gives the rows 2 3 4 1. With ``restart_positions``, the types ``0 0 0 1 1`` give the
        rows 0 1 2 0 1.
        """
        if self.restart_positions and types is not None:
            index = torch.arange(types.shape[1], device=types.device).expand_as(types)
            begins = torch.cat([torch.ones_like(types[:, :1], dtype=torch.bool), types[:, 1:] != types[:, :-1]], dim=1)
            return index - torch.where(begins, index, 0).cummax(1).values
        # cumsum counts real tokens only, so padding on the left does not shift positions; ``* real`` puts padding at padding_row.
        return None if self.padding_row is None else real.cumsum(1) * real + self.padding_row

    def embed(
        self,
        token_ids: Int[Tensor, "*tokens"],
        positions: Float[Tensor, "*places width"],
        types: Float[Tensor, "*kinds width"],
    ) -> Float[Tensor, "*tokens dim"]:
        """Project token embeddings to ``dim`` if they are narrower, add positions and types, and normalise the sum."""
        return self.dropout(self.norm(self.widen(self.embedding(token_ids)) + positions + types))
