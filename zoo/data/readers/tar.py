"""Reader of samples in tar files with random access: offsets of samples and members, and their bytes.

A sample is a run of adjacent members whose names are equal up to the first dot (``000000012.jpg 000000012.txt 000000012.json``). This is
webdataset's convention (its ``tariterators.py``): names without a dot and names ``__like_this__`` do not belong to samples, and suffixes
are converted to lower case. Format: POSIX.1-1988 ustar, pax extended headers (which webdataset's own writer puts before each member) and
GNU long names.
"""

import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from zoo.errors import DataError, ItemError
from zoo.storage import remote

BLOCK = 512
CHUNK = 8192  # bytes per read; usually covers the small members of a sample and the header of the next one
REMOTE_CHUNK = 2**20  # bytes per request: one holds many small samples, and skips a large member
MOST_OPEN = 64  # open files at a time, well below the usual limit of 1024 per process
ZEROS = bytes(BLOCK)
REGULAR, EXTENDED = b"0\0" + b"7", b"xgLK"  # type flags: regular files; extension headers that describe the next member
_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
_META = re.compile(r"__[^/]*__($|/)")
Place = Path | str  # of a shard: a path of this disk, or a URL
unreadable = partial(ItemError, reason="shard")
Read = Callable[[int, int], bytes]  # (offset, number of bytes) -> bytes; fewer at the end of the file


class TarFault(ItemError):
    """Error for a truncated or damaged tar file; ``member`` is the name of the affected member, or empty if it is not known."""

    def __init__(self, message: str, member: str = "") -> None:
        super().__init__(message, "shard")
        self.member = member


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a sample; all positions are byte offsets in the file.

    Attributes:
        key: name of the sample: the path up to the first dot of the file name.
        suffix: rest of the file name after that dot, in lower case.
        begin: first byte of its headers.
        offset: first byte of its content.
        size: bytes of its content.
        end: first byte after its content and padding.
    """

    key: str
    suffix: str
    begin: int
    offset: int
    size: int
    end: int


def walk(read: Read, start: int, stop: int, *, trusted: bool = False) -> Iterator[Member]:
    """Yield the members of samples between two offsets by reading their headers.

    Args:
        start: byte offset of the first header.
        stop: byte offset at which to stop.
        trusted: the range is part of a file that was checked before: skip the checksums, and expect no zero blocks at the end.

    Raises:
        TarFault: a header is damaged, a member extends beyond ``stop``, or the zero blocks that end a tar file are missing.
    """
    position = begin = start
    more: dict[str, str] = {}  # path and size from extension headers, for the next member
    while position < stop:
        header = read(position, BLOCK)
        if header == ZEROS:
            return
        size = _size(header, position, trusted)
        kind, offset = header[156:157], position + BLOCK
        name = more.get("path") or _name(header)
        size = int(more.get("size", size)) if kind in REGULAR else size
        position = offset + -(-size // BLOCK) * BLOCK  # content is padded to whole blocks
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
    """Return the content size in bytes that a header gives, after checking its checksum.

    Raises:
        TarFault: the header is truncated, or is not a tar header.
    """
    if len(header) < BLOCK:
        raise TarFault(f"cut short at byte {position + len(header)}, in a header")
    try:
        # The checksum field itself (bytes 148 to 155) counts as eight spaces.
        if not trusted and _octal(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
            raise ValueError("checksum")
        if header[124] & 0x80:  # GNU extension: size in base 256, for files of 8 GiB and more
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
    """Parse an extension header: path and size of the next member, ``{"path": ..., "size": ...}``."""
    if kind == b"L":  # GNU long name
        return {"path": content.partition(b"\0")[0].decode("utf-8", "surrogateescape")}
    records: dict[str, str] = {}
    while kind == b"x" and (found := re.match(rb"(\d+) ([^=]+)=", content)):  # "LENGTH KEY=VALUE\n"; LENGTH counts the whole record
        length = int(found[1])
        value = content[found.end() : length - 1].decode("utf-8", "surrogateescape")
        records[found[2].decode("utf-8", "replace")] = value
        content = content[max(length, found.end()) :]  # max: a damaged record with a short LENGTH must not loop for ever
    return {key: value for key, value in records.items() if key == "path" or (key == "size" and value.isdecimal())}


def samples(read: Read, size: int) -> Iterator[list[Member]]:
    """Yield the members of each complete sample of a file.

    Args:
        size: bytes of the file.

    Raises:
        TarFault: the file is truncated or damaged. It is raised after the complete samples before the fault; a last sample that may be
            incomplete is not yielded.
    """
    group: list[Member] = []
    try:
        for member in walk(read, 0, size):
            if group and member.key != group[0].key:
                yield group
                group = []
            group.append(member)
    except TarFault as fault:
        # The last sample is complete only if the damaged member is known to belong to another sample.
        found = _NAME.fullmatch(fault.member)
        if group and found is not None and found[1] != group[0].key:
            yield group
        raise
    if group:
        yield group


def buffered(file: int | str, size: int) -> Read:
    """Return a reader for small sequential reads that calls the system once per ``CHUNK`` bytes, or a server per ``REMOTE_CHUNK``.

    Args:
        file: file descriptor, or URL.
        size: bytes of the file.
    """
    kept, at = b"", 0

    def read(offset: int, count: int) -> bytes:
        nonlocal kept, at
        if not at <= offset <= offset + count <= at + len(kept):
            if isinstance(file, str):
                wished = min(max(count, REMOTE_CHUNK), max(0, size - offset))
                kept, at = remote.read_range(file, offset, wished), offset
            else:
                kept, at = os.pread(file, max(count, CHUNK), offset), offset
        return kept[offset - at : offset - at + count]

    return read


class ShardFiles:
    """Shard files with random access; the most recently used ones of this disk stay open, remote ones are read in ranges.

    Pickling drops the open files, so that the object can be sent to worker processes.

    Args:
        paths: paths of this disk, and URLs as strings.
        stamps: size in bytes and modification time in nanoseconds of each file at indexing time.
    """

    def __init__(self, paths: Sequence[Place], stamps: Sequence[tuple[int, int]]) -> None:
        self.paths, self.stamps = list(paths), list(stamps)
        self._open: OrderedDict[int, int] = OrderedDict()
        self._checked: set[int] = set()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": OrderedDict(), "_checked": set()}

    def __del__(self) -> None:
        for file in self._open.values():
            os.close(file)

    def read(self, shard: int, offset: int, count: int) -> bytes:
        """Read ``count`` bytes of a shard from a byte offset.

        Raises:
            ItemError: the file cannot be read, or has changed since it was indexed.
        """
        place = self.paths[shard]
        if isinstance(place, str):
            self._check_remote(shard, place)
            return remote.read_range(place, offset, count, unreadable)
        try:
            return os.pread(self._file(shard, place), count, offset)
        except OSError as error:
            raise ItemError(f"{self.paths[shard]}: cannot be read ({error.strerror})", "shard") from error

    def _check_remote(self, shard: int, url: str) -> None:
        """Look once per process whether a remote shard is the one that was indexed."""
        if shard not in self._checked:
            if remote.stamp_of(url, unreadable) != self.stamps[shard]:
                raise ItemError(f"{url}: has changed since the run began; start it again", "shard")
            self._checked.add(shard)

    def _file(self, shard: int, path: Path) -> int:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        file = os.open(path, os.O_RDONLY)
        self._open[shard] = file
        if stamp(os.fstat(file)) != self.stamps[shard]:
            raise ItemError(f"{path}: has changed since the run began; start it again", "shard")
        if len(self._open) > MOST_OPEN:
            os.close(self._open.popitem(last=False)[1])
        return file


def stamp(status: os.stat_result) -> tuple[int, int]:
    """Return size in bytes and modification time in nanoseconds, to detect that a file has changed."""
    return status.st_size, status.st_mtime_ns


def refuse_no_tar(path: Place, key: str) -> None:
    """Raise DataError unless a path or URL is an uncompressed tar file, as random access needs.

    Args:
        key: config key that gave the path, for the message.
    """
    if isinstance(path, str):
        size, _ = remote.stamp_of(path)
        _refuse_start(remote.read_range(path, 0, min(size, BLOCK)), path, key)
        return
    if path.is_dir():
        raise DataError(f"{key}: {path} is a folder, where tar files are expected; give a pattern, {path}/*.tar")
    if not path.is_file():
        what = "not a regular file" if path.exists() else "no such file"
        raise DataError(f"{key}: {path}: {what}; check the path (the current folder is {Path.cwd()})")
    with path.open("rb") as file:
        _refuse_start(file.read(BLOCK), path, key)


def _refuse_start(start: bytes, path: Place, key: str) -> None:
    """Raise DataError unless the first bytes of a file are those of an uncompressed tar file."""
    if not start:
        raise DataError(f"{key}: {path}: the file is empty (0 bytes); download it again, or leave it out")
    packed = next(
        (kind for magic, kind in ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz")) if start.startswith(magic)), None
    )
    if packed is not None:
        raise DataError(f"{key}: {path}: compressed with {packed}; shards need random access, so decompress it first")
    try:
        if start != ZEROS:
            _size(start, 0)
    except TarFault as fault:
        raise DataError(f"{key}: {path}: not a tar file ({fault}); give shards as img2dataset or webdataset write them") from fault
