"""The index of tar shards: offset and size of every sample, made once and kept in the cache."""

import hashlib
import io
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int, Shaped
from PIL import Image

from zoo.data.readers import tar
from zoo.errors import DataError
from zoo.processors.media.image_file import DECODE_ERRORS, IMAGE_SUFFIXES
from zoo.storage.places import cache_directory

ENTRY = np.dtype([("offset", "<u8"), ("size", "<u4")])  # 12 bytes a sample
VERSION = 1  # of the files in the cache
PARALLEL_FROM = 16  # shards to be read; fewer are read in this process
CACHE_ERRORS = (OSError, ValueError, KeyError, EOFError)  # of a file there that is cut or not ours: it is made again


@dataclass(frozen=True)
class Shard:
    """One shard as read: its samples, what is wrong with it, and how many pictures were too small."""

    entries: Shaped[np.ndarray, " samples"]
    fault: str | None
    small: int


@dataclass(frozen=True)
class Index:
    """All shards of a split.

    Attributes:
        entries: of all shards one after another, mapped from the cache's file, so that processes share it.
        sizes: samples of each shard.
        faults: shards that are cut short, damaged or empty, with what is wrong.
        small: samples left out as their pictures are too small.
    """

    entries: Shaped[np.ndarray, " samples"]
    sizes: Int[np.ndarray, " shards"]
    stamps: list[tuple[int, int]]
    faults: list[str]
    small: int


def index_shards(paths: Sequence[Path], *, min_size: int = 0, directory: str | Path | None = None) -> Index:
    """Index shards, from the cache where they have not changed.

    Args:
        min_size: pixels that the shorter side of a sample's first picture needs; 0 looks into no picture.
        directory: where indexes are kept; None: ``shards`` in the cache of ``zoo fetch``.
    """
    folder = Path(directory) if directory is not None else cache_directory() / "shards"
    stamps = [tar.stamp(os.stat(path)) for path in paths]
    names = [_digest(VERSION, os.path.abspath(path), *stamp, min_size) for path, stamp in zip(paths, stamps, strict=True)]
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
            found = _load(whole) or found  # mapped
    entries, facts = found
    return Index(entries, np.array(facts["sizes"], dtype=np.int64), stamps, facts["faults"], facts["small"])


def _shards(paths: Sequence[Path], kept: Sequence[Path], min_size: int) -> Iterator[Shard]:
    """Each shard from the cache, or read and put there; many in several processes, with a bar on a terminal."""
    missing = [i for i, file in enumerate(kept) if not file.with_suffix(".json").exists()]
    work = partial(_cached, min_size=min_size)
    if len(missing) < PARALLEL_FROM:
        yield from map(work, paths, kept)
        return
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if not console.is_terminal:
        print(f"indexing {len(missing)} shards, once; kept in {kept[0].parent}", file=sys.stderr, flush=True)
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(missing)), mp_context=multiprocessing.get_context()) as pool:
        found = pool.map(work, paths, kept, chunksize=4)
        yield from track(found, "index shards", total=len(paths), console=console, disable=not console.is_terminal, transient=True)


def _cached(path: Path, kept: Path, *, min_size: int) -> Shard:
    if (found := _load(kept, "fault", "small")) is not None:
        return Shard(np.array(found[0]), found[1]["fault"], found[1]["small"])
    shard = read_shard(path, min_size=min_size)
    _save(kept, shard.entries, {"fault": shard.fault, "small": shard.small})
    return shard


def read_shard(path: Path, *, min_size: int = 0) -> Shard:
    """Find the samples of one shard by its headers.

    Raises:
        DataError: a sample of 4 GiB or more.
    """
    spans: list[tuple[int, int]] = []
    fault, small = None, 0
    file = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(file).st_size
        try:
            for members in tar.samples(tar.buffered(file, size), size):
                if min_size and _is_small(file, members, min_size):
                    small += 1
                    continue
                spans.append((members[0].begin, members[-1].end - members[0].begin))
        except tar.TarFault as error:
            fault = str(error)
    finally:
        os.close(file)
    if max((span for _, span in spans), default=0) >= 2**32:
        raise DataError(f"data.source: {path}: holds a sample of 4 GiB or more; a sample is a picture with its texts")
    if fault is None and not spans and not small:
        fault = "holds no samples"
    return Shard(np.array(spans, dtype=ENTRY), fault, small)


def is_image(suffix: str) -> bool:
    """Whether a member is a picture: ``jpg``, and ``input.jpg`` too."""
    return "." + suffix.rpartition(".")[2] in IMAGE_SUFFIXES


def _is_small(file: int, members: Sequence[tar.Member], min_size: int) -> bool:
    """Whether the sample's picture says that it is too small; one that cannot be read says nothing, and is met when it is drawn."""
    member = next((member for member in members if is_image(member.suffix)), None)
    if member is None:
        return False
    try:
        with Image.open(io.BytesIO(os.pread(file, member.size, member.offset))) as image:
            return min(image.size) < min_size
    except (*DECODE_ERRORS, Image.DecompressionBombError):
        return False


def _digest(*facts: object) -> str:
    return hashlib.blake2b("\0".join(map(str, facts)).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _load(stem: Path, *keys: str) -> tuple[Shaped[np.ndarray, " samples"], dict] | None:
    """What ``_save`` wrote, facts of these keys among it; None where there is nothing, or nothing whole."""
    try:
        facts = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
        empty = facts["samples"] == 0  # which cannot be mapped
        entries = np.empty(0, ENTRY) if empty else np.load(stem.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
        whole = entries.dtype == ENTRY and len(entries) == facts["samples"] and facts.keys() >= set(keys)
        return (entries, facts) if whole else None
    except CACHE_ERRORS:
        return None


def _save(stem: Path, entries: Shaped[np.ndarray, " samples"], facts: dict) -> bool:
    """Keep entries and facts, each file as a whole, the facts last; False where the folder cannot be written."""
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
