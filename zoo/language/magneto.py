"""Decoder-only language model of Kosmos: Magneto's blocks with two more norms, and xPos or fixed sinusoids as positions.

Papers: Wang et al. 2022, "Foundation Transformers" (Magneto, arXiv 2210.06423); Huang et al. 2023 (Kosmos-1, arXiv 2302.14045), section
2.2 and table 17; Peng et al. 2023 (Kosmos-2, arXiv 2306.14824). References: transformers 5.17 ``Kosmos2TextTransformer``;
microsoft/torchscale ``architecture/decoder.py``.

Where we differ: one matrix projects to queries, keys and values; positions count real tokens, so that padding changes nothing. The
Kosmos-1 paper uses xPos (``zoo.layers.xpos``); the code released with Kosmos-2 disables xPos and adds sinusoids instead. torchscale's
initialisation differs from the Magneto paper: see ``init``.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, name_choices
from zoo.layers.attention import refuse_uneven_heads
from zoo.layers.decoder import CausalAttention, DecoderBlock
from zoo.layers.decoder_only import DecoderOnly
from zoo.layers.linear import Linear
from zoo.layers.mlp import feed_forward
from zoo.layers.position import sinusoids
from zoo.layers.xpos import ScaledTurn, XPos
from zoo.registry import register

POSITIONS = ("xpos", "sinusoids")
INITS = ("xavier", "torchscale")
FIRST_POSITION = 2  # row of the first token in fairseq's sinusoid tables; rows 0 and 1 are reserved, and row 1 (padding) is zero


@register("language")
class Magneto(DecoderOnly):
    """Causal language model of Kosmos: maps token ids or embedding vectors to hidden states; ``logits`` scores the next token.

    Args:
        context_length: maximum number of tokens of a text.
        hidden_dim: width of the feed-forward layers; None means 4 * ``dim``.
        positions: "xpos" (Kosmos-1) rotates and scales queries and keys; "sinusoids" (Kosmos-2) are added to the embeddings.
        xpos_scale: number of positions over which xPos decays a score by its factor zeta.
        embed_scale: factor on all input vectors, including spliced features of images; None means sqrt(``dim``).
        init: "xavier" (paper: Xavier, with a gain of sqrt(ln(2 depth)) for value, output and feed-forward layers) or "torchscale"
            (reference code: torch's default for linear layers, with the same gain on weights and biases of the same layers).
        tied: compute logits with the token embedding matrix instead of a separate output matrix.
        dropout: dropout probability of the first block's input and of both branches of each block.
        attention_dropout: dropout probability of the attention weights.

    Raises:
        ConfigError: an unknown option, or a number outside its range.
        DataError: (forward) a text is longer than ``context_length``.
    """

    silent_keywords = ("num_heads", "eps", "positions", "xpos_scale", "embed_scale")
    window = None  # attention to all previous tokens

    def __init__(
        self,
        *,
        vocab_size: int = 64_007,
        context_length: int = 2048,
        dim: int = 2048,
        depth: int = 24,
        num_heads: int = 32,
        hidden_dim: int | None = None,
        eps: float = 1e-5,
        positions: str = "xpos",
        xpos_scale: int = 512,
        embed_scale: float | None = None,
        init: str = "xavier",
        tied: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        refuse_uneven_heads(dim, num_heads)
        _refuse(positions, init, embed_scale, dropout=dropout, attention_dropout=attention_dropout)
        self.dim, self.vocab_size, self.context_length = dim, vocab_size, context_length
        self.num_kv_heads, self.head_dim = num_heads, dim // num_heads
        self.embed_scale = dim**0.5 if embed_scale is None else embed_scale
        hidden = 4 * dim if hidden_dim is None else hidden_dim
        self.xpos = XPos(head_dim=self.head_dim, context_length=context_length, scale=xpos_scale) if positions == "xpos" else None
        self.embedding = nn.Embedding(vocab_size, dim)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            DecoderBlock(
                dim=dim,
                # Sub-LN of the paper: a second norm in each branch, before its output layer.
                attention=CausalAttention(
                    **{"dim": dim, "num_heads": num_heads, "num_kv_heads": num_heads, "head_dim": self.head_dim, "bias": True},
                    norm=nn.LayerNorm(dim, eps=eps),
                    dropout=attention_dropout,
                ),
                mlp=feed_forward(dim=dim, hidden_dim=hidden, norm=nn.LayerNorm(hidden, eps=eps)),
                norm="layer",
                eps=eps,
                dropout=dropout,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.lm_head = None if tied else Linear(dim, vocab_size, bias=False)
        self._initialise(init)

    def place(self, x: Float[Tensor, "*tokens dim"], places: Int[Tensor, "*#tokens"]) -> Float[Tensor, "*tokens dim"]:
        """Scale the input vectors, add sinusoids unless xPos is used, and apply dropout."""
        x = x * self.embed_scale
        if self.xpos is None:
            x = x + sinusoids(places + FIRST_POSITION, self.dim).to(x.dtype)
        return self.drop(x)

    def rotation(self, places: Int[Tensor, "*#tokens"], window: int | None) -> ScaledTurn | None:
        """Return the xPos rotation and scale of these positions, or None with sinusoids."""
        return None if self.xpos is None else self.xpos.turn(places)

    def _initialise(self, init: str) -> None:
        # With embed_scale = sqrt(dim), the scaled embeddings have unit variance.
        std = self.dim**-0.5
        nn.init.normal_(self.embedding.weight, std=std)
        if self.lm_head is not None:
            nn.init.normal_(self.lm_head.weight, std=std)
        gain = sub_norm_gain(len(self.blocks))
        for name, module in self.blocks.named_modules():
            if isinstance(module, nn.Linear):
                parts = (1.0, 1.0, gain) if name.endswith("qkv") else (gain,)  # the paper scales values, not queries and keys
                (_fill_xavier if init == "xavier" else _scale_default)(module, parts)


def sub_norm_gain(depth: int) -> float:
    """Return the initialisation gain of value, output and feed-forward layers of a decoder with ``depth`` blocks.

    Source: Magneto, section 3.2 and figure 2: sqrt(ln(2 N)).
    """
    return math.log(2 * max(depth, 1)) ** 0.5  # max: a model without blocks must not take log(0)


@torch.no_grad()
def _fill_xavier(layer: nn.Linear, gains: tuple[float, ...]) -> None:
    for matrix, gain in zip(layer.weight.chunk(len(gains)), gains, strict=True):
        nn.init.xavier_uniform_(matrix, gain=gain)
    nn.init.zeros_(layer.bias)


@torch.no_grad()
def _scale_default(layer: nn.Linear, gains: tuple[float, ...]) -> None:
    """Multiply torch's default weights (uniform up to 1 / sqrt(fan_in)) and biases by the gains.

    Biases are included because torchscale selects the tensors by name.
    """
    for tensor in (layer.weight, layer.bias):
        for part, gain in zip(tensor.chunk(len(gains)), gains, strict=True):
            part.mul_(gain)


def _refuse(positions: str, init: str, embed_scale: float | None, **shares: float) -> None:
    for key, value, legal in (("positions", positions, POSITIONS), ("init", init, INITS)):
        if value not in legal:
            raise ConfigError(f"{key}: there is no {value!r}; {name_choices(value, legal)}")
    if embed_scale is not None and embed_scale <= 0:
        raise ConfigError(f"embed_scale: got {embed_scale}; allowed are numbers above 0, or null for the square root of dim")
    for key, share in shares.items():
        if not 0 <= share < 1:
            raise ConfigError(f"{key}: got {share}; allowed is 0 to below 1")
