"""Connectors: modules that map an encoder's tokens to a language model's width and may change their number.

Papers: linear and MLP: Liu et al. 2023 (LLaVA, arXiv 2304.08485) and 2310.03744, section 3.2; pixel shuffle: the inverse of Shi et al. 2016
(arXiv 1609.05158), as Idefics3 (arXiv 2408.12637) and SmolVLM (arXiv 2504.05299) use it; Perceiver resampler: Alayrac et
al. 2022 (Flamingo, arXiv 2204.14198), figure 5 and appendix A.1.1; attention pooling: Yu et al. 2022 (CoCa, arXiv 2205.01917),
section 3.2; a single attention layer with latents: Peng et al. 2023 (Kosmos-2, arXiv 2306.14824), as released; convolutions over time:
Radford et al. 2022 (Whisper, arXiv 2212.04356), figure 1, but each with stride 2.

Padding never influences a real token: it is set to zero before tokens are mixed, and masked in attention.

To add a connector, write a subclass of ``Connector`` and enter it in ``CONNECTORS``; its keywords become config options.
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError, name_choices
from zoo.layers.attention import CrossAttention
from zoo.layers.linear import Linear
from zoo.layers.mlp import MLP, hidden_width


class Connector(nn.Module, ABC):
    """Base class of connectors: tokens [batch, num_tokens, in_dim] and their mask to [batch, new_tokens, out_dim] and a new mask.

    ``num_tokens(n)`` is the only place that computes the number of output tokens; ``forward`` must return as many real tokens.
    """

    silent_keywords: ClassVar[Sequence[str]] = ()  # see ``zoo.types.Connector``

    @classmethod
    def resolved(cls, keywords: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keywords in the form in which ``silent_keywords`` are compared; see ``zoo.types.Part.resolved``."""
        return dict(keywords)

    @abstractmethod
    def num_tokens(self, n: int) -> int:
        """Return the number of real tokens that ``forward`` returns for ``n`` real tokens.

        Raises:
            DataError: the connector cannot process ``n`` tokens.
        """

    @abstractmethod
    def forward(
        self, tokens: Float[Tensor, "batch num_tokens in_dim"], mask: Bool[Tensor, "batch num_tokens"]
    ) -> tuple[Float[Tensor, "batch new_tokens out_dim"], Bool[Tensor, "batch new_tokens"]]: ...


class LinearConnector(Connector):
    """One linear layer, applied to each token (LLaVA)."""

    def __init__(self, *, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.linear = Linear(in_dim, out_dim)

    def num_tokens(self, n: int) -> int:
        return n

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Float[Tensor, "batch num_tokens out_dim"], Bool[Tensor, "batch num_tokens"]]:
        return self.linear(tokens), mask


class MLPConnector(Connector):
    """Linear layers with GELU between them, applied to each token (LLaVA-1.5: two layers, both as wide as the language model).

    Args:
        in_dim: width of the encoder's tokens.
        out_dim: width of the language model.
        depth: number of linear layers.
        bias: True gives each of them a bias.
    """

    def __init__(self, *, in_dim: int, out_dim: int, depth: int = 2, bias: bool = True) -> None:
        super().__init__()
        _refuse_below("depth", depth, 1)
        self.layers = nn.ModuleList(Linear(out_dim if i else in_dim, out_dim, bias=bias) for i in range(depth))

    def num_tokens(self, n: int) -> int:
        return n

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Float[Tensor, "batch num_tokens out_dim"], Bool[Tensor, "batch num_tokens"]]:
        for i, layer in enumerate(self.layers):
            tokens = layer(F.gelu(tokens) if i else tokens)
        return tokens, mask


class PixelShuffle(Connector):
    """Concatenation of the channels of each factor x factor square of tokens into one token, then a linear layer.

    With factor 2 the positions of a 4 x 4 grid become::

         0  1  2  3        [0 1 4 5]    [2 3 6 7]
         4  5  6  7
         8  9 10 11        [8 9 12 13]  [10 11 14 15]
        12 13 14 15

    Args:
        in_dim: width of the encoder's tokens.
        out_dim: width of the language model.
        factor: side of the squares, in tokens.
        bias: True gives the linear layer a bias (Idefics3 and SmolVLM: False).
    """

    def __init__(self, *, in_dim: int, out_dim: int, factor: int = 2, bias: bool = True) -> None:
        super().__init__()
        _refuse_below("factor", factor, 1)
        self.factor = factor
        self.linear = Linear(in_dim * factor**2, out_dim, bias=bias)

    def num_tokens(self, n: int) -> int:
        reason = misfit(n, self.factor)
        if reason is not None:
            raise DataError(f"pixel_shuffle: {reason}")
        return n // self.factor**2

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Float[Tensor, "batch new_tokens out_dim"], Bool[Tensor, "batch new_tokens"]]:
        number, factor = self.num_tokens(tokens.shape[1]), self.factor
        side = math.isqrt(tokens.shape[1]) // factor
        grid = tokens.unflatten(1, (side, factor, side, factor))  # [B, rows, factor, columns, factor, in_dim]
        x = grid.transpose(2, 3).flatten(3).flatten(1, 2)  # [B, rows * columns, factor * factor * in_dim]
        return self.linear(x), mask[:, :1].expand(-1, number)  # an item has all tokens of its grid or none


def misfit(n: int, factor: int) -> str | None:
    """Return the reason why ``n`` tokens are not a square grid that ``factor`` x ``factor`` squares fill, or None if they are."""
    side = math.isqrt(n)
    if side**2 != n:
        return f"{n} tokens do not form a square grid"
    legal = [f for f in range(1, side + 1) if side % f == 0]
    return None if side % factor == 0 else f"factor {factor} does not divide the side of the {side} x {side} grid; allowed are {legal}"


class PerceiverLayer(nn.Module):
    """Attention from latents to media tokens and latents together, then a feed-forward block; both with residual connections.

    Source: Flamingo, figure 5 and its code. Keys and values are computed from media tokens and latents, concatenated, each normalised by a
    separate layer norm; the feed-forward block is pre-norm.
    """

    def __init__(self, *, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm_media = nn.LayerNorm(dim)
        self.norm_latents = nn.LayerNorm(dim)
        self.attention = CrossAttention(dim=dim, num_heads=num_heads, bias=False)
        self.norm = nn.LayerNorm(dim)
        self.mlp = MLP(dim=dim, hidden_dim=hidden_width(dim, mlp_ratio))

    def forward(
        self,
        latents: Float[Tensor, "batch num_latents dim"],
        media: Float[Tensor, "batch num_tokens dim"],
        mask: Bool[Tensor, "batch all_tokens"],
    ) -> Float[Tensor, "batch num_latents dim"]:
        """Update the latents; ``mask`` is True at media tokens, followed by latents, that may be attended to."""
        queries = self.norm_latents(latents)
        # Latents are among the keys too, so that a latent can read the others without a separate self-attention.
        context = torch.cat([self.norm_media(media), queries], dim=1)  # [B, N + num_latents, dim]
        latents = latents + self.attention(queries, context, mask)
        return latents + self.mlp(self.norm(latents))


class PerceiverResampler(nn.Module):
    """Perceiver resampler: any number of media tokens to ``num_latents`` tokens of the same width, after a layer norm.

    Args:
        dim: width of media tokens and latents.
        num_latents: number of output tokens.
        depth: number of layers.
        num_heads: attention heads.
        mlp_ratio: hidden width of the feed-forward blocks, as a multiple of ``dim`` (Flamingo: 4).
    """

    def __init__(self, *, dim: int, num_latents: int = 64, depth: int = 6, num_heads: int = 8, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        for key, value in (("num_latents", num_latents), ("depth", depth)):
            _refuse_below(key, value, 1)
        self.latents = nn.Parameter(torch.empty(num_latents, dim))
        nn.init.normal_(self.latents)  # as Flamingo's code in lucidrains/flamingo-pytorch and open_flamingo
        self.layers = nn.ModuleList(PerceiverLayer(dim=dim, num_heads=num_heads, mlp_ratio=mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, media: Float[Tensor, "batch num_tokens dim"], mask: Bool[Tensor, "batch num_tokens"]
    ) -> Float[Tensor, "batch num_latents dim"]:
        latents = self.latents.expand(len(media), -1, -1)
        media = without_padding(media, mask)
        seen = torch.cat([mask, mask.new_ones(latents.shape[:2])], dim=1)  # [B, N + num_latents]
        for layer in self.layers:
            latents = layer(latents, media, seen)
        return self.norm(latents)


class ResamplerConnector(Connector):
    """Perceiver resampler at the encoder's width, then a linear layer (Flamingo).

    Args:
        in_dim: width of the encoder's tokens.
        out_dim: width of the language model.
        num_latents: number of output tokens per item.
        depth: layers of the resampler.
        num_heads: attention heads; None takes one per 64 channels, as in Flamingo.
        mlp_ratio: hidden width of the feed-forward blocks, as a multiple of ``in_dim``.
    """

    def __init__(
        self, *, in_dim: int, out_dim: int, num_latents: int = 64, depth: int = 2, num_heads: int | None = None, mlp_ratio: float = 4.0
    ) -> None:
        super().__init__()
        heads = default_heads(in_dim) if num_heads is None else num_heads
        self.resampler = PerceiverResampler(dim=in_dim, num_latents=num_latents, depth=depth, num_heads=heads, mlp_ratio=mlp_ratio)
        self.linear = Linear(in_dim, out_dim)

    def num_tokens(self, n: int) -> int:
        return len(self.resampler.latents)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Float[Tensor, "batch num_latents out_dim"], Bool[Tensor, "batch num_latents"]]:
        x = self.linear(self.resampler(tokens, mask))
        return x, mask.new_ones(x.shape[:2])


class Kosmos2Connector(Connector):
    """Linear layer, then one attention layer from learned latents to media tokens and latents, without norm, residual and feed-forward.

    Source: microsoft/unilm ``kosmos-2`` (``xconnector``); transformers ``Kosmos2ImageToTextProjection``.

    Args:
        in_dim: width of the encoder's tokens.
        out_dim: width of the language model.
        num_latents: number of output tokens per item.
        num_heads: attention heads; None takes one per 64 channels of the language model.
        normalise: True scales each media token to length 1 first.
    """

    silent_keywords = ("num_heads", "normalise")

    @classmethod
    def resolved(cls, keywords: Mapping[str, Any]) -> dict[str, Any]:
        """Replace ``num_heads`` of None by the number of heads of the width."""
        heads = keywords["num_heads"]
        return {**keywords, "num_heads": default_heads(keywords["out_dim"]) if heads is None else heads}

    def __init__(self, *, in_dim: int, out_dim: int, num_latents: int = 64, num_heads: int | None = None, normalise: bool = True) -> None:
        super().__init__()
        _refuse_below("num_latents", num_latents, 1)
        self.normalise = normalise
        self.dense = Linear(in_dim, out_dim)
        self.latents = nn.Parameter(torch.empty(num_latents, out_dim))
        nn.init.normal_(self.latents)
        self.attention = CrossAttention(dim=out_dim, num_heads=default_heads(out_dim) if num_heads is None else num_heads)

    def num_tokens(self, n: int) -> int:
        return len(self.latents)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Float[Tensor, "batch num_latents out_dim"], Bool[Tensor, "batch num_latents"]]:
        tokens = without_padding(tokens, mask)
        media = self.dense(F.normalize(tokens, dim=-1) if self.normalise else tokens)
        latents = self.latents.expand(len(tokens), -1, -1)
        seen = mask.new_ones(latents.shape[:2])  # [B, num_latents]
        x = self.attention(latents, torch.cat([media, latents], dim=1), torch.cat([mask, seen], dim=1))  # keys: [B, N + num_latents, dim]
        return x, seen


class AttentionPoolConnector(Connector):
    """One attention layer from learned queries to the tokens, a layer norm and a linear layer (CoCa's attentional pooler).

    Args:
        in_dim: width of the encoder's tokens.
        out_dim: width of the language model.
        num_queries: number of output tokens per item.
        num_heads: attention heads; None takes one per 64 channels.
    """

    def __init__(self, *, in_dim: int, out_dim: int, num_queries: int = 32, num_heads: int | None = None) -> None:
        super().__init__()
        _refuse_below("num_queries", num_queries, 1)
        self.queries = nn.Parameter(torch.empty(num_queries, in_dim))
        nn.init.normal_(self.queries)
        self.norm_media = nn.LayerNorm(in_dim)
        self.attention = CrossAttention(dim=in_dim, num_heads=default_heads(in_dim) if num_heads is None else num_heads)
        self.norm = nn.LayerNorm(in_dim)
        self.linear = Linear(in_dim, out_dim)

    def num_tokens(self, n: int) -> int:
        return len(self.queries)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Float[Tensor, "batch num_queries out_dim"], Bool[Tensor, "batch num_queries"]]:
        media = self.norm_media(without_padding(tokens, mask))
        x = self.attention(self.queries.expand(len(tokens), -1, -1), media, mask)
        x = self.linear(self.norm(x))
        return x, mask.new_ones(x.shape[:2])


class Downsampler(Connector):
    """Convolutions over time that each halve the number of frames, then a linear layer; padding must be on the right.

    Each convolution rounds up: with factor 4, 5 frames become 3, then 2.

    Args:
        in_dim: width of the encoder's tokens.
        out_dim: width of the language model.
        factor: total reduction, a power of two: 2 has one convolution, 4 has two.
    """

    def __init__(self, *, in_dim: int, out_dim: int, factor: int = 4) -> None:
        super().__init__()
        if factor < 2 or factor & (factor - 1):
            raise ConfigError(f"factor: {factor}; allowed are powers of two (2, 4, 8, 16, ...), because each convolution halves the frames")
        self.convolutions = nn.ModuleList(
            nn.Conv1d(in_dim, in_dim, kernel_size=3, stride=2, padding=1) for _ in range(factor.bit_length() - 1)
        )
        self.linear = Linear(in_dim, out_dim)

    def num_tokens(self, n: int) -> int:
        for _ in self.convolutions:
            n = (n + 1) // 2
        return n

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Float[Tensor, "batch new_tokens out_dim"], Bool[Tensor, "batch new_tokens"]]:
        x = tokens
        for convolution in self.convolutions:
            x = without_padding(x, mask).transpose(1, 2)  # [B, in_dim, frames]
            x = F.gelu(convolution(x)).transpose(1, 2)  # [B, frames / 2, in_dim]
            mask = mask[:, ::2]  # an output frame is real if the centre of its kernel of 3 is real
        return self.linear(x), mask


def without_padding(
    tokens: Float[Tensor, "batch num_tokens dim"], mask: Bool[Tensor, "batch num_tokens"]
) -> Float[Tensor, "batch num_tokens dim"]:
    """Return the tokens with zeros at padding; unlike a product with the mask, this also removes NaN."""
    return tokens.masked_fill(~mask[..., None], 0)


def default_heads(dim: int) -> int:
    """Return the largest number of heads that divides the width into 64 channels or more: 16 for 1024, 3 for 192, 2 for 200, 1 for 48."""
    return max((heads for heads in range(1, max(dim // 64, 1) + 1) if dim % heads == 0), default=1)


CONNECTORS: dict[str, type[Connector]] = {
    "linear": LinearConnector,
    "mlp": MLPConnector,
    "pixel_shuffle": PixelShuffle,
    "resampler": ResamplerConnector,
    "kosmos2": Kosmos2Connector,
    "attention_pool": AttentionPoolConnector,
    "downsampler": Downsampler,
}


def build_connector(kind: str | Mapping[str, Any], *, in_dim: int, out_dim: int, num_tokens: int | None) -> Connector:
    """Return a connector, given its name or a mapping with its name and options: ``{kind: resampler, num_latents: 32}``.

    Args:
        kind: a name in ``CONNECTORS``, or a mapping with the key ``kind``.
        in_dim: width of the encoder's tokens.
        out_dim: width of the language model.
        num_tokens: tokens per item, in a grid (images); None if the number differs between items, ordered in time (audio).

    Raises:
        ConfigError: the name or an option is unknown, or the connector cannot process tokens of this kind.
    """
    options = {"kind": kind} if isinstance(kind, str) else dict(kind)
    name = options.pop("kind", None)
    if name not in CONNECTORS:
        raise ConfigError(f"there is no connector {name!r}; {name_choices(str(name), CONNECTORS)}")
    part = CONNECTORS[name]
    _check_options(part, name, options)
    if name == "downsampler" and num_tokens is not None:
        raise ConfigError(_cannot(name, "it halves the number of frames in time, and an image has no time", ("pixel_shuffle", "resampler")))
    connector = part(in_dim=in_dim, out_dim=out_dim, **options)
    if isinstance(connector, PixelShuffle):
        if num_tokens is None:
            raise ConfigError(_cannot(name, "it needs a square grid of tokens, and audio has none", ("downsampler", "resampler")))
        reason = misfit(num_tokens, connector.factor)
        if reason is not None:
            raise ConfigError(_cannot(name, f"for the encoder's output, {reason}", ("linear", "mlp", "resampler", "attention_pool")))
    return connector


def _cannot(name: str, reason: str, others: tuple[str, ...]) -> str:
    return f"{name!r} cannot be used here: {reason}; or choose {', '.join(others[:-1])} or {others[-1]}"


def _check_options(part: type[Connector], kind: str, options: Mapping[str, Any]) -> None:
    # The constructor's keywords are the options: a new connector needs no list of them.
    known = {name: p for name, p in inspect.signature(part).parameters.items() if name not in ("in_dim", "out_dim")}
    for name, value in options.items():
        if name not in known:
            raise ConfigError(f"{name}: connector {kind!r} has no such option; {name_choices(name, known)}")
        # bool is a subclass of int in Python: True must not pass as a number.
        legal = bool if known[name].annotation is bool else float if known[name].annotation is float else int
        fits = isinstance(value, int | float if legal is float else legal) and (legal is bool) == isinstance(value, bool)
        if not fits and not (value is None and known[name].default is None):
            raise ConfigError(f"{name}: got {value!r} ({type(value).__name__}); allowed is {legal.__name__}")


def _refuse_below(key: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{key}: {value}; allowed is {least} or more")
