"""Samples in tar files: where each lies, and its members read again.

A sample is a run of members whose names share everything before the first dot (``000000012.jpg 000000012.txt 000000012.json``), which
is webdataset's convention (its ``tariterators.py``: names without a dot and names ``__like_this__`` are no part of samples, suffixes
are lower case). Format: POSIX.1-1988 ustar, pax extended headers (which webdataset's own writer puts before each member) and GNU long
names.
"""

import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import DataError, ItemError

BLOCK = 512
CHUNK = 8192  # bytes read around a header: the small members of a sample and the next one's header mostly lie in it
MOST_OPEN = 64  # files at once
ZEROS = bytes(BLOCK)
REGULAR, EXTENDED = b"0\0" + b"7", b"xgLK"  # type flags: plain files; headers that say more of the next member
_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
_META = re.compile(r"__[^/]*__($|/)")
Read = Callable[[int, int], bytes]  # offset and number of bytes; gives fewer at the end


class TarFault(ItemError):
    """A tar file that is cut short or damaged; ``member`` is the name of the member concerned, where it is known."""

    def __init__(self, message: str, member: str = "") -> None:
        super().__init__(message, "shard")
        self.member = member


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a sample: it fills ``begin`` to ``end`` with its headers, its content is ``size`` bytes from ``offset``."""

    key: str
    suffix: str
    begin: int
    offset: int
    size: int
    end: int


def walk(read: Read, start: int, stop: int, *, trusted: bool = False) -> Iterator[Member]:
    """The members of samples from one offset to another, by their headers.

    Args:
        trusted: a part of a file that was walked before: checksums are not held against the headers again, and no end mark is
            expected.

    Raises:
        TarFault: a header is damaged, a member reaches beyond ``stop``, or the blocks of zeros that end a tar file are missing.
    """
    position = begin = start
    more: dict[str, str] = {}
    while position < stop:
        header = read(position, BLOCK)
        if header == ZEROS:
            return
        size = _size(header, position, trusted)
        kind, offset = header[156:157], position + BLOCK
        name = more.get("path") or _name(header)
        size = int(more.get("size", size)) if kind in REGULAR else size
        position = offset + -(-size // BLOCK) * BLOCK
        if offset + size > stop:
            raise TarFault(f"cut short: {name!r} at byte {offset} has {size} bytes, and {max(0, stop - offset)} are there", name)
        if kind in EXTENDED:
            more |= _extension(kind, read(offset, size))
            continue
        found = _NAME.fullmatch(name)
        if kind in REGULAR and found and not _META.match(name):
            yield Member(found[1], found[2].lower(), begin, offset, size, position)
        more, begin = {}, position
    if not trusted:
        raise TarFault(f"cut short at byte {stop}: the zeros that end a tar file are missing")


def _size(header: bytes, position: int, trusted: bool = False) -> int:
    """The size that a header gives; its checksum is held against its bytes."""
    if len(header) < BLOCK:
        raise TarFault(f"cut short at byte {position + len(header)}, in a header")
    try:
        if not trusted and _octal(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
            raise ValueError("checksum")
        if header[124] & 0x80:  # GNU: base 256, for files from 8 GiB
            return int.from_bytes(header[125:136], "big")
        return _octal(header[124:136])
    except ValueError as error:
        raise TarFault(f"damaged at byte {position}: there is no tar header") from error


def _octal(field: bytes) -> int:
    return int(field.strip(b" \0") or b"0", 8)


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    if header[257:263] == b"ustar\0" and (prefix := header[345:500].partition(b"\0")[0]):
        name = prefix + b"/" + name
    return name.decode("utf-8", "surrogateescape")


def _extension(kind: bytes, content: bytes) -> dict[str, str]:
    """What a header says of the member after it: ``{"path": ..., "size": ...}``."""
    if kind == b"L":
        return {"path": content.partition(b"\0")[0].decode("utf-8", "surrogateescape")}
    told: dict[str, str] = {}
    while kind == b"x" and (found := re.match(rb"(\d+) ([^=]+)=", content)):  # "LENGTH KEY=VALUE\n", the length of all of it
        length = int(found[1])
        value = content[found.end() : length - 1].decode("utf-8", "surrogateescape")
        told[found[2].decode("utf-8", "replace")] = value
        content = content[max(length, found.end()) :]
    return {key: value for key, value in told.items() if key == "path" or (key == "size" and value.isdecimal())}


def samples(read: Read, size: int) -> Iterator[list[Member]]:
    """The members of each whole sample of a file of so many bytes.

    Raises:
        TarFault: after the samples before the fault; a last one that it cuts, or may have cut, is not given.
    """
    group: list[Member] = []
    try:
        for member in walk(read, 0, size):
            if group and member.key != group[0].key:
                yield group
                group = []
            group.append(member)
    except TarFault as fault:
        found = _NAME.fullmatch(fault.member)
        if group and found is not None and found[1] != group[0].key:
            yield group
        raise
    if group:
        yield group


def buffered(file: int, size: int) -> Read:
    """Read a file front to back in small steps, by few calls."""
    kept, at = b"", 0

    def read(offset: int, count: int) -> bytes:
        nonlocal kept, at
        if not at <= offset <= offset + count <= at + len(kept):
            kept, at = os.pread(file, max(count, CHUNK), offset), offset
        return kept[offset - at : offset - at + count]

    return read


class ShardFiles:
    """Open shards, the last used ones; picklable, so that workers can hold it.

    Args:
        stamps: size and time of change (nanoseconds) of each file as it was indexed.
    """

    def __init__(self, paths: Sequence[Path], stamps: Sequence[tuple[int, int]]) -> None:
        self.paths, self.stamps = list(paths), list(stamps)
        self._open: OrderedDict[int, int] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": OrderedDict()}

    def __del__(self) -> None:
        for file in self._open.values():
            os.close(file)

    def read(self, shard: int, offset: int, count: int) -> bytes:
        """Bytes of a shard.

        Raises:
            ItemError: the file is gone or is not what was indexed.
        """
        try:
            return os.pread(self._file(shard), count, offset)
        except OSError as error:
            raise ItemError(f"{self.paths[shard]}: cannot be read ({error.strerror})", "shard") from error

    def _file(self, shard: int) -> int:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        file = os.open(self.paths[shard], os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        self._open[shard] = file
        if stamp(os.fstat(file)) != self.stamps[shard]:
            raise ItemError(f"{self.paths[shard]}: has changed since the run began; start it again", "shard")
        if len(self._open) > MOST_OPEN:
            os.close(self._open.popitem(last=False)[1])
        return file


def stamp(status: os.stat_result) -> tuple[int, int]:
    """What tells whether a file is still the same: size and time of change in nanoseconds."""
    return status.st_size, status.st_mtime_ns


def refuse_no_tar(path: Path, key: str) -> None:
    """Raise DataError for a path, given by a config key, that is plainly no tar file to be read at any place."""
    if path.is_dir():
        raise DataError(f"{key}: {path} is a folder, where tar files are expected; give a pattern, {path}/*.tar")
    if not path.is_file():
        what = "not a regular file" if path.exists() else "no such file"
        raise DataError(f"{key}: {path}: {what}; check the path (the current folder is {Path.cwd()})")
    with path.open("rb") as file:
        start = file.read(BLOCK)
    if not start:
        raise DataError(f"{key}: {path}: the file is empty (0 bytes); download it again, or leave it out")
    packed = next(
        (kind for magic, kind in ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz")) if start.startswith(magic)), None
    )
    if packed is not None:
        raise DataError(f"{key}: {path}: packed with {packed}; samples are read at any place of a file, so unpack it first")
    try:
        if start != ZEROS:
            _size(start, 0)
    except TarFault as fault:
        raise DataError(f"{key}: {path}: not a tar file ({fault}); give shards as img2dataset or webdataset write them") from fault
