"""What passes between the parts: ``Batch``, ``Encoded``, ``HeadOutput``, and what each part says of itself.

Glossary, one word for one thing everywhere: ``dim depth num_heads head_dim mlp_ratio patch_size image_size num_mels
context_length vocab_size``; ``num_`` for counts; a mask is True where attention is allowed; tensors are called
``pixels`` [B, 3, H, W] float, ``mels`` [B, num_mels, frames] float, ``token_ids`` [B, L] int64, ``tokens`` [B, N, dim],
``logits``.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.utils import _pytree as pytree  # its public door, torch.export.register_dataclass, takes a second to import

from zoo.errors import DataError

TEACHER = "teacher"  # in ``Batch.targets``: what a teacher gives for the same inputs [B, dim]
SUPERVISED = "supervised"  # in ``Batch.targets``: True at token ids that are to be predicted, each from those before it [B, L] bool
MASKED = "masked"  # in ``Batch.targets``: the token id that stood at each place chosen to be predicted, IGNORED elsewhere [B, L]
MELS = "mels"  # in ``Batch.targets``: frames to be said [B, num_mels, frames]
FRAMES = "frames"  # True at those that are no padding [B, frames] bool
MAGNITUDES = "magnitudes"  # the same frames as linear spectra [B, bins, frames]
IGNORED = -100  # as a label: no loss here (torch's and transformers' number)
# Where a token of another modality stands among token ids; no table has such rows, so that no vocabulary has to grow for them.
PLACEHOLDER_IDS = {"image": -200, "audio": -201}


@dataclass
class Batch:
    """What a training step takes.

    Attributes:
        inputs: the modality's tensor by modality: ``pixels``, ``mels`` or ``token_ids``.
        masks: True at real positions, by modality; a modality without padding has none.
        targets: further tensors that a head reads, by name. ``groups`` [B] int64 says which items mean the same
            (equal numbers are positives of each other); ``labels`` [B] int64 are class numbers.
        ids: one name per item, for messages (file and row).
        features: in place of ``inputs``, what an encoder's frozen part gave for them before ("batch width", by modality).
    """

    inputs: dict[str, Tensor]
    masks: dict[str, Tensor] = field(default_factory=dict)
    targets: dict[str, Tensor] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    features: dict[str, Tensor] = field(default_factory=dict)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Return a batch whose every tensor went through ``change``."""
        moved = {f.name: {key: change(value) for key, value in getattr(self, f.name).items()} for f in fields(self) if f.name != "ids"}
        return replace(self, **moved)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """Move every tensor to a device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """Pin every tensor; a ``DataLoader`` calls this."""
        return self.map(torch.Tensor.pin_memory)

    def need(self, name: str, reader: str, remedy: str) -> Tensor:
        """Return a target.

        Args:
            name: of the target.
            reader: what reads it, for example "objective 'dpo'".
            remedy: who makes it, and what to do.

        Raises:
            DataError: the batch has no such target.
        """
        if name not in self.targets:
            items = f" ({', '.join(self.ids[:3])}, ...)" if self.ids else ""
            raise DataError(f"the batch{items} has no targets[{name!r}], which {reader} reads; {remedy}")
        return self.targets[name]

    def __len__(self) -> int:
        """How many items; one conversation may hold any number of images, so that its texts are counted where there are any."""
        return len(self.ids) or len(self.inputs.get("text", next(iter((self.inputs or self.features).values()))))


@dataclass
class Encoded:
    """What an encoder gives: tokens, one vector for the whole where the encoder pools, and the mask of the tokens."""

    tokens: Float[Tensor, "batch num_tokens dim"]
    pooled: Float[Tensor, "batch dim"] | None
    mask: Bool[Tensor, "batch num_tokens"]

    @classmethod
    def of_pooled(cls, pooled: Float[Tensor, "batch dim"]) -> "Encoded":
        """Pooled vectors as the only tokens, where nothing else is read."""
        return cls(pooled[:, None], pooled, torch.ones(len(pooled), 1, dtype=torch.bool, device=pooled.device))


@dataclass
class HeadOutput:
    """What a head gives for a batch.

    Attributes:
        loss: scalar; None when the batch holds nothing to learn from.
        metrics: detached scalars for the log, by name.
        outputs: anything else by name, for example ``logits``.
    """

    loss: Float[Tensor, ""] | None
    metrics: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Shaped[Tensor, "..."]] = field(default_factory=dict)


@dataclass
class Predictions:
    """What a language model makes of the supervised tokens of a batch, each from those before it.

    Attributes:
        hidden: states from which the logits are made.
        labels: the tokens that stand there.
        rows: which conversation of the batch each is of, in order.
    """

    hidden: Float[Tensor, "num_tokens dim"]
    logits: Float[Tensor, "num_tokens vocab_size"]
    labels: Int[Tensor, " num_tokens"]
    rows: Int[Tensor, " num_tokens"]


def _register_as_pytree(kind: type) -> None:
    """Let torch take a value type apart into its tensors and put it together again, as ``torch.export`` does with outputs."""
    names = [f.name for f in fields(kind)]

    def keyed(value: Any) -> tuple[list[tuple[Any, Any]], None]:
        return [(pytree.GetAttrKey(name), value.__dict__[name]) for name in names], None

    def build(values: Iterable[Any], _: Any) -> Any:
        made = object.__new__(kind)  # without the constructor, whose type checks refuse the placeholders that torch puts in
        made.__dict__.update(zip(names, values, strict=True))
        return made

    pytree.register_pytree_node(
        kind,
        lambda value: ([value.__dict__[name] for name in names], None),
        build,
        serialized_type_name=f"zoo.types.{kind.__name__}",
        flatten_with_keys_fn=keyed,
    )


for _kind in (Encoded, HeadOutput):
    _register_as_pytree(_kind)
