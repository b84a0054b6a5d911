"""Index of tar shards: offset and size of every sample, computed once and cached on disk."""

import hashlib
import io
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int, Shaped
from PIL import Image

from zoo.data.readers import tar
from zoo.errors import DataError
from zoo.processors.media.image_file import DECODE_ERRORS, IMAGE_SUFFIXES
from zoo.storage import remote
from zoo.storage.places import cache_directory

ENTRY = np.dtype([("offset", "<u8"), ("size", "<u4")])  # 12 bytes a sample
VERSION = 1  # format of the cache files; part of their names, so that older files are ignored
PARALLEL_FROM = 16  # number of unindexed shards from which worker processes are used; starting them costs more than a few shards
CACHE_ERRORS = (OSError, ValueError, KeyError, EOFError)  # raised by a truncated or foreign cache file, which is then computed again


@dataclass(frozen=True)
class Shard:
    """Index of one shard.

    Attributes:
        entries: offset and size in bytes of each sample.
        fault: what is wrong with the shard, or None.
        small: number of samples left out because their image is smaller than ``min_size``.
    """

    entries: Shaped[np.ndarray, " samples"]
    fault: str | None
    small: int


@dataclass(frozen=True)
class Index:
    """Index of all shards of a split.

    Attributes:
        entries: offset and size in bytes of each sample, shard after shard; memory-mapped from the cache file, so that processes share it.
        sizes: number of samples of each shard.
        stamps: size in bytes and modification time in nanoseconds of each shard.
        faults: one message for each shard that is truncated, damaged or empty.
        small: number of samples left out because their image is smaller than ``min_size``.
    """

    entries: Shaped[np.ndarray, " samples"]
    sizes: Int[np.ndarray, " shards"]
    stamps: list[tuple[int, int]]
    faults: list[str]
    small: int


def index_shards(paths: Sequence[tar.Place], *, min_size: int = 0, directory: str | Path | None = None) -> Index:
    """Return the index of shards; shards that have not changed since the last call are read from the cache.

    Args:
        min_size: minimum length in pixels of the shorter side of a sample's first image; 0 opens no image.
        directory: folder of the cached indexes; None takes ``shards`` in the cache of ``zoo fetch``.

    Raises:
        OSError: a shard does not exist or cannot be read.
        DataError: a shard holds a sample of 4 GiB or more.
    """
    folder = Path(directory) if directory is not None else cache_directory() / "shards"
    stamps = [remote.stamp_of(path) if isinstance(path, str) else tar.stamp(os.stat(path)) for path in paths]
    places = [path if isinstance(path, str) else os.path.abspath(path) for path in paths]
    names = [_digest(VERSION, place, *stamp, min_size) for place, stamp in zip(places, stamps, strict=True)]
    whole = folder / f"all-{_digest(*names)}"
    found = _load(whole, "sizes", "faults", "small")
    if found is None:
        shards = list(_shards(paths, [folder / name for name in names], min_size))
        sizes = np.array([len(shard.entries) for shard in shards], dtype=np.int64)
        faults = [f"{path}: {shard.fault}" for path, shard in zip(paths, shards, strict=True) if shard.fault is not None]
        entries = np.concatenate([shard.entries for shard in shards])
        facts = {"sizes": sizes.tolist(), "faults": faults, "small": sum(shard.small for shard in shards)}
        found = entries, facts
        if _save(whole, *found):
            found = _load(whole) or found  # memory-mapped now: worker processes share one copy
    entries, facts = found
    return Index(entries, np.array(facts["sizes"], dtype=np.int64), stamps, facts["faults"], facts["small"])


def _shards(paths: Sequence[tar.Place], kept: Sequence[Path], min_size: int) -> Iterator[Shard]:
    """Yield the index of each shard, from the cache if it is there.

    If many shards are missing, several processes read them, and a terminal shows a progress bar.
    """
    missing = [i for i, file in enumerate(kept) if not file.with_suffix(".json").exists()]
    work = partial(_cached, min_size=min_size)
    if len(missing) < PARALLEL_FROM:
        yield from map(work, paths, kept)
        return
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if not console.is_terminal:
        print(f"indexing {len(missing)} shards; the index is kept in {kept[0].parent}", file=sys.stderr, flush=True)
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(missing)), mp_context=multiprocessing.get_context()) as pool:
        found = pool.map(work, paths, kept, chunksize=4)
        yield from track(found, "index shards", total=len(paths), console=console, disable=not console.is_terminal, transient=True)


def _cached(path: tar.Place, kept: Path, *, min_size: int) -> Shard:
    if (found := _load(kept, "fault", "small")) is not None:
        return Shard(np.array(found[0]), found[1]["fault"], found[1]["small"])
    shard = read_shard(path, min_size=min_size)
    _save(kept, shard.entries, {"fault": shard.fault, "small": shard.small})
    return shard


def read_shard(path: tar.Place, *, min_size: int = 0) -> Shard:
    """Find the samples of one shard by reading its tar headers; a remote one is read in ranges.

    Args:
        min_size: minimum length in pixels of the shorter side of a sample's first image; 0 opens no image.

    Raises:
        DataError: a sample has 4 GiB or more, which the 32-bit size of an entry cannot hold.
    """
    spans: list[tuple[int, int]] = []
    fault, small = None, 0
    with _opened(path) as (read, read_member, size):
        try:
            for members in tar.samples(read, size):
                if min_size and _is_small(read_member, members, min_size):
                    small += 1
                    continue
                spans.append((members[0].begin, members[-1].end - members[0].begin))
        except tar.TarFault as error:
            fault = str(error)
    if max((span for _, span in spans), default=0) >= 2**32:
        raise DataError(f"data.source: {path}: holds a sample of 4 GiB or more; a sample is a picture with its texts")
    if fault is None and not spans and not small:
        fault = "holds no samples"
    return Shard(np.array(spans, dtype=ENTRY), fault, small)


@contextmanager
def _opened(path: tar.Place) -> Iterator[tuple[tar.Read, tar.Read, int]]:
    """Open a shard; yields a reader for headers, one for whole members, and the bytes of the file."""
    if isinstance(path, str):
        size, _ = remote.stamp_of(path)
        yield tar.buffered(path, size), partial(remote.read_range, path), size
        return
    file = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(file).st_size
        yield tar.buffered(file, size), lambda offset, count: os.pread(file, count, offset), size
    finally:
        os.close(file)


def is_image(suffix: str) -> bool:
    """Return True if the suffix of a tar member is that of an image: ``jpg``, but also ``input.jpg``."""
    return "." + suffix.rpartition(".")[2] in IMAGE_SUFFIXES


def _is_small(read: tar.Read, members: Sequence[tar.Member], min_size: int) -> bool:
    """Return True if the header of the sample's first image gives a shorter side below ``min_size`` pixels.

    An unreadable image counts as large enough: the error is raised when the sample is read.
    """
    member = next((member for member in members if is_image(member.suffix)), None)
    if member is None:
        return False
    try:
        with Image.open(io.BytesIO(read(member.offset, member.size))) as image:
            return min(image.size) < min_size
    except (*DECODE_ERRORS, Image.DecompressionBombError):
        return False


def _digest(*facts: object) -> str:
    return hashlib.blake2b("\0".join(map(str, facts)).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _load(stem: Path, *keys: str) -> tuple[Shaped[np.ndarray, " samples"], dict] | None:
    """Return what ``_save`` wrote; None if the files are missing or damaged, or a key of ``keys`` is missing."""
    try:
        facts = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
        empty = facts["samples"] == 0  # an empty file cannot be memory-mapped
        entries = np.empty(0, ENTRY) if empty else np.lib.format.open_memmap(stem.with_suffix(".npy"), mode="r")
        whole = entries.dtype == ENTRY and len(entries) == facts["samples"] and facts.keys() >= set(keys)
        return (entries, facts) if whole else None
    except CACHE_ERRORS:
        return None


def _save(stem: Path, entries: Shaped[np.ndarray, " samples"], facts: dict) -> bool:
    """Write entries and facts to the cache; return False if the folder cannot be written."""
    # Each file is written under a temporary name and renamed, so that readers never see half a file. The JSON file comes last: if it
    # exists, the entries are complete.
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for suffix in (".npy", ".json"):
            with tempfile.NamedTemporaryFile(dir=stem.parent, suffix=".tmp", delete=False) as file:
                if suffix == ".npy":
                    np.save(file, entries)
                else:
                    file.write(json.dumps({**facts, "samples": len(entries)}).encode())
            os.replace(file.name, stem.with_suffix(suffix))
        return True
    except OSError:
        return False
