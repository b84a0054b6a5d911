"""The processors of a system's modalities as one object that is saved, hashed and loaded with the weights."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from zoo.data.sources._captions import stable_group
from zoo.errors import DataError, WeightsError, name_choices
from zoo.registry import find_part
from zoo.types import Batch, Sample

FILE = "processor.json"


class Processor:
    """Raw inputs to a ``Batch``; one part per modality.

    ``processor(image=[...], text=[...])`` takes lists of raw inputs or ready tensors of equal length.
    """

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self.parts = dict(parts)

    def __getitem__(self, modality: str) -> Any:
        if modality not in self.parts:
            raise DataError(f"this system has no {modality!r} processor; {name_choices(modality, self.parts)}")
        return self.parts[modality]

    def __call__(self, **raw: Any) -> Batch:
        batch = Batch(inputs={})
        for modality, values in raw.items():
            batch.inputs[modality], mask = self[modality](values)
            if mask is not None:
                batch.masks[modality] = mask
        lengths = {modality: len(tensor) for modality, tensor in batch.inputs.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"inputs differ in number: {lengths}; give as many of each")
        return batch

    def items(self, sample: Sample) -> dict[str, Any]:
        """One sample's tensors by modality; modalities that the system does not use are left out."""
        return {modality: part.item(sample.inputs[modality]) for modality, part in self.parts.items() if modality in sample.inputs}

    def collate(self, samples: Sequence[Sample], items: Sequence[dict[str, Any]]) -> Batch:
        """Processed items and the samples they came from, as one batch."""
        batch = Batch(inputs={}, ids=[sample.id for sample in samples])
        for modality in items[0]:
            batch.inputs[modality], mask = self.parts[modality].collate([item[modality] for item in items])
            if mask is not None:
                batch.masks[modality] = mask
        # An item without a group means something of its own, on every rank: its id says so.
        groups = [stable_group(sample.id) if sample.group is None else sample.group for sample in samples]
        batch.targets["groups"] = torch.tensor(groups)
        if all(sample.label is not None for sample in samples):
            batch.targets["labels"] = torch.tensor([sample.label for sample in samples])
        return batch

    def meta(self, modalities: Sequence[str], batch_size: int) -> Batch:
        """A batch of the right shapes without data."""
        numbers = torch.empty(batch_size, dtype=torch.int64, device="meta")
        batch = Batch(inputs={}, targets={"groups": numbers, "labels": numbers})
        for modality in modalities:
            batch.inputs[modality], mask = self[modality].meta(batch_size)
            if mask is not None:
                batch.masks[modality] = mask
        return batch

    @property
    def is_fitted(self) -> bool:
        """Whether nothing has to be trained on captions before use."""
        return all(part.is_fitted for part in self.parts.values() if hasattr(part, "fit"))

    def fit(self, captions: Sequence[str]) -> None:
        """Train what has to be trained on the run's captions (a tokenizer that is not there yet)."""
        for part in self.parts.values():
            if hasattr(part, "fit") and not part.is_fitted:
                part.fit(captions)

    def save(self, directory: Path) -> None:
        """Write ``processor.json`` and the parts' own files."""
        settings = {modality: part.settings for modality, part in self.parts.items()}
        (directory / FILE).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for part in self.parts.values():
            if hasattr(part, "save"):
                part.save(directory)

    @classmethod
    def load(cls, directory: Path) -> "Processor":
        """Read what ``save`` wrote.

        Raises:
            WeightsError: the file is missing or does not describe processors.
        """
        path = directory / FILE
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
            parts = {modality: find_part("processor", modality)(**keywords) for modality, keywords in settings.items()}
        except (OSError, json.JSONDecodeError, TypeError, AttributeError) as error:
            raise WeightsError(f"{path}: not a processor file ({error}); export the checkpoint again") from error
        for part in parts.values():
            if hasattr(part, "load"):
                part.load(directory)
        return cls(parts)


def hash_files(directory: Path) -> str:
    """SHA-256 over the processor's files: preprocessing that changed after saving is found at load."""
    digest = hashlib.sha256()
    for name in (FILE, "tokenizer.json"):
        path = directory / name
        if path.exists():
            digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
