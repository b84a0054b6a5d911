"""Processor of a whole system: one part per modality, saved, hashed and loaded together with the weights.

In a system of three encoders or more, an item may lack modalities (``Batch.targets["present_audio"]``).

A conversation can contain any number of images and clips. Those of a whole batch are concatenated in ``inputs["image"]`` and
``inputs["audio"]``. A batch without any has tensors with zero rows there, so that every distributed process uses the same parameters.
"""

import json
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import torch

from zoo.data.groups import stable_group
from zoo.errors import DataError, ItemError, name_choices
from zoo.processors.chat.messages import MARKERS, PLURALS, Conversation, as_conversation
from zoo.processors.chat.videos import with_frames
from zoo.registry.construct import build_part
from zoo.registry.schemas import read_processor_settings
from zoo.storage.files import hash_of_files
from zoo.storage.outside import understanding
from zoo.types import PRESENT, SUPERVISED, Batch, Sample

FILE = "processor.json"
MOST_WHOLE = 2  # encoders of a system in which every item has every modality; with more, items may lack some
CONVERSATION = "conversation"  # name of the part that owns tokenizer and chat template
# The files of the parts; ``hash_files`` reads them in this order.
FILES = (FILE, "tokenizer.json", "conversation_tokenizer.json", "transcript_tokenizer.json", "target_tokenizer.json", "chat_template.jinja")


class Processor:
    """Conversion of raw inputs to a ``Batch``, with one part per modality.

    ``processor(image=[...], text=[...])`` takes lists of raw inputs, or processed tensors, of equal length.
    ``processor(conversation=[...])`` takes every input that ``zoo.processors.chat.messages.as_conversation`` accepts.

    Args:
        parts: processors by modality, or by target for a part that fills ``Batch.targets``.
    """

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self.parts = dict(parts)

    def __getitem__(self, modality: str) -> Any:
        if modality not in self.parts:
            raise DataError(f"this system has no processor for {modality!r}; {name_choices(modality, self.parts)}")
        return self.parts[modality]

    def get(self, modality: str) -> Any:
        """Return the part of a modality, or None."""
        return self.parts.get(modality)

    def with_counts(self, counts: Mapping[str, Any]) -> "Processor":
        """Return a processor whose conversations have so many placeholders for an item, by modality."""
        if CONVERSATION not in self.parts:
            return self
        conversation = copy(self.parts[CONVERSATION])
        conversation.counts = {m: self.parts[m].counted(count) if m in self.parts else count for m, count in counts.items()}
        return Processor({**self.parts, CONVERSATION: conversation})

    def __call__(self, *, for_generation: bool = False, padding_side: str = "right", **raw: Any) -> Batch:
        """Convert raw inputs to a batch.

        Args:
            for_generation: treat conversations as prompts, which end with the assistant's prefix.
            padding_side: side on which conversations are padded, "left" or "right".
            raw: inputs by modality, or ``conversation`` and nothing else.

        Raises:
            DataError: a modality has no processor, the inputs differ in number, or media are passed beside conversations.
        """
        if CONVERSATION in raw:
            if len(raw) > 1:
                raise DataError(f"inputs: {', '.join(raw)}; put images and clips into the conversations, not beside them")
            given = [self[CONVERSATION].conversation(each, str(number)) for number, each in enumerate(raw[CONVERSATION])]
            items = [self.conversation_item(each, for_generation=for_generation) for each in given]
            return self._collate_conversations([each.id for each in given], items, padding_side)
        batch = Batch(inputs={})
        for modality, values in raw.items():
            _put(batch, modality, self[modality](values))
        lengths = {modality: batch.count(modality) for modality in batch.inputs}
        if len(set(lengths.values())) > 1:
            raise DataError(f"inputs differ in number: {lengths}; give the same number for each modality")
        return batch

    def items(self, sample: Sample) -> dict[str, Any]:
        """Process one sample to tensors by modality; modalities that the system does not use are left out."""
        if CONVERSATION in self.parts:
            return self.conversation_item(conversation_of(sample))
        reads = {name: part.modality if is_target(part) else name for name, part in self.parts.items()}
        return {name: _item(self.parts[name], sample, modality) for name, modality in reads.items() if modality in sample.inputs}

    def conversation_item(self, conversation: Conversation, *, for_generation: bool = False) -> dict[str, Any]:
        """Process a conversation to its tokens and lists of processed images and clips.

        Raises:
            DataError: the conversation contains a modality for which this system has no encoder, or an unusable input.
        """
        media: dict[str, list[Any]] = {}
        conversation = with_frames(conversation, self.parts["image"].tiler if "image" in self.parts else None)
        for modality in MARKERS:
            given = conversation.media(modality)
            if given and modality not in self.parts:
                noun = PLURALS[modality] if len(given) > 1 else PLURALS[modality][:-1]
                raise ItemError(f"{conversation.name} holds {len(given)} {noun}, but this system has no encoder of {modality}", modality)
            media[modality] = self.parts[modality].items(given) if given else []
        tokens = self[CONVERSATION].item(conversation, media, for_generation=for_generation)
        # Truncation may have removed markers from the end of the tokens; the media of those are removed too.
        return {CONVERSATION: tokens, **{modality: found[: tokens.kept[modality]] for modality, found in media.items()}}

    def _collate_conversations(self, ids: Sequence[str], items: Sequence[dict[str, Any]], padding_side: str = "right") -> Batch:
        token_ids, mask, supervised = self[CONVERSATION].collate([item[CONVERSATION] for item in items], padding_side=padding_side)
        batch = Batch(inputs={"text": token_ids}, masks={"text": mask}, targets={SUPERVISED: supervised}, ids=list(ids))
        for modality in MARKERS:
            if modality in self.parts:
                _put(batch, modality, self._collated(modality, [each for item in items for each in item[modality]]))
        return batch

    def _collated(self, modality: str, items: Sequence[Any]) -> Any:
        """Collate all items of a modality; without items, return tensors of the right shape with zero rows."""
        if items:
            return self.parts[modality].collate(items)
        empty = self.parts[modality].meta(0)
        if isinstance(empty, Batch):
            return empty.map(lambda tensor: torch.empty_like(tensor, device="cpu"))
        x, mask = empty
        return torch.empty_like(x, device="cpu"), None if mask is None else torch.empty_like(mask, device="cpu")

    def collate(self, samples: Sequence[Sample], items: Sequence[dict[str, Any]]) -> Batch:
        """Collate processed items to a batch, with the ids, groups and labels of their samples."""
        ids = [sample.id for sample in samples]
        batch = self._collate_conversations(ids, items) if CONVERSATION in self.parts else Batch(inputs={}, ids=ids)
        if len(self.inputs) > MOST_WHOLE:
            self._put_present(batch, items)
        elif CONVERSATION not in self.parts:
            for modality in dict.fromkeys(name for item in items for name in item):
                _refuse_missing(modality, samples, items)
                _put(batch, modality, self.parts[modality].collate([item[modality] for item in items]))
        # An item without a group gets its own group, derived from its id so that every rank computes the same number.
        groups = [stable_group(sample.id) if sample.group is None else sample.group for sample in samples]
        batch.targets["groups"] = torch.tensor(groups)
        if all(sample.label is not None for sample in samples):
            batch.targets["labels"] = torch.tensor([sample.label for sample in samples])
        return batch

    @property
    def inputs(self) -> list[str]:
        """Names of the parts that feed encoders; of conversations, which hold their media, none."""
        return [] if CONVERSATION in self.parts else [name for name, part in self.parts.items() if not is_target(part)]

    def _put_present(self, batch: Batch, items: Sequence[dict[str, Any]]) -> None:
        """Collate items that may lack modalities: each tensor holds the rows of the items that have one, and a mask says which do."""
        for modality in self.parts:
            held = [item[modality] for item in items if modality in item]
            _put(batch, modality, self._collated(modality, held))
            if modality in self.inputs:
                batch.targets[PRESENT + modality] = torch.tensor([modality in item for item in items])

    def meta(self, modalities: Sequence[str], batch_size: int) -> Batch:
        """Return a batch of the right shapes on the meta device; each conversation has one image and one clip."""
        if CONVERSATION in self.parts:
            token_ids, mask, supervised = self[CONVERSATION].meta(batch_size)
            batch = Batch(inputs={"text": token_ids}, masks={"text": mask}, targets={SUPERVISED: supervised})
            return self._add_meta(batch, [modality for modality in MARKERS if modality in self.parts], batch_size)
        numbers = torch.empty(batch_size, dtype=torch.int64, device="meta")
        return self._add_meta(Batch(inputs={}, targets={"groups": numbers, "labels": numbers}), modalities, batch_size)

    def _add_meta(self, batch: Batch, modalities: Sequence[str], batch_size: int) -> Batch:
        for modality in modalities:
            _put(batch, modality, self[modality].meta(batch_size))
        return batch

    @property
    def is_fitted(self) -> bool:
        """True if no part has to be trained on captions before use."""
        return all(part.is_fitted for part in self.parts.values())

    def fit(self, captions: Sequence[str]) -> None:
        """Train the parts that need it (a tokenizer that does not exist yet) on the run's captions."""
        for part in self.parts.values():
            if not part.is_fitted:
                part.fit(captions)

    def save(self, directory: Path) -> None:
        """Write ``processor.json`` and the parts' own files."""
        settings = {modality: part.settings for modality, part in self.parts.items()}
        (directory / FILE).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for part in self.parts.values():
            part.save(directory)

    @classmethod
    def load(cls, directory: Path) -> "Processor":
        """Read a processor written by ``save``.

        Raises:
            WeightsError: the file is missing or does not describe processors.
        """
        path = directory / FILE
        settings = read_processor_settings(path)
        with understanding(path):
            parts = {modality: build_part("processor", {"name": modality, **words}, modality) for modality, words in settings.items()}
            for part in parts.values():
                part.load(directory)
        return cls(parts)


def _refuse_missing(modality: str, samples: Sequence[Sample], items: Sequence[dict[str, Any]]) -> None:
    """Raise DataError if an item lacks a modality that another one has."""
    for sample, item in zip(samples, items, strict=True):
        if modality not in item:
            raise ItemError(
                f"item {sample.id}: has no {modality}, which other items have; only a system of three encoders takes it", modality
            )


def is_target(part: Any) -> bool:
    """Return True if a part makes training targets of a head from samples' ``part.modality`` (``zoo.processors.speech``)."""
    return part.target


def _item(part: Any, sample: Sample, modality: str) -> Any:
    """Process one modality of a sample; a part that reads several modalities has ``item_of``, which gets the whole sample."""
    return part.item_of(sample)


def _put(batch: Batch, name: str, found: Any) -> None:
    """Add the output of a part to a batch: an encoder's input and its mask, a mapping of targets, or a batch of several."""
    if isinstance(found, Batch):
        batch.inputs.update(found.inputs)
        batch.masks.update(found.masks)
        batch.targets.update(found.targets)
        batch.sizes.update(found.sizes)
        batch.grids.update(found.grids)
        batch.steps.update(found.steps)
        return
    if isinstance(found, Mapping):
        batch.targets.update(found)
        return
    batch.inputs[name], mask = found
    if mask is not None:
        batch.masks[name] = mask


def hash_files(directory: Path) -> str:
    """Return the SHA-256 of the processor's files; loading compares it, to find preprocessing that changed after saving.

    Raises:
        WeightsError: one of them is a folder, a pipe or a device.
    """
    return hash_of_files(directory, FILES)


def conversation_of(sample: Sample) -> Conversation:
    """Return a sample's conversation; from images or clips with a caption, make one in which the assistant gives the caption.

    Raises:
        DataError: the sample has neither a conversation nor a text.
    """
    given = sample.inputs.get(CONVERSATION)
    if given is not None:
        return as_conversation(given, sample.id)
    if "text" not in sample.inputs:
        raise DataError(f"item {sample.id} holds {', '.join(sample.inputs)}; a multimodal language model needs a conversation or a caption")
    shown = {"images" if modality == "image" else modality: [sample.inputs[modality]] for modality in MARKERS if modality in sample.inputs}
    return Conversation.of_caption(sample.inputs["text"], id=sample.id, **shown)
