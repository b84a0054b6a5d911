"""Decoder-only language model of Kosmos: Magneto's blocks with two more norms, and xPos or fixed sinusoids as positions.

Papers: Wang et al. 2022, "Foundation Transformers" (Magneto, arXiv 2210.06423); Huang et al. 2023 (Kosmos-1, arXiv 2302.14045), section
2.2 and table 17; Peng et al. 2023 (Kosmos-2, arXiv 2306.14824). References: transformers 5.17 ``Kosmos2TextTransformer``;
microsoft/torchscale ``architecture/decoder.py``.

Where we differ: queries, keys and values come from one matrix; positions count real tokens, so that padding changes nothing. Kosmos-1's
paper has xPos (``zoo.layers.xpos``), while in the code that Kosmos-2 was released with it is switched off and sinusoids are added.
torchscale's initialisation is not what its paper says: see ``init``.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, name_choices
from zoo.layers.attention import refuse_uneven_heads
from zoo.layers.decoder import DecoderBlock
from zoo.layers.decoder_only import DecoderOnly
from zoo.layers.linear import Linear
from zoo.layers.position import sinusoids
from zoo.layers.xpos import ScaledTurn, XPos
from zoo.registry import register

POSITIONS = ("xpos", "sinusoids")
INITS = ("xavier", "torchscale")
FIRST_POSITION = 2  # of the sinusoids: fairseq's tables have rows 0 and 1 for what is no token, and row 1 (padding) is zero


@register("language")
class Magneto(DecoderOnly):
    """Token ids, or their vectors, to hidden states, from which ``logits`` makes scores of the next token.

    Args:
        context_length: the most tokens of a text.
        hidden_dim: of the feed-forward part; None: four times ``dim``.
        positions: "xpos" (Kosmos-1) turns queries and keys, "sinusoids" (Kosmos-2) are added to the vectors of tokens.
        xpos_scale: over how many positions a score fades by its zeta.
        embed_scale: what vectors of tokens are multiplied with, and what stands among them too: features of images; None: the
            square root of ``dim``.
        init: "xavier" (the paper: Xavier, with a gain of sqrt(ln(2 depth)) for values, outputs and the feed-forward part) or
            "torchscale" (what its code does: torch's default of linear layers, and that gain for these parts' weights and biases).
        tied: the table of token vectors also scores the next token.
        dropout: of the vectors that enter the first block and of both branches of each block, in training.
        attention_dropout: of the attention's weights, in training.

    Raises:
        ConfigError: unknown words, or numbers that do not fit.
        DataError: (forward) a text longer than ``context_length``.
    """

    window = None

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
                **{"dim": dim, "num_heads": num_heads, "num_kv_heads": num_heads, "head_dim": self.head_dim, "hidden_dim": hidden},
                **{"activation": "gelu", "norm": "layer", "eps": eps, "bias": True},
                inner_norms=(nn.LayerNorm(dim, eps=eps), nn.LayerNorm(hidden, eps=eps)),
                dropout=dropout,
                attention_dropout=attention_dropout,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.lm_head = None if tied else Linear(dim, vocab_size, bias=False)
        self._initialise(init)

    def place(self, x: Float[Tensor, "*tokens dim"], places: Int[Tensor, "*#tokens"]) -> Float[Tensor, "*tokens dim"]:
        """Vectors scaled, with sinusoids added where there is no xPos."""
        x = x * self.embed_scale
        if self.xpos is None:
            x = x + sinusoids(places + FIRST_POSITION, self.dim).to(x.dtype)
        return self.drop(x)

    def rotation(self, places: Int[Tensor, "*#tokens"]) -> ScaledTurn | None:
        """Queries and keys turned and scaled, with xPos."""
        return None if self.xpos is None else self.xpos.turn(places)

    def _initialise(self, init: str) -> None:
        std = self.dim**-0.5
        nn.init.normal_(self.embedding.weight, std=std)
        if self.lm_head is not None:
            nn.init.normal_(self.lm_head.weight, std=std)
        gain = sub_norm_gain(len(self.blocks))
        for name, module in self.blocks.named_modules():
            if isinstance(module, nn.Linear):
                parts = (1.0, 1.0, gain) if name.endswith("qkv") else (gain,)  # of q, k, v, or of the whole
                (_fill_xavier if init == "xavier" else _scale_default)(module, parts)


def sub_norm_gain(depth: int) -> float:
    """By how much values, outputs and feed-forward parts of a decoder of so many blocks start larger.

    Source: Magneto, section 3.2 and figure 2: sqrt(ln(2 N)).
    """
    return math.log(2 * max(depth, 1)) ** 0.5


@torch.no_grad()
def _fill_xavier(layer: nn.Linear, gains: tuple[float, ...]) -> None:
    for matrix, gain in zip(layer.weight.chunk(len(gains)), gains, strict=True):
        nn.init.xavier_uniform_(matrix, gain=gain)
    nn.init.zeros_(layer.bias)


@torch.no_grad()
def _scale_default(layer: nn.Linear, gains: tuple[float, ...]) -> None:
    """Torch's own values, uniform up to 1 / sqrt(fan in), times the gain; biases too, because torchscale goes by names."""
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
