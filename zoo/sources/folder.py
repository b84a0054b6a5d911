"""Image folders of the user: one subfolder per class, or a table of paths and captions."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.data.groups import stable_group
from zoo.data.readers.table import Row, is_unicode, read_table
from zoo.errors import ConfigError, DataError, ItemError, name_choices
from zoo.processors.media.image_file import IMAGE_SUFFIXES, read_pixels, walk_images, warn_of_others
from zoo.registry import register
from zoo.sources.wording.captions import caption, checked_templates, class_captions
from zoo.types import Sample, Source, Split

SPLITS = ("train", "validation", "test")
SPLIT_WORDS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
FAULTS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """One image.

    Attributes:
        relative: path relative to the folder.
        text: caption; None makes a caption from the class name.
        split: None chooses the split by a hash of the path.
        row: row number in the table, or None without a table.
    """

    path: Path
    relative: str
    text: str | None = None
    class_name: str | None = None
    split: str | None = None
    row: int | None = None

    @property
    def id(self) -> str:
        """Name of the item for messages; bytes of a file name that are not UTF-8 are shown as escape sequences."""
        name = self.relative.encode("utf-8", "backslashreplace").decode("utf-8")
        return name if self.row is None else f"{name}:{self.row}"


@register("source")
class Folder(Source):
    """Images of a folder, with captions from class names or from a table.

    Without a table, the images of ``path/black_cat/`` have the class "black cat". If the top folders are named train, validation (or val)
    and test, the class folders are inside them. With a table, each row is one image and its caption.

    Args:
        path: the folder.
        table: CSV (also separated by tabs or semicolons) or JSON-lines file, in ``path`` or elsewhere; image paths in it are relative to
            the table or to ``path``. An optional column ``split`` gives the split of a row.
        separator: character between the cells of the table; None finds it in the header.
        path_key: column of the image path.
        caption_key: column of the caption.
        label_key: column of the class; None takes the column "label" if there is one.
        templates: captions with ``{}`` in place of the class name.
        split_fractions: shares of train, validation and test for images without a given split. A hash of the image's path chooses the
            split, so that adding images does not move others.
        on_bad: "error" raises DataError for faulty entries; "skip" leaves them out and lists them in ``skipped``.

    Raises:
        ConfigError: templates, fractions or ``on_bad`` are not allowed.
        DataError: the folder or table does not exist, holds no usable image, or has faulty entries and ``on_bad`` is "error".
    """

    modalities = ("image", "text")
    splits = SPLITS

    def __init__(
        self,
        *,
        path: str | Path,
        table: str | Path | None = None,
        separator: str | None = None,
        path_key: str = "path",
        caption_key: str = "caption",
        label_key: str | None = None,
        templates: Sequence[str] = ("a photo of a {}.",),
        split_fractions: Sequence[float] = (0.8, 0.1, 0.1),
        on_bad: str = "error",
    ) -> None:
        if on_bad not in ("error", "skip"):
            raise ConfigError(f"on_bad: there is no {on_bad!r}; {name_choices(on_bad, ('error', 'skip'))}")
        self.path, self.fractions, self.on_bad = Path(path), _checked_fractions(split_fractions), on_bad
        self.templates, self.separator = checked_templates(templates), separator
        if not self.path.is_dir():
            what = "is a file" if self.path.exists() else "does not exist"
            raise DataError(f"data.path: {self.path} {what}; give a folder of images (the current folder is {Path.cwd()})")
        self.table = None if table is None else _find_table(self.path, Path(table))
        self.skipped: list[str] = []
        if self.table is None:
            entries = list(self._folder_entries())
            warn_of_others(self.path)
        else:
            entries = list(self._table_entries(self.table, path_key, caption_key, label_key))
        self.class_names = _class_names(entries)
        self._entries = self._by_split(entries)
        self._settle()

    def split(self, name: str) -> "FolderSplit":
        """Return the samples of one split.

        Raises:
            ConfigError: no such split.
            DataError: the split is empty.
        """
        if name not in SPLITS:
            raise ConfigError(f"split: there is no {name!r}; {name_choices(name, SPLITS)}")
        if not self._entries[name]:
            counts = ", ".join(f"{split} {len(entries)}" for split, entries in self._entries.items())
            raise DataError(f"{self.table or self.path}: the split {name!r} has no image ({counts}); add images or change split_fractions")
        return FolderSplit(self._entries[name], self.class_names, self.templates)

    def captions(self) -> list[str]:
        """Return the captions of the training split without duplicates, as text to train a tokenizer on."""
        own = dict.fromkeys(entry.text for entry in self._entries["train"] if entry.text is not None)
        return [*own, *class_captions(self.templates, self.class_names)]

    def _folder_entries(self) -> Iterator[Entry]:
        """Yield the images in class folders; faults are appended to ``skipped``."""
        for split, folder in _split_folders(self.path):
            names: dict[str, str] = {}
            for entry in _listed(folder):
                relative = entry.relative_to(self.path).as_posix()
                if not entry.is_dir():
                    if entry.name.lower().endswith(IMAGE_SUFFIXES):
                        self.skipped.append(f"{relative}: is not in a class folder")
                    continue
                name = entry.name.replace("_", " ").strip()
                if not name or not is_unicode([name]):
                    self.skipped.append(f"{relative!r}: the folder's name cannot be a class name (it is blank, or not UTF-8)")
                elif name in names:
                    self.skipped.append(f"{relative}: has the same class name as {names[name]}: {name!r}")
                else:
                    names[name] = relative
                    yield from self._class_entries(entry, name, split)

    def _class_entries(self, folder: Path, name: str, split: str | None) -> Iterator[Entry]:
        images = list(walk_images(folder))
        if not images:
            self.skipped.append(f"{folder.relative_to(self.path).as_posix()}: a class folder without images")
        for image in images:
            yield Entry(image, image.relative_to(self.path).as_posix(), class_name=name, split=split)

    def _table_entries(self, table: Path, path_key: str, caption_key: str, label_key: str | None) -> Iterator[Entry]:
        """Yield the images that a table lists; faults are appended to ``skipped``."""
        keys = [path_key, caption_key, *([label_key] if label_key else [])]
        rows_of: dict[tuple[Path, str], int] = {}
        for row in read_table(table, keys, separator=self.separator):
            entry = row.fault or self._row_entry(row, table, path_key, caption_key, label_key or "label")
            if isinstance(entry, Entry):
                first = rows_of.setdefault((entry.path, entry.text or ""), row.number)
                if first == row.number:
                    yield entry
                    continue
                entry = f"the same path and caption as row {first}"
            self.skipped.append(f"row {row.number}: {entry}")

    def _row_entry(self, row: Row, table: Path, path_key: str, caption_key: str, label_key: str) -> Entry | str:
        """Return the entry of a row, or a message if the row cannot be used."""
        raw, text = row.values[path_key], row.values[caption_key]
        for key, value in ((path_key, raw), (caption_key, text)):
            if not isinstance(value, str) or not value.strip():
                return f"{key} is {'empty' if isinstance(value, str) else repr(value)}, where a text is expected"
        label = _optional_text(row.values.get(label_key))
        split = _optional_text(row.values.get("split"))
        if isinstance(row.values.get(label_key), bool | float | list | dict):
            return f"{label_key} is {row.values[label_key]!r}, where a text or a whole number is expected"
        if split is not None and split not in SPLIT_WORDS:
            return f"split is {split!r}; {name_choices(split, SPLIT_WORDS)}"
        located = _locate(raw.strip(), (self.path, table.parent))
        if isinstance(located, str):
            return located
        path, relative = located
        return Entry(path, relative, text.strip(), label, SPLIT_WORDS.get(split or ""), row.number)

    def _by_split(self, entries: Iterable[Entry]) -> dict[str, list[Entry]]:
        """Assign entries to splits; an entry whose class does not occur in training is a fault."""
        shared: dict[str, list[Entry]] = {split: [] for split in SPLITS}
        known = set(self.class_names)
        for entry in entries:
            if entry.class_name is None or entry.class_name in known:
                shared[entry.split or _hashed_split(entry.relative, self.fractions)].append(entry)
            else:
                where = entry.relative if entry.row is None else f"row {entry.row}"
                hint = name_choices(entry.class_name, known)
                self.skipped.append(f"{where}: label {entry.class_name!r} is not among the classes of training; {hint}")
        return shared

    def _settle(self) -> None:
        """Raise DataError if there are faults and ``on_bad`` is "error", or if no entry is left."""
        place, count = self.table or self.path, len(self.skipped)
        if self.skipped and self.on_bad == "error":
            raise DataError(
                f"{place}: {count} bad {'entry' if count == 1 else 'entries'}; correct them, or leave them out with data.source.on_bad=skip"
                + "".join(f"\n  {fault}" for fault in self.skipped[:FAULTS_SHOWN])
            )
        if not any(self._entries.values()):
            what = "the table has no usable rows" if self.table else f"no images in class folders ({' '.join(IMAGE_SUFFIXES)})"
            left = f"; {count} left out, the first: {self.skipped[0]}" if count else ""
            raise DataError(f"{place}: {what}{left}\nput images into folders named by class, or give a table of paths and captions")


class FolderSplit(Split):
    """One split of a folder; images are read lazily."""

    def __init__(self, entries: Sequence[Entry], class_names: Sequence[str], templates: Sequence[str]) -> None:
        self.entries, self.templates = entries, templates
        self.labels = {name: index for index, name in enumerate(class_names)}

    def __len__(self) -> int:
        return len(self.entries)

    def identities(self, modality: str) -> list[str] | None:
        """Return an identifier of each item's image, because several rows may share one; None for other modalities."""
        return [entry.relative for entry in self.entries] if modality == "image" else None

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Return item ``index`` with its decoded image.

        Raises:
            ItemError: the image cannot be read; the message begins with the item's id.
        """
        entry = self.entries[index]
        try:
            image = read_pixels(entry.path)
        except DataError as error:
            raise ItemError(f"item {entry.id}: {error}", "image") from error
        text = caption(self.templates, entry.class_name or "", generator) if entry.text is None else entry.text
        group = stable_group(entry.text or entry.class_name or "")
        label = None if entry.class_name is None else self.labels[entry.class_name]
        return Sample(entry.id, {"image": image, "text": text}, group=group, label=label)


def _checked_fractions(fractions: Sequence[float]) -> tuple[float, ...]:
    if isinstance(fractions, str) or len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ConfigError(f"split_fractions: {fractions!r}; three shares of train, validation and test that sum to 1, as [0.8, 0.1, 0.1]")
    return tuple(map(float, fractions))


def _hashed_split(relative: str, fractions: Sequence[float]) -> str:
    """Choose the split by a hash of the path: with (0.8, 0.1, 0.1), below 0.8 is train, below 0.9 validation, else test."""
    position = stable_group(relative) / 2**63
    if position < fractions[0]:
        return "train"
    in_test = fractions[2] > 0 and position >= fractions[0] + fractions[1]
    return "test" if in_test or fractions[1] == 0 else "validation"


def _listed(folder: Path) -> list[Path]:
    """Return the sorted entries of a folder without hidden ones.

    Raises:
        DataError: the folder cannot be listed.
    """
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: the folder cannot be listed ({error.strerror}); check its mode and owner") from error


def _split_folders(root: Path) -> list[tuple[str | None, Path]]:
    """Return the folders that contain class folders, each with its split; (None, root) if a hash chooses the splits.

    A single folder with the name of a split among other folders is a class (a train, the vehicle); two or more are splits.

    Raises:
        DataError: split folders are mixed with other folders, or the names of two folders mean the same split.
    """
    folders = [path for path in _listed(root) if path.is_dir()]
    words = [path for path in folders if path.name in SPLIT_WORDS]
    others = [path.name for path in folders if path.name not in SPLIT_WORDS]
    if not words or (others and len(words) == 1):
        return [(None, root)]
    if others:
        raise DataError(
            f"{root}: split folders ({', '.join(p.name for p in words)}) are mixed with other folders ({', '.join(others[:3])}); "
            "move the other folders away"
        )
    if len({SPLIT_WORDS[path.name] for path in words}) < len(words):
        raise DataError(f"{root}: has both 'val' and 'validation', which mean the same split; keep one")
    return [(SPLIT_WORDS[path.name], path) for path in words]


def _find_table(root: Path, table: Path) -> Path:
    """Return the path of a table: relative to the folder if it exists there, else relative to the current folder.

    Raises:
        DataError: there is no such file.
    """
    for candidate in (root / table, table):
        if candidate.is_file():
            return candidate
    near = [path.name for path in _listed(root) if path.is_file()]
    raise DataError(f"data.table: there is no file {table}, in {root} or in the current folder; {name_choices(table.name, near)}")


def _locate(raw: str, roots: Sequence[Path]) -> tuple[Path, str] | str:
    """Return an image's path and its path relative to the root that contains it, or a message if there is no such file.

    Args:
        raw: path as written in the table.
        roots: folders to look in, in this order; paths that lead out of all of them are rejected.
    """
    # ".." is resolved in the text of the path and not on the disk, so that symbolic links inside the folder stay usable.
    bases = [os.path.abspath(root) for root in roots]
    inside = False
    for path in (os.path.normpath(os.path.join(base, raw)) for base in bases):
        home = next((base for base in bases if os.path.commonpath((base, path)) == base), None)
        inside |= home is not None
        if home is not None and "\0" not in path and os.path.isfile(path):
            return Path(path), Path(path).relative_to(home).as_posix()
    return f"there is no file {raw!r}" if inside else f"path {raw!r} leads out of the folder; only files in it are allowed"


def _optional_text(value: object) -> str | None:
    """Return the text of a table cell; None if it is empty or missing."""
    return None if value is None else str(value).strip() or None


def _class_names(entries: Sequence[Entry]) -> list[str]:
    """Return the sorted class names of the entries that may fall into training, or of all entries if there are no such entries."""
    training = {entry.class_name for entry in entries if entry.split in (None, "train")}
    return sorted(name for name in (training or {entry.class_name for entry in entries}) if name is not None)
