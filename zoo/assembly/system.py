"""A system: encoders by modality, one head, and the processor that feeds them."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError, VerbError, name_choices
from zoo.types import (
    Batch,
    Encoded,
    Encoder,
    EncoderSpec,
    Head,
    HeadOutput,
    Objective,
    Processor,
    Wiring,
    all_real,
    encode,
    follow,
    patches_of,
)


class System(nn.Module):
    """``head({modality: encoder(input)}, batch)``; the head's verbs are the system's verbs.

    Args:
        encoders: by modality.
        processor: raw inputs to a ``Batch``; None means that only ready tensors are taken.
        config: the plain configuration it was built from, saved with the weights.
        counts: tokens that the head makes of an item, by modality (``zoo.assembly.token_counts``).
        name: for messages.

    Attributes:
        training_only: module that an objective trains beside the system, for example PPO's value function; never saved with the model.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        head: Head,
        *,
        processor: Processor | None = None,
        config: Mapping[str, Any] | None = None,
        counts: Mapping[str, Any] | None = None,
        name: str = "system",
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)  # type: ignore[arg-type]
        self.head = head
        self.training_only: nn.Module | None = None
        self.counts = dict(counts or {})
        self.use_processor(processor)
        self.config = dict(config or {})
        self.name = name

    def forward(self, batch: Batch, objective: Objective | None = None) -> HeadOutput:
        """Encode a batch and return the head's output, or the loss of a training objective in its place.

        Raises:
            DataError: the batch lacks a target that the head reads.
        """
        batch = self.head.prepare(batch)
        encoded = self.encode_batch(batch)
        output = self.head(encoded, batch) if objective is None else objective(self.head, encoded, batch)
        return with_encoder_losses(output, self.encoders)

    def encode_batch(self, batch: Batch, modalities: Collection[str] | None = None) -> dict[str, Encoded]:
        """Encode the modalities of a batch, as far as the head reads them; None takes every modality that it holds."""
        wanted = [m for m in self.encoders if modalities is None or m in modalities]
        encoders: Mapping[str, Any] = self.encoders  # type: ignore[assignment]
        before = {m: encoders[m].from_features(batch.features[m]) for m in wanted if m in batch.features}
        held = [m for m in wanted if m in batch.inputs]
        return before | {m: self.encode_ready(m, batch.inputs[m], batch.masks.get(m), batch.grids.get(m)) for m in held}

    def encode_ready(self, modality: str, x: Tensor, mask: Tensor | None = None, grids: Tensor | None = None) -> Encoded:
        """Encode processed tensors of one modality, or a list of patches with its grids; the batch may be empty."""
        encoder: Any = self.encoders[modality]
        ask = partial(encode, encoder, reads=self.head.accepts.reads, **patches_of(self.head))
        return ask(x, mask, grids=grids) if len(x) else encode_nothing(encoder, x, mask, ask, grids)

    def use_processor(self, processor: Processor | None) -> None:
        """Take a processor, give it the number of tokens that the head makes of an item, and connect the head with it."""
        self.processor = processor if processor is None or not self.counts else processor.with_counts(self.counts)
        self.head.connect(Wiring(dict(self.encoders), self.processor, self.counts))  # type: ignore[arg-type]

    def saved_tensors(self) -> dict[str, Tensor]:
        """Return the weights and buffers that belong to the model, by name."""
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("training_only.")}

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    def encode(self, modality: str, raw: Any, *, reads: str = "tokens") -> Encoded:
        """Process and encode raw inputs, or a ready tensor, of one modality.

        Args:
            modality: one of ``self.encoders``.
            raw: inputs that the modality's processor takes, or a batch that holds them processed.
            reads: "pooled" if only the pooled vectors are used, so that an encoder may compute these alone.

        Raises:
            ConfigError: no such encoder, or no processor.
            DataError: an input cannot be used.
        """
        if modality not in self.encoders:
            raise ConfigError(f"modality: {self.name} has no {modality!r} encoder; {name_choices(modality, self.encoders)}")
        if self.processor is None:
            raise ConfigError(f"{self.name} has no processor: give a Batch to system(batch), or load it from a saved directory")
        found = raw if isinstance(raw, Batch) else self.processor[modality](raw)
        if not isinstance(found, Batch):
            return encode(self.encoders[modality], *found, reads=reads)  # type: ignore[arg-type]
        x, mask, grids = found.inputs[modality], found.masks.get(modality), found.grids.get(modality)
        return encode(self.encoders[modality], x, mask, reads=reads, grids=grids)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)  # parameters and modules
        except AttributeError:
            if name.startswith("_") or "head" not in self._modules:
                raise
        if name in self.head.verbs:
            return partial(getattr(self.head, name), self)
        raise VerbError(f"{self.name} (head {type(self.head).__name__}) cannot {name!r}; it can: {', '.join(self.head.verbs) or 'nothing'}")


def with_encoder_losses(output: HeadOutput, encoders: nn.ModuleDict | Mapping[str, Encoder]) -> HeadOutput:
    """Return the output of a head with the losses of its encoders added, and their metrics named after the modality.

    A text encoder with experts gives ``text_balance_loss`` and others. Without a loss of the head there is nothing to add to.
    """
    for modality, encoder in encoders.items():
        if isinstance(encoder, Encoder) and encoder.adds_losses:
            losses, metrics = encoder.auxiliary_losses()
            loss = None if output.loss is None else sum(losses.values(), output.loss)
            named = {f"{modality}_{name}": value for name, value in metrics.items()}
            output = HeadOutput(loss, {**output.metrics, **named}, output.outputs)
    return output


def encode_nothing(encoder: Encoder, x: Tensor, mask: Tensor | None, ask: Callable[..., Encoded], grids: Tensor | None = None) -> Encoded:
    """Encode an empty batch: no tokens, of the right width, through which every parameter gets a gradient of zero.

    One item of zeros is encoded and dropped again, because many models cannot reshape an empty tensor and every rank of a distributed
    run has to go through the same layers. BatchNorm runs in evaluation mode, so that its statistics ignore that item.
    """
    norms = [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    for norm in norms:
        norm.eval()
    if grids is not None:  # the smallest picture
        smallest = torch.full((1, 2), encoder.grid_multiple)
        encoded = ask(x.new_zeros(encoder.grid_multiple**2, *x.shape[1:]), grids=smallest)
    else:
        encoded = ask(x.new_zeros(1, *x.shape[1:]), None if mask is None else all_real((1, *mask.shape[1:]), mask.device))
    for norm in norms:
        norm.train()
    encoder.auxiliary_losses()  # forgotten: they are of an item that does not exist
    pooled = None if encoded.pooled is None else encoded.pooled[:0]
    return Encoded(encoded.tokens[:0], pooled, follow(lambda mask: mask[:0], encoded.mask))


def specs_of(encoders: Mapping[str, Encoder]) -> dict[str, EncoderSpec]:
    """Return the specification of each encoder, with which a head is built."""
    return {modality: EncoderSpec.of(encoder) for modality, encoder in encoders.items()}
