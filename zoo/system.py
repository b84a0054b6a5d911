"""A system: encoders by modality, one head, and the processor that feeds them."""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError, VerbError, name_choices
from zoo.types import Batch, Encoded, Encoder, EncoderSpec, Head, HeadOutput, Processor, encode


class System(nn.Module):
    """``head({modality: encoder(input)}, batch)``; the head's verbs are the system's verbs.

    Args:
        encoders: by modality.
        processor: raw inputs to a ``Batch``; None means that only ready tensors are taken.
        config: the plain configuration it was built from, saved with the weights.
        name: for messages.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        head: Head,
        *,
        processor: Processor | None = None,
        config: Mapping[str, Any] | None = None,
        name: str = "system",
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)  # type: ignore[arg-type]
        self.head = head
        self.processor = processor
        self.config = dict(config or {})
        self.name = name

    def forward(self, batch: Batch) -> HeadOutput:
        """Encode what the batch holds, then ask the head."""
        return self.head(self.encode_batch(batch), batch)

    def encode_batch(self, batch: Batch, modalities: Collection[str] | None = None) -> dict[str, Encoded]:
        """What the encoders make of a batch, as much of it as the head reads; None takes every modality that it holds."""
        encoders: Any = self.encoders
        reads, wanted = self.head.accepts.reads, [m for m in self.encoders if modalities is None or m in modalities]
        before = {m: from_features(self.encoders[m], batch.features[m]) for m in wanted if m in batch.features}
        return before | {m: encode(encoders[m], batch.inputs[m], batch.masks.get(m), reads=reads) for m in wanted if m in batch.inputs}

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def encode(self, modality: str, raw: Any, *, reads: str = "tokens") -> Encoded:
        """Raw inputs (or a ready tensor) of one modality through processor and encoder.

        Args:
            reads: "pooled" where nothing but the pooled vectors is read, so that an encoder may compute these alone.
        """
        if modality not in self.encoders:
            raise ConfigError(f"modality: {self.name} has no {modality!r} encoder; {name_choices(modality, self.encoders)}")
        if self.processor is None:
            raise ConfigError(f"{self.name} has no processor: give a Batch to system(batch), or load it from a saved directory")
        x, mask = self.processor[modality](raw)
        mask = None if mask is None else mask.to(self.device)
        return encode(self.encoders[modality], x.to(self.device), mask, reads=reads)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)  # parameters and modules
        except AttributeError:
            if name.startswith("_") or "head" not in self._modules:
                raise
        if name in self.head.verbs:
            return partial(getattr(self.head, name), self)
        raise VerbError(f"{self.name} (head {type(self.head).__name__}) cannot {name!r}; it can: {', '.join(self.head.verbs) or 'nothing'}")


def from_features(encoder: nn.Module, features: Tensor) -> Encoded:
    """What an encoder gives, from what its frozen part gave: all of it, unless the encoder has something behind that."""
    if hasattr(encoder, "from_features"):
        return encoder.from_features(features)  # type: ignore[operator]
    return Encoded.of_pooled(features)


def specs_of(encoders: Mapping[str, Encoder]) -> dict[str, EncoderSpec]:
    """What a head is told of the encoders."""
    return {modality: EncoderSpec.of(encoder) for modality, encoder in encoders.items()}
