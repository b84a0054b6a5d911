"""Numbers of tokens that a language model gets for an item, found by a forward pass without weights; used to count placeholders."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.assembly.compatibility import refuse_missing_keys
from zoo.errors import DataError
from zoo.layers.meta import meta_device, unused_parameters
from zoo.registry import find_part, label_of
from zoo.types import Connector, Encoder, EncoderSpec, check_encoded, encode


@dataclass(frozen=True)
class Shown:
    """Patches of an encoder for an item of nominal size: number of tokens, their width, and the parameters that do not affect them."""

    num_tokens: int
    dim: int
    unused: tuple[str, ...]


def nominal_input(modality: str, encoder: Any, batch_size: int = 1) -> tuple[Tensor, Tensor | None]:
    """Return inputs and mask on the meta device, of the nominal size of the encoder."""
    part: Any = find_part("processor", modality)
    own = {key: value for key in part.encoder_keys if (value := getattr(encoder, key)) is not None}
    # Preprocessing overrides the attributes; a picture of the nominal size needs no tiler.
    keywords = {**own, **{key: value for key, value in encoder.preprocessing.items() if key != "tiler"}}
    refuse_missing_keys(encoder, part, keywords, label_of(encoder), f"processor.{modality}")
    return part(**keywords).meta(batch_size)


def try_patches(
    build: Callable[[], Encoder], layer: int | Sequence[int] | None, *, class_token: bool = False, part: str = "encoder"
) -> Shown:
    """Build an encoder on the meta device, encode two items of nominal size as patches, and find the parameters on which these depend.

    Args:
        build: makes the encoder.
        layer: see ``zoo.types.encode``.
        class_token: see ``Encoder.patches``.
        part: name of the encoder, for messages.

    Raises:
        ConfigError: the encoder has no such layer.
        ContractError: the encoder breaks a rule of ``zoo.types.contract``.
    """
    with torch.inference_mode(False), torch.enable_grad(), meta_device():
        encoder: Any = build()
        x, mask = nominal_input(encoder.modality, encoder, 2)
        encoded = encode(encoder.train(), x, mask, reads="patches", layer=layer, class_token=class_token)
        check_encoded(encoded, encoder, x, part, reads="patches")
    return Shown(encoded.tokens.shape[1], encoded.tokens.shape[2], unused_parameters(encoder, encoded.tokens))


def spec_of_shown(encoder: Encoder, shown: Shown) -> EncoderSpec:
    """Return the spec for a head that reads patches; audio clips differ in length and have no fixed number of tokens."""
    return EncoderSpec(
        encoder.modality, shown.dim, pooled=False, num_tokens=None if encoder.num_tokens(0) is not None else shown.num_tokens
    )


@dataclass(frozen=True)
class TokenCounts:
    """Number of tokens that a language model gets for an item, by the length of its last axis. Workers hold a copy; it is small.

    Attributes:
        fixed: number for every item (images); None if it depends on the length.
        by_length: numbers for items of 0, 1, 2, ... frames (audio).
        merge: side of the squares of patches that become one token, for pictures of different sizes; None if each gives ``fixed`` tokens.
    """

    fixed: int | None = None
    by_length: tuple[int, ...] = ()
    merge: int | None = 1

    def __call__(self, item: Tensor) -> int:
        """Return the number for one processed item: ``pixels`` [3, height, width] or ``mels`` [num_mels, frames].

        Raises:
            DataError: the clip is longer than the encoder accepts.
        """
        if self.fixed is not None:
            return self.fixed
        frames = item.shape[-1]
        if frames >= len(self.by_length):
            raise DataError(f"a clip has {frames} frames; the encoder accepts at most {len(self.by_length) - 1}: cut it into pieces")
        return self.by_length[frames]


def token_counts(
    encoders: Mapping[str, Any], specs: Mapping[str, EncoderSpec], connectors: Mapping[str, Connector] | nn.ModuleDict
) -> dict[str, TokenCounts]:
    """Return the token counts by modality, from the rules of encoder and connector."""
    counts = {}
    for modality in connectors:
        connector: Any = connectors[modality]
        number, encoder = specs[modality].num_tokens, encoders[modality]
        if number is not None:
            counts[modality] = TokenCounts(fixed=connector.num_tokens(number), merge=connector.merge)
        else:
            lengths = range(nominal_input(modality, encoder)[0].shape[-1] + 1)
            counts[modality] = TokenCounts(by_length=tuple(connector.num_tokens(encoder.num_tokens(frames)) for frames in lengths))
    return counts
