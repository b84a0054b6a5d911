"""Items of several modalities from one table: image, recording and text, of which each item may lack some.

A contrastive head with an anchor (``zoo.heads.clip``) trains on them: a pair of modalities counts the items that have both.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.data.groups import stable_group
from zoo.data.readers.table import Row, read_table
from zoo.errors import ConfigError, DataError, name_choices
from zoo.registry import register
from zoo.sources.wording.captions import checked_templates
from zoo.types import Sample, Source, Split

MODALITIES = ("image", "audio", "text")
SPLITS = ("train", "validation", "test")
FAULTS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class AlignedItem:
    """One row of a table.

    Attributes:
        id: table and row.
        inputs: paths of image and recording, and the text, by modality; those that the row lacks are left out.
        group: name of its meaning; items of equal names are positives of each other.
        label: name of its class, if it has one.
    """

    id: str
    inputs: dict[str, Path | str]
    split: str
    group: str
    label: str | None = None


@register("source")
class Aligned(Source):
    """Rows of a CSV or JSON-lines table with the columns image, audio and text, of which a row may leave one empty.

    Further columns: ``split`` (train, validation or test; train if it is missing), ``group``, the meaning of the item, which is the text if
    the column is missing, and ``label``, a class name for zero-shot evaluation. Paths are relative to the table.

    Args:
        path: the table, or the folder that holds it as ``table.jsonl`` or ``table.csv``.
        modalities: columns to read.
        templates: prompts with ``{}`` in place of a label.

    Raises:
        ConfigError: a modality is unknown, fewer than two are given, or a template has no ``{}``.
        DataError: there is no table, or a row is faulty.
    """

    modalities: Sequence[str] = MODALITIES  # type: ignore[misc]  # of the class; an instance has those that it reads

    def __init__(self, *, path: str | Path, modalities: Sequence[str] = MODALITIES, templates: Sequence[str] = ("{}",)) -> None:
        unknown = [name for name in modalities if name not in MODALITIES]
        if unknown or len(set(modalities)) < 2 or isinstance(modalities, str):
            raise ConfigError(f"modalities: got {modalities!r}; allowed are two or three of {', '.join(MODALITIES)}")
        self.templates = checked_templates(templates)
        self.modalities, self.path = tuple(modalities), _find_table(Path(path))
        found = [self._item(row) for row in read_table(self.path, ())]
        faults = [item for item in found if isinstance(item, str)]
        if faults or not found:
            shown = "".join(f"\n  {fault}" for fault in faults[:FAULTS_SHOWN])
            raise DataError(f"{self.path}: {len(faults)} bad rows of {len(found)}; correct them{shown}")
        self.items = [item for item in found if isinstance(item, AlignedItem)]
        self.splits = [name for name in SPLITS if any(item.split == name for item in self.items)]
        self.class_names = sorted({item.label for item in self.items if item.label is not None})

    def split(self, name: str) -> "AlignedSplit":
        """Return the samples of one split.

        Raises:
            ConfigError: the table has no rows of this split.
        """
        if name not in self.splits:
            raise ConfigError(f"split: {self.path} has no rows of {name!r}; {name_choices(name, self.splits)}")
        items = [item for item in self.items if item.split == name]
        return AlignedSplit(items, self.class_names)

    def captions(self) -> list[str]:
        """Return the texts of the training split without duplicates, as text to train a tokenizer on."""
        texts = (item.inputs.get("text") for item in self.items if item.split == "train")
        return list(dict.fromkeys(str(text) for text in texts if text is not None))

    def _item(self, row: Row) -> AlignedItem | str:
        """Return the item of a row, or the reason why it cannot be used."""
        here = f"{self.path.name}, row {row.number}"
        if row.fault is not None:
            return f"{here}: {row.fault}"
        given = {name: row.values.get(name) for name in self.modalities}
        wrong = [name for name, value in given.items() if value is not None and not isinstance(value, str)]
        if wrong:
            return f"{here}: {wrong[0]} is {given[wrong[0]]!r}; allowed is a text, or nothing"
        inputs = {name: value if name == "text" else self.path.parent / value for name, value in given.items() if value}
        if not inputs:
            return f"{here}: has none of {', '.join(self.modalities)}"
        split = row.values.get("split") or "train"
        if split not in SPLITS:
            return f"{here}: split is {split!r}; {name_choices(str(split), SPLITS)}"
        group = str(row.values.get("group") or given.get("text") or here)
        label = row.values.get("label")
        return AlignedItem(here, inputs, split, " ".join(group.lower().split()), str(label) if label else None)


class AlignedSplit(Split):
    """One split of the table; a sample holds the paths of its image and recording, which the processor reads."""

    def __init__(self, items: Sequence[AlignedItem], class_names: Sequence[str] = ()) -> None:
        self.items, self.labels = items, {name: number for number, name in enumerate(class_names)}

    def __len__(self) -> int:
        return len(self.items)

    def identities(self, modality: str) -> list[str] | None:
        """Return the path or text of each item if some items share one, else None; an item without the modality is its own."""
        names = [str(item.inputs.get(modality, item.id)) for item in self.items]
        return names if names and max(Counter(names).values()) > 1 else None

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Return item ``index``, which is always the same."""
        item = self.items[index]
        return Sample(item.id, dict(item.inputs), group=stable_group(item.group), label=self.labels.get(item.label or ""))


def _find_table(path: Path) -> Path:
    """Return the file of a table.

    Raises:
        DataError: there is none.
    """
    places = [path] if path.is_file() else [path / "table.jsonl", path / "table.csv"]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise DataError(f"data.path: {path} has no table.jsonl or table.csv; give a table with the columns {', '.join(MODALITIES)}")
    return found
