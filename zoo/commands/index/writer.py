"""Resumable writer of an index; a kill at any moment loses at most one shard of work.

Finished shards are stored under ``.unfinished`` in the folder of the index. A shard identifies its items by content (path, size and time,
or text), not by position. After a change of the folder, the vectors of unchanged items are therefore reused, from shards and from a
finished index.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from zoo.commands.index.checks import read_plan
from zoo.commands.index.store import (
    FAILED,
    FORMAT,
    ITEMS,
    MANIFEST,
    UNFINISHED,
    VECTORS,
    Index,
    Manifest,
    Matrix,
    NpyRows,
    Rows,
    hash_file,
    read_json_lines,
    read_manifest,
    write_index,
)
from zoo.errors import ConfigError, DataError
from zoo.storage.files import whole_file, write_text_atomically

PLAN, LISTING = "plan.json", "listing.jsonl"
QUEUE = "queue.json"  # of several workers, see zoo.commands.index.shared
SAME = ("weights", "preprocessing", "modality", "dtype")  # facts that all vectors of an index share
PLACE_BITS = 40  # a location is one integer, source << 40 | row, which takes less memory than a tuple
Item = dict[str, Any]


class IndexWriter:
    """Job that writes an index, shard by shard.

    Args:
        directory: directory of the index; created if missing.
        facts: properties that all vectors of the index share, with the keys ``SAME``.
        shard_rows: number of items per shard, that is between two checkpoints of the job.

    Raises:
        ConfigError: the directory holds an index of another model, preprocessing, modality or data type.
        DataError: the directory holds a damaged index.
    """

    def __init__(self, directory: Path, facts: Mapping[str, str], shard_rows: int) -> None:
        self.directory, self.folder, self.facts, self.shard_rows = directory, directory / UNFINISHED, dict(facts), shard_rows
        self.places: dict[bytes, int] = {}  # location of each item's vector, by 16-byte key
        self.errors: dict[bytes, str] = {}
        self.plan = self._read_plan()
        self.old = self._read_old()
        self.sources: list[Rows] = []
        for held in (self.plan, vars(self.old.manifest) if self.old else None):
            self._refuse_other(held)
        if self.plan is None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)

    def begin(self, items: Iterable[Item], *, update: bool) -> bool:
        """Write the list of items; return True if the finished index already holds exactly these items.

        Args:
            items: all items of the index, in order.
            update: accept a list that differs from that of the unfinished job or the finished index.

        Raises:
            ConfigError: the list differs, and ``update`` is False.
        """
        fresh = self.folder / f"{LISTING}.tmp"
        with fresh.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(item) + "\n" for item in items)
        listing = hash_file(fresh)
        before = self.plan["listing"] if self.plan else self.old.manifest.listing if self.old else listing
        if before != listing and not update:
            raise ConfigError(self._changes(fresh))
        done = self.plan is None and self.old is not None and before == listing and self.old.manifest.failed == 0
        fresh.replace(self.folder / LISTING)
        (self.folder / QUEUE).unlink(missing_ok=True)  # its shards are recalled; their numbers would mean other items from now on
        self.plan = {"format": FORMAT, **self.facts, "listing": listing}
        if done:
            return True
        self.write_plan()
        self.recall()
        return False

    def write_plan(self) -> None:
        """Write the plan; from now on the job is unfinished and not absent."""
        write_text_atomically(self.folder / PLAN, json.dumps(self.plan, indent=2) + "\n")

    @property
    def listing(self) -> Iterator[Item]:
        """Items of the job, in the order of the index."""
        return read_json_lines(self.folder / LISTING)

    @property
    def num_known(self) -> int:
        """Number of items that are already embedded or known to be unreadable."""
        return sum(key in self.places or key in self.errors for key in map(key_of, self.listing))

    def todo(self) -> Iterator[list[Item]]:
        """Yield the remaining items, one shard at a time; pass each shard to ``add`` before taking the next."""
        left = self.unknown()
        while shard := list({key_of(item): item for item in islice(left, self.shard_rows)}.values()):
            yield shard

    def unknown(self) -> Iterator[Item]:
        """Yield the items that are neither embedded nor known to be unreadable at the moment when they are reached."""
        return (item for item in self.listing if (key := key_of(item)) not in self.places and key not in self.errors)

    def add(self, items: Sequence[Item], vectors: Matrix, errors: Mapping[int, str]) -> None:
        """Write a shard.

        Args:
            items: the items of the shard.
            vectors: vectors [readable, dim] of the items without an error, in their order.
            errors: error of each unreadable item, by its position in ``items``.
        """
        number = self.next_number
        rows = write_shard(self.folder, number, items, vectors.astype(self.facts["dtype"]), errors)
        self._take(rows, NpyRows(self.folder / f"{number:06d}.npy"))

    def finish(self, *, model: str, origin: str, storage: str, dim: int) -> Manifest:
        """Write the index from all shards, remove the unfinished job, and return the manifest."""
        items, failed = self.folder / ITEMS, self.folder / FAILED
        count = num_failed = 0
        with items.open("w", encoding="utf-8") as good, failed.open("w", encoding="utf-8") as bad:
            for item in self.listing:
                key = key_of(item)
                if key in self.places:
                    good.write(json.dumps(item) + "\n")
                    count += 1
                else:
                    bad.write(json.dumps({**item, "error": self.errors[key]}) + "\n")
                    num_failed += 1
        assert self.plan is not None
        manifest = Manifest(
            **self.plan, model=model, origin=origin, storage=storage, dim=dim, count=count, failed=num_failed, items=hash_file(items)
        )
        labels = (item.get("path", item.get("text", "")) for item in read_json_lines(items))
        write_index(self.directory, manifest, items, failed, self._gathered(items), labels)
        self.drop()
        return manifest

    def drop(self) -> None:
        """Remove the unfinished job; the plan goes first, because a job without a plan is ignored."""
        (self.folder / PLAN).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        _sweep(self.directory)

    @property
    def shards(self) -> list[Path]:
        """Paths of the complete shards, in the order in which they were written."""
        return sorted(self.folder.glob("[0-9]*.jsonl"))

    @property
    def next_number(self) -> int:
        """Number of the next shard; several workers may have left gaps below it."""
        return int(self.shards[-1].stem) + 1 if self.shards else 0

    def _gathered(self, items: Path) -> Iterator[Matrix]:
        """Yield the vectors of all rows in order, read from the shards and the old index."""
        described = read_json_lines(items)
        while some := list(islice(described, self.shard_rows)):
            places = np.array([self.places[key_of(item)] for item in some])
            sources, rows = places >> PLACE_BITS, places & ((1 << PLACE_BITS) - 1)
            parts = [(sources == source, self.sources[source]) for source in np.unique(sources)]
            found = [(mask, source.take(rows[mask])) for mask, source in parts]
            matrix = np.empty((len(some), found[0][1].shape[1]), dtype=self.facts["dtype"])
            for mask, vectors in found:
                matrix[mask] = vectors
            yield matrix

    def recall(self) -> None:
        """Register the vectors of the old index and of the shards; items that failed in the old index are tried again."""
        if self.old is not None:
            self._take(self.old.items(), self.old.rows)
        for path in self.shards:
            self._take(read_json_lines(path), NpyRows(path.with_suffix(".npy")))

    def _take(self, items: Iterable[Item], rows: Rows) -> None:
        row, source = 0, len(self.sources)
        self.sources.append(rows)
        for item in items:
            if "error" in item:
                self.errors[key_of(item)] = item["error"]
            else:
                self.places[key_of(item)] = source << PLACE_BITS | row
                row += 1

    def _read_plan(self) -> dict[str, Any] | None:
        path = self.folder / PLAN
        return read_plan(path, SAME) if path.exists() else None

    def _read_old(self) -> Index | None:
        if not (self.directory / MANIFEST).is_file():
            return None
        try:
            return Index(self.directory)
        except DataError:
            if self.plan is None:
                raise
            return None  # killed while finish() moved the files: all shards still exist

    def _refuse_other(self, held: Mapping[str, Any] | None) -> None:
        for word in SAME:
            if held is not None and held.get(word) != self.facts[word]:
                old, new = str(held.get(word))[:12], self.facts[word][:12]
                raise ConfigError(
                    f"{self.directory}: holds vectors with other {word} ({old}, now {new}), which an index cannot mix; give another -o, "
                    "or start over with --restart"
                )

    def _changes(self, fresh: Path) -> str:
        """Return the error message for a changed list: numbers of new, changed and removed items."""
        assert self.plan is not None or self.old is not None
        before = {name_of(item): key_of(item) for item in (self.listing if self.plan else self._old_items())}
        now = {name_of(item): key_of(item) for item in read_json_lines(fresh)}
        new, gone = len(now.keys() - before.keys()), len(before.keys() - now.keys())
        changed = sum(before[name] != now[name] for name in before.keys() & now.keys())
        fresh.unlink()
        since = "the job was started" if self.plan else "the index was made"
        return (
            f"{self.directory}: {new} new, {changed} changed and {gone} removed items since {since}; apply them with --update "
            "(unchanged items are not embedded again), or start over with --restart"
        )

    def _old_items(self) -> Iterator[Item]:
        assert self.old is not None
        yield from self.old.items()
        yield from read_json_lines(self.directory / FAILED)


def write_shard(folder: Path, number: int, items: Sequence[Item], vectors: Matrix, errors: Mapping[int, str]) -> list[Item]:
    """Write the two files of a shard and return its rows; several processes may write shards of one folder.

    Args:
        folder: of the unfinished job.
        number: of the shard.
        items: the items of the shard.
        vectors: vectors [readable, dim] of the items without an error, in their order, in the data type of the index.
        errors: error of each unreadable item, by its position in ``items``.
    """
    rows = [{**item, "error": errors[i]} if i in errors else item for i, item in enumerate(items)]
    with whole_file(folder / f"{number:06d}.npy") as file:
        np.save(file, vectors)
    with whole_file(folder / f"{number:06d}.jsonl") as file:  # written after the vectors: this file makes the shard valid
        file.writelines((json.dumps(item) + "\n").encode() for item in rows)
    return rows


def key_of(item: Item) -> bytes:
    """Return the 16-byte key that identifies an item: a hash of path, size and time of a file, or of a text."""
    words = [item["path"], str(item["size"]), str(item["mtime_ns"])] if "path" in item else ["", item["text"]]
    return hashlib.blake2b("\0".join(words).encode("utf-8", "surrogateescape"), digest_size=16).digest()


def name_of(item: Item) -> str:
    """Return the name of an item: its path or its text."""
    return item["path"] if "path" in item else item["text"]


def clear(directory: Path) -> None:
    """Remove an index and its unfinished job; other files in the directory are kept.

    The plan goes first and the manifest last: a kill in between leaves a folder that the same command recognises as its own.
    """
    (directory / UNFINISHED / PLAN).unlink(missing_ok=True)
    for name in (ITEMS, FAILED, *VECTORS.values(), MANIFEST):
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / UNFINISHED, ignore_errors=True)
    _sweep(directory)


def _sweep(directory: Path) -> None:
    """Remove the unfinished vectors that a killed job left."""
    for name in VECTORS.values():
        (directory / f".{name}.tmp").unlink(missing_ok=True)


def refuse_strange(directory: Path) -> None:
    """Raise ConfigError if files in the directory would be overwritten that ``zoo embed`` did not write."""
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"-o: {directory} is a file; give a folder for the index")
    if (directory / MANIFEST).is_file() or (directory / UNFINISHED).is_dir():
        if (directory / MANIFEST).is_file():
            read_manifest(directory)
        return
    existing = [name for name in (ITEMS, FAILED, *VECTORS.values()) if (directory / name).exists()]
    if existing:
        raise ConfigError(f"-o: {directory} holds {existing[0]}, but no zoo index; give another folder")
