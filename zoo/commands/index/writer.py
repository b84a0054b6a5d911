"""Making an index so that a kill at any moment loses one shard at most.

What is done lies in shards under ``.unfinished`` in the index's folder. A shard knows its items by what they are (path, size and time, or
text), not by their place, so a new listing of a changed folder takes up whatever is still true, of shards as of a finished index.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

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
from zoo.storage.files import sync_files, write_text_atomically

PLAN, LISTING = "plan.json", "listing.jsonl"
SAME = ("weights", "preprocessing", "modality", "dtype")  # one index has one of each
PLACE_BITS = 40  # a place is a number: source << 40 | row
Item = dict[str, Any]


class IndexWriter:
    """A job that fills an index.

    Args:
        directory: of the index; is made where it is not there.
        facts: what all vectors of an index share, by the words of ``SAME``.
        shard_rows: items between two moments from which the job can go on.

    Raises:
        ConfigError: the directory holds an index of another model, modality or type.
        DataError: it holds a damaged one.
    """

    def __init__(self, directory: Path, facts: Mapping[str, str], shard_rows: int) -> None:
        self.directory, self.folder, self.facts, self.shard_rows = directory, directory / UNFINISHED, dict(facts), shard_rows
        self.places: dict[bytes, int] = {}  # by item: 16 bytes and a number each
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
        """List what the index shall hold; returns whether it holds just that already.

        Raises:
            ConfigError: the listing changed since the job or the index was begun, and ``update`` is not set.
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
        self.plan = {"format": FORMAT, **self.facts, "listing": listing}
        if done:
            return True
        write_text_atomically(self.folder / PLAN, json.dumps(self.plan, indent=2) + "\n")
        self._recall()
        return False

    @property
    def listing(self) -> Iterator[Item]:
        """All items, in the index's order."""
        return read_json_lines(self.folder / LISTING)

    @property
    def num_known(self) -> int:
        """Items that need not be looked at again."""
        return sum(key in self.places or key in self.errors for key in map(key_of, self.listing))

    def todo(self) -> Iterator[list[Item]]:
        """What is left, a shard at a time; each is to be given to ``add`` before the next is asked for."""
        left = (item for item in self.listing if (key := key_of(item)) not in self.places and key not in self.errors)
        while shard := list({key_of(item): item for item in islice(left, self.shard_rows)}.values()):
            yield shard

    def add(self, items: Sequence[Item], vectors: Matrix, errors: Mapping[int, str]) -> None:
        """Write a shard.

        Args:
            vectors: of the items that have no error, in their order.
            errors: why an item has none, by its number.
        """
        number = len(self.shards)
        told = [{**item, "error": errors[i]} if i in errors else item for i, item in enumerate(items)]
        fresh = self.folder / ".shard.tmp.npy"
        np.save(fresh, vectors.astype(self.facts["dtype"]))
        sync_files([fresh])
        fresh.replace(self.folder / f"{number:06d}.npy")
        write_text_atomically(self.folder / f"{number:06d}.jsonl", "".join(json.dumps(item) + "\n" for item in told))  # now it counts
        self._take(told, NpyRows(self.folder / f"{number:06d}.npy"))

    def finish(self, *, model: str, origin: str, storage: str, dim: int) -> Manifest:
        """Put the index together and remove what was unfinished."""
        items, failed = self.folder / ITEMS, self.folder / FAILED
        count = lost = 0
        with items.open("w", encoding="utf-8") as good, failed.open("w", encoding="utf-8") as bad:
            for item in self.listing:
                key = key_of(item)
                if key in self.places:
                    good.write(json.dumps(item) + "\n")
                    count += 1
                else:
                    bad.write(json.dumps({**item, "error": self.errors[key]}) + "\n")
                    lost += 1
        assert self.plan is not None
        manifest = Manifest(
            **self.plan, model=model, origin=origin, storage=storage, dim=dim, count=count, failed=lost, items=hash_file(items)
        )
        words = (item.get("path", item.get("text", "")) for item in read_json_lines(items))
        write_index(self.directory, manifest, items, failed, self._gathered(items), words)
        self.drop()
        return manifest

    def drop(self) -> None:
        """Remove what is unfinished; the plan first, without which the rest means nothing."""
        (self.folder / PLAN).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def shards(self) -> list[Path]:
        """Names of the whole shards, in the order in which they were written."""
        return sorted(self.folder.glob("[0-9]*.jsonl"))

    def _gathered(self, items: Path) -> Iterator[Matrix]:
        """The vectors of all rows in order, from wherever they lie."""
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

    def _recall(self) -> None:
        """Take up what the old index and the shards hold; what could not be read of the old one is tried again."""
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
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        except ValueError as error:
            raise DataError(f"{path}: cannot be read ({error}); start over with --restart") from error

    def _read_old(self) -> Index | None:
        if not (self.directory / MANIFEST).is_file():
            return None
        try:
            return Index(self.directory)
        except DataError:
            if self.plan is None:
                raise
            return None  # killed between the renames of its last step: the shards are all there

    def _refuse_other(self, held: Mapping[str, Any] | None) -> None:
        for word in SAME:
            if held is not None and held.get(word) != self.facts[word]:
                theirs, ours = str(held.get(word))[:12], self.facts[word][:12]
                raise ConfigError(
                    f"{self.directory}: holds vectors of another {word} ({theirs}, now {ours}), and one index has one; give another -o, "
                    "or start over with --restart"
                )

    def _changes(self, fresh: Path) -> str:
        """What is new, changed and gone, for people."""
        assert self.plan is not None or self.old is not None
        before = {name_of(item): key_of(item) for item in (self.listing if self.plan else self._old_items())}
        now = {name_of(item): key_of(item) for item in read_json_lines(fresh)}
        new, gone = len(now.keys() - before.keys()), len(before.keys() - now.keys())
        changed = sum(before[name] != now[name] for name in before.keys() & now.keys())
        fresh.unlink()
        what = "the job was begun" if self.plan else "the index was made"
        return (
            f"{self.directory}: {new} new, {changed} changed and {gone} removed items since {what}; take them up with --update "
            "(what did not change is not computed again), or start over with --restart"
        )

    def _old_items(self) -> Iterator[Item]:
        assert self.old is not None
        yield from self.old.items()
        yield from read_json_lines(self.directory / FAILED)


def key_of(item: Item) -> bytes:
    """What makes an item the same item: path, size and time of a file, or a text."""
    words = [item["path"], str(item["size"]), str(item["mtime_ns"])] if "path" in item else ["", item["text"]]
    return hashlib.blake2b("\0".join(words).encode("utf-8", "surrogateescape"), digest_size=16).digest()


def name_of(item: Item) -> str:
    """What an item is called."""
    return item["path"] if "path" in item else item["text"]


def clear(directory: Path) -> None:
    """Remove an index and what is unfinished of one; other files stay."""
    for name in (MANIFEST, ITEMS, FAILED, *VECTORS.values()):
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / UNFINISHED, ignore_errors=True)


def refuse_strange(directory: Path) -> None:
    """Raise ConfigError for a directory that holds files of our names which no zoo embed wrote."""
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"-o: {directory} is a file; give a folder for the index")
    if (directory / MANIFEST).is_file() or (directory / UNFINISHED).is_dir():
        if (directory / MANIFEST).is_file():
            read_manifest(directory)
        return
    strange = [name for name in (ITEMS, FAILED, *VECTORS.values()) if (directory / name).exists()]
    if strange:
        raise ConfigError(f"-o: {directory} holds {strange[0]}, but no index of zoo; give another folder")
