"""A system: encoders by modality, one head, and the processor that feeds them."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError, VerbError, name_choices
from zoo.types import Batch, Encoded, Encoder, EncoderSpec, Head, HeadOutput, Processor, encode, patches_of


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
        if hasattr(head, "tie"):  # one that shares a weight with an encoder, whose it stays
            head.tie(dict(self.encoders))  # type: ignore[attr-defined]
        self.processor = processor
        self.config = dict(config or {})
        self.name = name
        self.objective: Callable[[Any, dict[str, Encoded], Batch], HeadOutput] | None = None  # a training run's, in place of the head's own

    def forward(self, batch: Batch) -> HeadOutput:
        """Encode what the batch holds, then ask the head; in a run with an objective of its own that."""
        encoded = self.encode_batch(batch)
        return self.head(encoded, batch) if self.objective is None else self.objective(self.head, encoded, batch)

    def encode_batch(self, batch: Batch, modalities: Collection[str] | None = None) -> dict[str, Encoded]:
        """What the encoders make of a batch, as much of it as the head reads; None takes every modality that it holds."""
        wanted = [m for m in self.encoders if modalities is None or m in modalities]
        before = {m: from_features(self.encoders[m], batch.features[m]) for m in wanted if m in batch.features}
        return before | {m: self.encode_ready(m, batch.inputs[m], batch.masks.get(m)) for m in wanted if m in batch.inputs}

    def encode_ready(self, modality: str, x: Tensor, mask: Tensor | None = None) -> Encoded:
        """What the head reads of ready tensors of one modality, of which there may be none."""
        encoder: Any = self.encoders[modality]
        if (weight := next((p for p in encoder.parameters() if p.is_floating_point()), None)) is not None:
            x = x.to(weight.device, weight.dtype if x.is_floating_point() else None)
            mask = None if mask is None else mask.to(weight.device)
        ask = partial(encode, encoder, reads=self.head.accepts.reads, **patches_of(self.head))
        return ask(x, mask) if len(x) else encode_nothing(encoder, x, mask, ask)

    @property
    def processor(self) -> Processor | None:
        """Raw inputs to a ``Batch``; one that is put in its place is told how many tokens the head makes of an item."""
        return self._processor

    @processor.setter
    def processor(self, processor: Processor | None) -> None:
        self._processor = processor
        conversation = getattr(processor, "parts", {}).get("conversation")
        if conversation is not None:
            conversation.counts = getattr(self.head, "counts", {})
        if hasattr(self.head, "conversation"):  # one that asks which symbols stand around an item
            self.head.conversation = conversation  # type: ignore[attr-defined]

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


def encode_nothing(encoder: nn.Module, x: Tensor, mask: Tensor | None, ask: Callable[[Tensor, Tensor | None], Encoded]) -> Encoded:
    """What an encoder gives for no item at all: no tokens, of the right width, that reach every parameter with a gradient of zero.

    One item of zeros is encoded and left out again: many models cannot reshape nothing, and every rank of a distributed run has to go
    through the same layers. BatchNorm behaves as in evaluation, so that its statistics do not learn of that item.
    """
    norms = [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    for norm in norms:
        norm.eval()
    encoded = ask(x.new_zeros(1, *x.shape[1:]), None if mask is None else mask.new_ones(1, *mask.shape[1:]))
    for norm in norms:
        norm.train()
    pooled = None if encoded.pooled is None else encoded.pooled[:0]
    return Encoded(encoded.tokens[:0], pooled, encoded.mask[:0])


def from_features(encoder: nn.Module, features: Tensor) -> Encoded:
    """What an encoder gives, from what its frozen part gave: all of it, unless the encoder has something behind that."""
    if hasattr(encoder, "from_features"):
        return encoder.from_features(features)  # type: ignore[operator]
    return Encoded.of_pooled(features)


def specs_of(encoders: Mapping[str, Encoder]) -> dict[str, EncoderSpec]:
    """What a head is told of the encoders."""
    return {modality: EncoderSpec.of(encoder) for modality, encoder in encoders.items()}
