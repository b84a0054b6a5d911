"""Blocks of encoder-decoder models of text: norms before or after each sublayer, of either kind, with or without biases.

Papers: Vaswani et al. 2017 (arXiv 1706.03762), section 3.1 (norms after); Raffel et al. 2019 (T5, arXiv 1910.10683), section 2.1, and Liu
et al. 2020 (mBART, arXiv 2001.08210), section 2.2 (norms before).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from jaxtyping import Bool, Float
from torch import Tensor, nn

from zoo.errors import ConfigError, name_choices
from zoo.layers.attention import Attention
from zoo.layers.decoder import Call, CausalAttention
from zoo.layers.experts import SparseSettings
from zoo.layers.linear import Linear
from zoo.layers.memory import Memory, MemoryAttention
from zoo.layers.mlp import feed_forward, find_activation
from zoo.layers.norm import build_norm

NORM_PLACES = ("before", "after")


@dataclass(frozen=True)
class BlockSettings:
    """Settings that all blocks of a stack share.

    Attributes:
        dim: width of the tokens.
        num_heads: attention heads.
        head_dim: width of each head; ``num_heads * head_dim`` may differ from ``dim`` (T5).
        hidden_dim: width of the feed-forward part.
        activation: name in ``zoo.layers.mlp.ACTIVATIONS`` or ``GATED``.
        norm: name in ``zoo.layers.norm.NORMS``.
        norm_place: "before" each sublayer, or "after" its output was added.
        eps: added inside the norms.
        bias: True gives all linear layers a bias.
        scaled: False leaves attention scores unscaled (T5).
        dropout: rate on the output of each sublayer, in training.
        experts: of a decoder in which some blocks have experts in place of the feed-forward part (Switch); None: no block has.

    Raises:
        ConfigError: ``norm_place`` is unknown.
    """

    dim: int
    num_heads: int
    head_dim: int
    hidden_dim: int
    activation: str = "gelu"
    norm: str = "layer"
    norm_place: str = "after"
    eps: float = 1e-5
    bias: bool = True
    scaled: bool = True
    dropout: float = 0.0
    experts: SparseSettings | None = None

    def __post_init__(self) -> None:
        if self.norm_place not in NORM_PLACES:
            raise ConfigError(f"norm_place: there is no {self.norm_place!r}; {name_choices(self.norm_place, NORM_PLACES)}")

    @property
    def scale(self) -> float | None:
        """Factor on the attention scores; None is head_dim ** -0.5."""
        return None if self.scaled else 1.0


class Residual(nn.Module):
    """Norm and residual connection around a sublayer: x + sublayer(norm(x)), or norm(x + sublayer(x))."""

    def __init__(self, settings: BlockSettings) -> None:
        super().__init__()
        self.norm = build_norm(settings.norm, settings.dim, settings.eps)
        self.before = settings.norm_place == "before"
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Float[Tensor, "rows length dim"], sublayer: Callable[[Tensor], Tensor]) -> Float[Tensor, "rows length dim"]:
        if self.before:
            return x + self.dropout(sublayer(self.norm(x)))
        return self.norm(x + self.dropout(sublayer(x)))


class Seq2SeqEncoderBlock(nn.Module):
    """Self-attention, then feed-forward part."""

    def __init__(self, settings: BlockSettings) -> None:
        super().__init__()
        self.attention = Attention(dim=settings.dim, num_heads=settings.num_heads, bias=settings.bias)
        self.residual1 = Residual(settings)
        self.mlp = _mlp(settings)
        self.residual2 = Residual(settings)

    def forward(
        self, x: Float[Tensor, "rows length dim"], mask: Bool[Tensor, "rows length"] | None = None
    ) -> Float[Tensor, "rows length dim"]:
        x = self.residual1(x, lambda states: self.attention(states, mask))
        return self.residual2(x, self.mlp)


class Seq2SeqDecoderBlock(nn.Module):
    """Causal self-attention, then cross-attention to the source, then feed-forward part, or experts in its place.

    Args:
        settings: shared by all blocks.
        memory_dim: width of the source's tokens.
        layer: number of the block, from 0, which decides if it has experts.
    """

    def __init__(self, settings: BlockSettings, *, memory_dim: int, layer: int = 0) -> None:
        super().__init__()
        dim, num_heads, head_dim, bias = settings.dim, settings.num_heads, settings.head_dim, settings.bias
        self.attention = CausalAttention(
            dim=dim, num_heads=num_heads, num_kv_heads=num_heads, head_dim=head_dim, bias=bias, scale=settings.scale
        )
        self.residual1 = Residual(settings)
        key_value = Linear(memory_dim, 2 * num_heads * head_dim, bias=bias)
        self.cross = MemoryAttention(dim=dim, num_heads=num_heads, key_value=key_value, head_dim=head_dim, bias=bias, scale=settings.scale)
        self.residual2 = Residual(settings)
        self.routes = settings.experts is not None and settings.experts.is_sparse(layer)
        self.mlp = _experts(settings) if self.routes else _mlp(settings)
        self.residual3 = Residual(settings)

    def forward(self, x: Float[Tensor, "rows length dim"], memory: Memory, call: Call, layer: int) -> Float[Tensor, "rows length dim"]:
        x = self.residual1(x, lambda states: self.attention(states, call, layer))
        x = self.residual2(x, lambda states: self.cross(states, memory, layer))
        return self.residual3(x, partial(self.mlp, real=call.real) if self.routes else self.mlp)


class OutputTransform(nn.Module):
    """Linear layer, activation and norm between the last block and the logits (BERT's decoder)."""

    def __init__(self, settings: BlockSettings) -> None:
        super().__init__()
        self.dense = Linear(settings.dim, settings.dim, bias=settings.bias)
        self.activation = find_activation(settings.activation)
        self.norm = build_norm(settings.norm, settings.dim, settings.eps)

    def forward(self, x: Float[Tensor, "*tokens dim"]) -> Float[Tensor, "*tokens dim"]:
        return self.norm(self.activation(self.dense(x)))


def _mlp(settings: BlockSettings) -> nn.Module:
    return feed_forward(dim=settings.dim, hidden_dim=settings.hidden_dim, activation=settings.activation, bias=settings.bias)


def _experts(settings: BlockSettings) -> nn.Module:
    if settings.bias:
        raise ConfigError("num_experts: experts have no biases; set bias=false, or num_experts=null")
    assert settings.experts is not None
    return settings.experts.make(dim=settings.dim, hidden_dim=settings.hidden_dim, activation=settings.activation)
