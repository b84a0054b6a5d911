"""How many tokens a language model is shown of an item: found by a trial without weights, and told to those who count placeholders."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import DataError
from zoo.layers.meta import meta_device
from zoo.registry import find_part
from zoo.types import Connector, Encoder, EncoderSpec, encode


@dataclass(frozen=True)
class Shown:
    """What an encoder shows of an item of nominal size: its tokens, their width, and the parameters that have no part in them."""

    num_tokens: int
    dim: int
    unused: tuple[str, ...]


def nominal_input(modality: str, encoder: Any, batch_size: int = 1) -> tuple[Tensor, Tensor | None]:
    """A batch on the meta device of the size that the encoder is made for."""
    part: Any = find_part("processor", modality)
    own = {key: getattr(encoder, key) for key in part.encoder_keys}
    return part(**{**own, **encoder.preprocessing}).meta(batch_size)  # preprocessing overrides the attributes


def try_patches(build: Callable[[], Encoder], layer: int | None, *, class_token: bool = False) -> Shown:
    """Build an encoder on the meta device, send two items of nominal size through it as ``encode(reads="patches")`` does, and back.

    Raises:
        ConfigError: there is no such layer.
    """
    with torch.inference_mode(False), torch.enable_grad(), meta_device():
        encoder: Any = build()
        x, mask = nominal_input(encoder.modality, encoder, 2)
        tokens = encode(encoder.train(), x, mask, reads="patches", layer=layer, class_token=class_token).tokens
        if tokens.requires_grad:
            tokens.sum().backward()
    unused = tuple(name for name, parameter in encoder.named_parameters() if parameter.requires_grad and parameter.grad is None)
    return Shown(tokens.shape[1], tokens.shape[2], unused)


def spec_of_shown(encoder: Encoder, shown: Shown) -> EncoderSpec:
    """What a head that reads patches is told; clips are as long as they are, and have no fixed number of tokens."""
    return EncoderSpec(
        encoder.modality, shown.dim, pooled=False, num_tokens=None if encoder.num_tokens(0) is not None else shown.num_tokens
    )


@dataclass(frozen=True)
class TokenCounts:
    """How many tokens a language model is shown of an item, by the length of its last axis; small, so that workers may hold it.

    Attributes:
        fixed: of every item (images); None where the length decides.
        by_length: of items of so many frames (audio), from none on.
    """

    fixed: int | None = None
    by_length: tuple[int, ...] = ()

    def __call__(self, item: Tensor) -> int:
        """The count for one processed item: ``pixels`` [3, height, width] or ``mels`` [num_mels, frames].

        Raises:
            DataError: a clip longer than the encoder takes.
        """
        if self.fixed is not None:
            return self.fixed
        frames = item.shape[-1]
        if frames >= len(self.by_length):
            raise DataError(f"a clip has {frames} frames; the encoder takes at most {len(self.by_length) - 1}: cut it into pieces")
        return self.by_length[frames]


def token_counts(
    encoders: Mapping[str, Any], specs: Mapping[str, EncoderSpec], connectors: Mapping[str, Connector] | nn.ModuleDict
) -> dict[str, TokenCounts]:
    """By modality, from the rules of encoder and connector."""
    counts = {}
    for modality in connectors:
        connector: Any = connectors[modality]
        number, encoder = specs[modality].num_tokens, encoders[modality]
        if number is not None:
            counts[modality] = TokenCounts(fixed=connector.num_tokens(number))
        else:
            lengths = range(nominal_input(modality, encoder)[0].shape[-1] + 1)
            counts[modality] = TokenCounts(by_length=tuple(connector.num_tokens(encoder.num_tokens(frames)) for frames in lengths))
    return counts
