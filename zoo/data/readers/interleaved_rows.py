"""Reader of interleaved text-and-image documents: rows of JSON-lines files and samples of tar shards."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.groups import stable_group
from zoo.data.readers import tar
from zoo.data.readers.document_filter import Document, DocumentFilter
from zoo.data.readers.shard_index import index_shards, is_image
from zoo.errors import ConfigError, DataError, ItemError
from zoo.processors.chat.messages import MARKERS
from zoo.storage.outside import parse_json, refuse_special
from zoo.types import Sample, Split

SPLITS = ("train", "validation", "test")
EXPECTED = "'parts', 'texts' and 'images' (OBELICS), 'text_list' and 'image_info' (MMC4), or 'text'"
Locate = Callable[[str, Any], Any]  # (kind, file name in the row or None) -> a path, an address, or the file's bytes


@dataclass(frozen=True, slots=True)
class Place:
    """Position of a row: index of its file, first byte, number of bytes, and a name for messages."""

    file: int
    offset: int
    size: int
    name: str


class Rows:
    """Random access to the rows of JSON-lines files and tar shards.

    In a shard a document is ``KEY.json`` with its images beside it, ``KEY.0.jpg KEY.1.png``. The row refers to them as ``0.jpg`` and
    ``1.png``. An image part without a file name takes the next image of the sample.

    Args:
        folder: base folder of the paths in JSON lines; None takes the folder of each file.

    Raises:
        DataError: a file cannot be read, or a shard is damaged.
    """

    def __init__(self, paths: Sequence[Path], folder: Path | None) -> None:
        self.paths, self.folder = list(paths), folder
        stamps, self.places = [], []
        for number, path in enumerate(self.paths):
            try:
                stamps.append(tar.stamp(os.stat(path)))
                self.places += _places_of_shard(path, number) if path.suffix == ".tar" else _places_of_lines(path, number)
            except OSError as error:
                raise DataError(f"data.path: {path} cannot be read ({error.strerror}); give JSON lines or tar shards") from error
        self.files = tar.ShardFiles(self.paths, stamps)

    def read(self, place: Place) -> Document:
        """Return the document at a place; its images and audio clips are paths, addresses or bytes.

        Raises:
            ItemError: the row cannot be used.
        """
        data, path = self.files.read(place.file, place.offset, place.size), self.paths[place.file]
        if path.suffix == ".tar":
            return _of_shard(data, place.name)
        folder = path.parent if self.folder is None else self.folder

        def locate(kind: str, value: Any) -> Any:
            if value is None:
                raise ItemError(f"document {place.name}: a part of type {kind!r} names no file; give it as {kind!r} or 'path'", "form")
            return value if "://" in value else folder / value  # the sieve drops an address and counts it under that reason

        return Document(place.name, tuple(parts_of(_json(data, place.name), place.name, locate)))


def parts_of(row: Any, name: str, locate: Locate) -> Iterator[tuple[str, Any]]:
    """Yield the texts, images and audio clips of a row in order; ``zoo.sources.interleaved`` lists the supported forms.

    Raises:
        ItemError: the row has none of the supported forms.
    """
    if not isinstance(row, Mapping):
        raise ItemError(f"document {name} is {type(row).__name__}; give an object with {EXPECTED}", "form")
    if isinstance(row.get("parts"), list):
        listed = [_part(part, name) for part in row["parts"]]
    elif isinstance(row.get("texts"), list) and isinstance(row.get("images"), list):
        listed = _of_obelics(row["texts"], row["images"], name)
    elif isinstance(row.get("text_list"), list) and isinstance(row.get("image_info"), list):
        listed = _of_mmc4(row["text_list"], row["image_info"], name)
    elif isinstance(row.get("text"), str):
        shown = [(kind, row[key]) for kind in MARKERS for key in (kind,) if row.get(key) is not None]
        listed = [*shown, ("text", row["text"])]
    else:
        raise ItemError(f"document {name}: its keys are {', '.join(map(str, row)) or 'none'}; give {EXPECTED}", "form")
    for kind, value in listed:
        if kind != "text":
            yield kind, locate(kind, value)
        elif value.strip():
            yield kind, value.strip()


def _part(part: Any, name: str) -> tuple[str, Any]:
    """Parse one part: a string, ``{"text": ...}``, ``{"image": ...}``, or ``{"type": "image", "path": ...}``."""
    if isinstance(part, str):
        return "text", part
    if isinstance(part, Mapping):
        kind = part.get("type") or next((key for key in ("text", *MARKERS) if key in part), None)
        value = part.get(str(kind), part.get("path"))
        if (kind == "text" and isinstance(value, str)) or (kind in MARKERS and (value is None or isinstance(value, str))):
            return str(kind), value
    raise ItemError(f"document {name}: a part is {str(part)[:60]}; give a text, or an object with 'text', 'image' or 'audio'", "form")


def _of_obelics(texts: Sequence[Any], images: Sequence[Any], name: str) -> list[tuple[str, Any]]:
    """Merge OBELICS lists of equal length; at each index one list holds a text or an image, and the other one None."""
    if len(texts) != len(images):
        raise ItemError(
            f"document {name}: {len(texts)} texts and {len(images)} images; the lists must be equally long, with null where the other "
            "holds something",
            "form",
        )
    pairs = [pair for text, image in zip(texts, images, strict=True) for pair in (("image", image), ("text", text))]
    return _strings(pairs, name)


def _of_mmc4(texts: Sequence[Any], infos: Sequence[Any], name: str) -> list[tuple[str, Any]]:
    """Merge MMC4 sentences and images; each image is placed before the sentence it was matched with."""
    found: list[tuple[str, Any]] = []
    before: dict[int, list[Any]] = {}
    for info in infos:
        place = info.get("matched_text_index") if isinstance(info, Mapping) else None
        if not isinstance(place, int) or not 0 <= place < len(texts):
            raise ItemError(f"document {name}: an image of image_info has matched_text_index {place!r} of {len(texts)} texts", "form")
        before.setdefault(place, []).append(info.get("image_name") or info.get("raw_url"))
    for number, text in enumerate(texts):
        found += [*(("image", image) for image in before.get(number, ())), ("text", text)]
    return _strings(found, name)


def _strings(pairs: Sequence[tuple[str, Any]], name: str) -> list[tuple[str, Any]]:
    """Remove empty pairs; raise ItemError if a value is neither a string nor None."""
    wrong = next((value for _, value in pairs if value is not None and not isinstance(value, str)), None)
    if wrong is not None:
        raise ItemError(f"document {name}: holds {str(wrong)[:60]!r}, where a string is expected", "form")
    return [(kind, value) for kind, value in pairs if value is not None]


def _json(data: bytes, name: str) -> Any:
    return parse_json(data, f"document {name}", lambda message: ItemError(message, "json"))


def _of_shard(data: bytes, name: str) -> Document:
    members = list(tar.walk(lambda offset, count: data[offset : offset + count], 0, len(data), trusted=True))
    contents = {member.suffix: data[member.offset : member.offset + member.size] for member in members}
    name = f"{name.rpartition(':')[0]}:{members[0].key}" if members else name
    if "json" not in contents:
        raise ItemError(f"document {name}: has no json, only {', '.join(contents) or 'nothing'}", "form")
    in_order = iter([suffix for suffix in contents if is_image(suffix)])

    def locate(kind: str, value: Any) -> Any:
        suffix = next(in_order, None) if value is None else value.removeprefix(f"{Path(members[0].key).name}.").lower()
        if suffix is None or suffix not in contents:
            return Path(str(value))  # no such member: the document filter drops this path under the reason "missing"
        return contents[suffix]

    return Document(name, tuple(parts_of(_json(contents["json"], name), name, locate)))


def _places_of_lines(path: Path, number: int) -> list[Place]:
    found, offset = [], 0
    refuse_special(path)
    with path.open("rb") as file:
        for line, content in enumerate(file, start=1):
            if content.strip():
                found.append(Place(number, offset, len(content), f"{path.name}:{line}"))
            offset += len(content)
    return found


def _places_of_shard(path: Path, number: int) -> list[Place]:
    index = index_shards([path])
    if index.faults:
        raise DataError(f"data.source: a bad shard; download it again, or leave it out\n  {index.faults[0]}")
    return [Place(number, int(entry["offset"]), int(entry["size"]), f"{path.name}:{i}") for i, entry in enumerate(index.entries)]


class DocumentsSplit(Split):
    """One split of documents, read lazily; images and audio clips stay paths or bytes until the processor opens them."""

    def __init__(self, places: Sequence[Any], read: Callable[[Any], Document], sieve: DocumentFilter) -> None:
        self.places, self.read, self.sieve = places, read, sieve

    def __len__(self) -> int:
        return len(self.places)

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Return document ``index``; the generator is not used.

        Raises:
            ItemError: the document cannot be read any more.
        """
        document = self.sieve.trim(self.read(self.places[index]))
        return Sample(document.id, {"conversation": document.conversation()})


def share_out(key: str, fractions: Sequence[float]) -> str:
    """Choose the split of a document by the hash of its key.

    Args:
        key: text that identifies the document; equal keys always fall into the same split.
        fractions: shares of train, validation and test, which sum to 1.
    """
    share, limit = stable_group(key) / 2**63, 0.0
    for name, fraction in zip(SPLITS, fractions, strict=True):
        limit += fraction
        if share < limit:
            return name
    # Rounding can leave the sum of the fractions just below 1: the rest goes to the last split that is not empty.
    return next(name for name, fraction in zip(reversed(SPLITS), reversed(fractions), strict=True) if fraction)


def checked_fractions(fractions: Sequence[float]) -> tuple[float, ...]:
    """Return the shares of train, validation and test as floats.

    Raises:
        ConfigError: the value is not three non-negative shares that sum to 1, or the share of train is 0.
    """
    values = tuple(float(value) for value in fractions)
    if len(values) != 3 or min(values) < 0 or values[0] == 0 or abs(sum(values) - 1) > 1e-6:
        raise ConfigError(f"split_fractions: {list(fractions)}; allowed are three shares for train, validation and test that sum to 1")
    return values
