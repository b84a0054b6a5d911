"""Recordings that were joined by appending one file to another (``cat a.mp3 b.mp3``), which decoders read up to the end of the first.

WAV and AIFF files state their sizes, see ``stated_sizes``. In MP3, FLAC and Ogg files, the beginning of a further recording is searched.
"""

import io
import mmap
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from zoo.processors.media.sound_kinds import HEAD, is_sound
from zoo.processors.media.stated_sizes import Part, wav_parts

# The first frame of an MP3 holds a table "Xing" or "Info" behind its header and side information (13, 21 or 36 bytes, by version and
# channels), or "VBRI" after 36 bytes. It states the length of its own recording, after which a decoder stops.
_MP3 = re.compile(rb"\xff[\xe2-\xff].{2}(?:.{9}(?:Xing|Info)|.{17}(?:Xing|Info)|.{32}(?:Xing|Info|VBRI))", re.DOTALL)
_FLAC = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")  # the marker and the first block, STREAMINFO of 34 bytes
_OGG = re.compile(rb"OggS\x00[\x02\x03\x06]")  # a page that begins a stream
LONGEST_FRAME = 2881  # bytes of a frame of MP3, rounded up


def parts_of(file: Any, size: int, name: str) -> list[Part] | None:
    """Return the recordings of a file if there are several, or if the header of the only one has to be replaced; None if not.

    Raises:
        ItemError: a WAV file is cut short.
    """
    file.seek(0)
    head = file.read(4)
    pattern = {b"fLaC": _FLAC, b"OggS": _OGG}.get(head, _MP3 if head[:3] == b"ID3" or head[:1] == b"\xff" else None)
    if pattern is None:
        return wav_parts(file, size, name)
    with _all_bytes(file) as data:
        starts = _mp3_beginnings(data, size) if pattern is _MP3 else _beginnings(data, pattern)
    if not starts:
        return None
    borders = [0, *starts, size]
    return [Part(start, stop) for start, stop in zip(borders, borders[1:], strict=False)]


def _beginnings(data: Any, pattern: re.Pattern[bytes]) -> list[int]:
    """Return the places where a further recording begins."""
    found = [match.start() for match in pattern.finditer(data)]
    if pattern is _OGG:
        # Streams side by side (a film's) begin with one page each in a row: only the first of the row begins a recording.
        found = [place for n, place in enumerate(found) if not n or data[found[n - 1] + 4 : place].find(b"OggS") != -1]
    return found[1:]


def _mp3_beginnings(data: Any, size: int) -> list[int]:
    """Return the places where a further MP3 begins: at a table, or after the length that the table before it states."""
    head = data[:10]
    # The size of a tag has seven bits in each byte. A table that does not follow it at once belongs to another recording than the first.
    tag = 10 + sum((byte & 127) << 7 * (3 - n) for n, byte in enumerate(head[6:10])) if head[:3] == b"ID3" else 0
    tables = [(match.start(), match.end()) for match in _MP3.finditer(data)]
    starts = {start for number, (start, _) in enumerate(tables) if number or data[tag:start].strip(b"\0")}
    for number, (start, end) in enumerate(tables):
        stop = tables[number + 1][0] if number + 1 < len(tables) else size
        flags, *sizes = struct.unpack(">III", data[end : end + 12].ljust(12, b"\0"))
        length = sizes[flags & 1] if flags & 2 and data[end - 4 : end] != b"VBRI" else 0  # behind the number of frames, if that is there
        after = start + length
        if length and after + LONGEST_FRAME < stop and is_sound(data[after : after + HEAD]):
            starts.add(after)
    return sorted(starts)


@contextmanager
def _all_bytes(file: Any) -> Iterator[Any]:
    """Yield all bytes of a file: as they are if they are in memory, else mapped into it."""
    if isinstance(file, io.BytesIO):
        yield file.getvalue()
        return
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


class PartFile(io.RawIOBase):
    """One recording of a file as a file: its header, then the bytes from ``start`` to ``stop``."""

    def __init__(self, file: Any, part: Part) -> None:
        super().__init__()
        self.file, self.part, self.place = file, part, 0
        self.size = len(part.header) + part.stop - part.start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self.place = max(0, offset + (0, self.place, self.size)[whence])  # damaged headers lead to before the beginning
        return self.place

    def readinto(self, buffer: Any, /) -> int:
        view, header = memoryview(buffer).cast("B"), self.part.header
        if self.place < len(header):
            data = header[self.place : self.place + len(view)]
        else:
            self.file.seek(self.part.start + self.place - len(header))
            data = self.file.read(max(0, min(len(view), self.size - self.place)))
        view[: len(data)] = data
        self.place += len(data)
        return len(data)
