"""Text encoder of encoder-decoder models: the Transformer of 2017, MarianMT, BART and mBART.

Papers: Vaswani et al. 2017 (arXiv 1706.03762), section 3; Lewis et al. 2019 (BART, arXiv 1910.13461); Liu et al. 2020 (mBART, arXiv
2001.08210). References: transformers 5.17 ``modeling_marian.py``, ``modeling_bart.py``, ``modeling_mbart.py``. The encoder of T5 is
``zoo.encoders.t5``.

Where we differ: one matrix projects to queries, keys and values; attention probabilities and the hidden layer of the feed-forward part have
no dropout. Positions count real tokens, so that padding on the left changes nothing either. There may be a pooled vector, the mean.
"""

from jaxtyping import Bool, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, name_choices
from zoo.layers.attention import refuse_uneven_heads
from zoo.layers.norm import build_norm
from zoo.layers.pool import masked_mean
from zoo.layers.position import PositionEmbedding, counted_positions
from zoo.layers.seq2seq_blocks import BlockSettings, Seq2SeqEncoderBlock
from zoo.layers.text_encoder import WordEncoder
from zoo.layers.text_tokens import real_tokens
from zoo.registry import register
from zoo.types import Encoded

POOLS = ("mean", "none")


@register("encoder")
class Seq2SeqEncoder(WordEncoder):
    """Text encoder that gives the tokens of the last block.

    Args:
        context_length: maximum number of tokens of one text.
        hidden_dim: width of the feed-forward part.
        norm_place: "after" each sublayer's output was added (2017, Marian, BART) or "before" each sublayer (mBART).
        embedding_norm: normalise the sum of word and position embeddings (BART, mBART).
        final_norm: normalise the output of the last block (mBART).
        positions: "learned", "interleaved" (2017), "halves" (Marian), "tensor2tensor" or "none"; see ``PositionEmbedding``.
        position_offset: row of the learned table that the first token uses (BART: 2).
        scale_embedding: multiply word embeddings by the root of ``dim``.
        pool: "mean" over real tokens, or "none" for no pooled vector.
        dropout: rate on the embeddings and on the output of each sublayer; 0.1 in the paper.

    Raises:
        ConfigError: a name is unknown, or sizes do not fit each other.
        DataError: (forward) a row is longer than ``context_length``.
    """

    context_length: int
    no_weight_decay = ("positions",)
    silent_keywords = ("num_heads", "activation", "norm_place", "positions", "position_offset", "scale_embedding", "eps", "pool")

    def __init__(
        self,
        *,
        vocab_size: int = 37000,
        context_length: int = 512,
        dim: int = 512,
        depth: int = 6,
        num_heads: int = 8,
        hidden_dim: int = 2048,
        activation: str = "relu",
        norm_place: str = "after",
        embedding_norm: bool = False,
        final_norm: bool = False,
        positions: str = "interleaved",
        position_offset: int = 0,
        scale_embedding: bool = True,
        eps: float = 1e-5,
        pool: str = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        refuse_uneven_heads(dim, num_heads)
        if pool not in POOLS:
            raise ConfigError(f"pool: there is no {pool!r}; {name_choices(pool, POOLS)}")
        self.dim, self.vocab_size, self.context_length, self.word_dim = dim, vocab_size, context_length, dim
        self.gives_pooled = pool != "none"
        self.embed_scale = dim**0.5 if scale_embedding else 1.0
        self.embedding = nn.Embedding(vocab_size, dim)
        self.positions = PositionEmbedding(kind=positions, context_length=context_length, dim=dim, offset=position_offset)
        settings = BlockSettings(
            dim=dim,
            num_heads=num_heads,
            head_dim=dim // num_heads,
            hidden_dim=hidden_dim,
            activation=activation,
            norm_place=norm_place,
            eps=eps,
            dropout=dropout,
        )
        self.embedding_norm = build_norm("layer", dim, eps) if embedding_norm else None
        self.blocks = nn.ModuleList(Seq2SeqEncoderBlock(settings) for _ in range(depth))
        self.norm = build_norm("layer", dim, eps) if final_norm else None
        self.dropout = nn.Dropout(dropout)
        self._initialise()

    def forward(
        self, token_ids: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"] | None = None, *, reads: str = "tokens"
    ) -> Encoded:
        """Encode token ids to tokens [batch, length, dim].

        Args:
            mask: True at real tokens; None if there is no padding.
        """
        real = real_tokens(token_ids, mask, self.context_length)
        places = counted_positions(mask, token_ids.shape[1], token_ids.device)
        x = self.positions(self.embedding(token_ids) * self.embed_scale, places)
        x = self.dropout(x if self.embedding_norm is None else self.embedding_norm(x))
        for block in self.blocks:
            x = block(x, mask)
        x = x if self.norm is None else self.norm(x)
        return Encoded(x, masked_mean(x, real) if self.gives_pooled else None, real)

    def _initialise(self) -> None:
        """Initialise matrices from N(0, 1 / fan_in), word embeddings from N(0, 1 / dim) and positions from N(0, 0.02^2).

        The paper does not state its initialisation. Scaled embeddings then have unit variance, and so have logits of a tied decoder.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.embedding.weight, std=self.dim**-0.5)
        if self.positions.table is not None:
            nn.init.normal_(self.positions.table, std=0.02)
