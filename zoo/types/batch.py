"""Values that parts exchange: ``Batch``, ``Encoded``, ``HeadOutput`` and ``Predictions``.

Glossary, one word for one thing everywhere: ``dim depth num_heads head_dim mlp_ratio patch_size image_size num_mels
context_length vocab_size``; ``num_`` for counts; a mask is True where attention is allowed; tensors are called
``pixels`` [B, 3, H, W] float, ``mels`` [B, num_mels, frames] float, ``token_ids`` [B, L] int64, ``tokens`` [B, N, dim],
``logits``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.utils import _pytree as pytree  # its public door, torch.export.register_dataclass, takes a second to import

from zoo.errors import DataError
from zoo.types.host import all_real, follow, on_host, send

TEACHER = "teacher"  # in ``Batch.targets``: embeddings that a teacher computes from the same inputs [B, dim]
SUPERVISED = "supervised"  # in ``Batch.targets``: True at token ids that contribute to the next-token loss [B, L] bool
TARGET_IDS = "target_ids"  # in ``Batch.targets``: ids that a decoder learns to write, its start symbol first [B, L]
TARGET_POSITIONS = "target_positions"  # in ``Batch.targets``: positions of TARGET_IDS, if they are not 0, 1, 2, ... (MASS) [B, L]
MASKED = "masked"  # in ``Batch.targets``: the original token id at positions that are masked and predicted, IGNORED elsewhere [B, L]
PREFIXES = "prefixes"  # in ``Batch.targets``: see ``zoo.layers.decoder.seen_by_query`` [B]
TURNS = "turns"  # in ``Batch.targets``: turn of each token in an order of prediction, see ``zoo.layers.turns`` [B, L]
MELS = "mels"  # in ``Batch.targets``: mels that a speech decoder must produce [B, num_mels, frames]
FRAMES = "frames"  # in ``Batch.targets``: True at real frames of MELS, False at padding [B, frames] bool
MAGNITUDES = "magnitudes"  # in ``Batch.targets``: linear magnitude spectra of the same frames [B, bins, frames]
PRESENT = "present_"  # in ``Batch.targets``, before a modality's name: True at the items that have it [B] bool; see ``presence_of``
IGNORED = -100  # label of positions without loss; torch and transformers use the same number
# Ids at the positions of image and audio tokens. They are negative, so that they never equal an id of any vocabulary.
PLACEHOLDER_IDS = {"image": -200, "audio": -201}


@dataclass
class Batch:
    """Inputs and targets of one step, for all modalities.

    Attributes:
        inputs: tensor of each modality: ``pixels``, ``mels`` or ``token_ids``.
        masks: True at real positions, by modality; a modality without padding has no entry.
        targets: further tensors that a head reads, by name. ``groups`` [B] int64: items with equal numbers have the same meaning, so
            a contrastive loss treats them as positives of each other. ``labels`` [B] int64: class numbers. ``present_image`` and so on
            [B] bool: the items that have a modality, whose tensor in ``inputs`` has rows for these items only.
        ids: one name per item for messages, for example file and row.
        features: cached output of an encoder's frozen part [B, width], by modality; replaces the modality's entry of ``inputs``.
        sizes: height and width of each item before it was cut into tiles or patches [items, 2] int64, by modality; only where a tiler
            cut them, so that ``inputs`` holds tiles. ``Tiler.plan_of`` says which values stand for videos.
        grids: rows and columns of patches of each picture [pictures, 2] int64, by modality; only where ``inputs`` holds the patches of all
            items as one list [total, 3 * patch * patch], item after item, each row by row. Their values stay known on the CPU. An item is
            one picture, or a video of several pictures.
        steps: time steps of each picture of ``grids`` since the picture before it of the same video [pictures] int64, by modality; -1 for
            stills and the first picture of a video. Only where an item is a video of several pictures; known on the CPU.
    """

    inputs: dict[str, Tensor]
    masks: dict[str, Tensor] = field(default_factory=dict)
    targets: dict[str, Tensor] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    features: dict[str, Tensor] = field(default_factory=dict)
    sizes: dict[str, Tensor] = field(default_factory=dict)
    grids: dict[str, Tensor] = field(default_factory=dict)
    steps: dict[str, Tensor] = field(default_factory=dict)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Return a copy with ``change`` applied to every tensor."""
        moved = {f.name: {key: change(value) for key, value in getattr(self, f.name).items()} for f in fields(self) if f.name != "ids"}
        return replace(self, **moved)

    def to(self, device: torch.device | str) -> "Batch":
        """Move every tensor to a device; the values of masks, indices and labels stay known on the CPU (``zoo.types.host``)."""
        return self.map(lambda tensor: send(tensor, device))

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

    def count(self, modality: str) -> int:
        """Return the number of items of a modality, however many tiles or patches each has."""
        return len(self.sizes.get(modality, self.grids.get(modality, self.inputs[modality])))

    def given(self, modality: str, rows: Sequence[int] | None = None) -> "Tensor | Batch":
        """Return the inputs of one modality as ``System.encode`` and ``embed`` take them: a tensor, or of patches a batch with their grids.

        Args:
            modality: one of ``inputs``.
            rows: numbers of the items; None takes all.
        """
        x, grids = self.inputs[modality], self.grids.get(modality)
        if grids is None:
            return x if rows is None else x[list(rows)]
        chosen = range(len(grids)) if rows is None else rows
        parts = x.split(on_host(grids).prod(1).tolist())
        patches = torch.cat([parts[row] for row in chosen]) if len(chosen) else x[:0]
        return Batch({modality: patches}, grids={modality: follow(lambda grids: grids[list(chosen)], grids)})

    def __len__(self) -> int:
        """Return the number of items. Texts are counted first, because one conversation may hold any number of images."""
        if self.ids or not self.inputs:
            return len(self.ids) or len(next(iter(self.features.values())))
        return self.count("text" if "text" in self.inputs else next(iter(self.inputs)))


def in_parts(inputs: Any, modality: str, size: int) -> Iterator[Any]:
    """Yield the inputs of a verb in parts of at most ``size`` items: slices of a list or tensor, or parts of a batch (``Batch.given``)."""
    for start in range(0, len(inputs), size):
        stop = min(start + size, len(inputs))
        yield inputs.given(modality, range(start, stop)) if isinstance(inputs, Batch) else inputs[start:stop]


def presence_of(targets: Mapping[str, Tensor], modality: str) -> Tensor | None:
    """Return the mask of the items of a batch that have a modality [B]; None if all have it."""
    return targets.get(PRESENT + modality)


@dataclass
class Encoded:
    """Output of an encoder: tokens, pooled vectors (None if the encoder does not pool), and the mask, True at real tokens."""

    tokens: Float[Tensor, "batch num_tokens dim"]
    pooled: Float[Tensor, "batch dim"] | None
    mask: Bool[Tensor, "batch num_tokens"]

    @classmethod
    def of_pooled(cls, pooled: Float[Tensor, "batch dim"]) -> "Encoded":
        """Return pooled vectors as the only token of each item, for heads that read only these."""
        return cls(pooled[:, None], pooled, all_real((pooled.shape[0], 1), pooled.device))

    def as_tuple(self) -> "EncodedTuple | UnpooledTuple":
        """Return the values as a named tuple, without the pooled vectors if there are none."""
        return UnpooledTuple(self.tokens, self.mask) if self.pooled is None else EncodedTuple(self.tokens, self.pooled, self.mask)


class EncodedTuple(NamedTuple):
    """Output of an encoder for ``torch.jit.trace``, which takes no other classes."""

    tokens: Tensor
    pooled: Tensor
    mask: Tensor


class UnpooledTuple(NamedTuple):
    """Output of an encoder that does not pool, for ``torch.jit.trace``."""

    tokens: Tensor
    mask: Tensor

    @property
    def pooled(self) -> None:
        """Stand in for the pooled vectors: there are none."""
        return None


@dataclass
class HeadOutput:
    """Output of a head for a batch.

    Attributes:
        loss: scalar; None if the batch contains no targets for this head.
        metrics: detached scalars for the log, by name.
        outputs: anything else by name, for example ``logits``.
    """

    loss: Float[Tensor, ""] | None
    metrics: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Shaped[Tensor, "..."]] = field(default_factory=dict)


@dataclass
class Predictions:
    """Next-token predictions of a language model at the supervised tokens of a batch.

    Attributes:
        hidden: hidden states before the output projection.
        logits: scores of the token at the position, computed from the tokens before it.
        labels: token ids at these positions.
        rows: index in the batch of the conversation that each token belongs to, in ascending order.
    """

    hidden: Float[Tensor, "num_tokens dim"]
    logits: Float[Tensor, "num_tokens vocab_size"]
    labels: Int[Tensor, " num_tokens"]
    rows: Int[Tensor, " num_tokens"]


def _register_as_pytree(kind: type) -> None:
    """Let torch take a value type apart into its tensors and put it together again, as ``torch.export`` does with inputs and outputs."""
    names = [f.name for f in fields(kind) if f.name != "ids"]

    def keyed(value: Any) -> tuple[list[tuple[Any, Any]], list[str]]:
        return [(pytree.GetAttrKey(name), value.__dict__[name]) for name in names], value.__dict__.get("ids", [])

    def build(values: Iterable[Any], ids: list[str]) -> Any:
        made = object.__new__(kind)  # without the constructor, whose type checks refuse the placeholders that torch puts in
        made.__dict__.update(zip(names, values, strict=True))
        if kind is Batch:
            made.ids = ids  # names of items are no tensors
        return made

    pytree.register_pytree_node(
        kind,
        lambda value: ([value.__dict__[name] for name in names], value.__dict__.get("ids", [])),
        build,
        serialized_type_name=f"zoo.types.{kind.__name__}",
        flatten_with_keys_fn=keyed,
    )


for _kind in (Batch, Encoded, HeadOutput):
    _register_as_pytree(_kind)
