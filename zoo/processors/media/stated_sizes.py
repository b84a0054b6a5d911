"""Sizes that headers state, against what the file holds: whole, sloppy or cut short.

A program that writes to a pipe cannot go back to its header, so it leaves 0 or a placeholder there; others count a few bytes too many.
Such a file is read up to its end, with one warning. A file that lacks a real part of what its header states was cut short.
"""

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zoo.processors.media.sound_faults import refuse, say_once
from zoo.processors.media.sound_kinds import W64

STREAMED = 0x7FFFF000  # sizes from here on are placeholders, up to 2 ** 63
# A stated size above half a gigabyte and so many times the file is a placeholder as well: no download stops as early as this.
LARGE, FAR = 2**29, 16
FEW = 64  # bytes too many that are no cut
# Chunks of WAV files besides the samples.
CHUNKS = frozenset(
    (b"fmt ", b"data", b"fact", b"LIST", b"JUNK", b"junk", b"PAD ", b"FLLR", b"bext", b"ds64", b"cue ", b"plst", b"smpl", b"inst")
    + (b"id3 ", b"ID3 ", b"iXML", b"aXML", b"axml", b"chna", b"cart", b"PEAK", b"acid", b"umid", b"afsp", b"_PMX", b"DISP", b"slnt")
    + (b"MD5 ", b"dbmd", b"r64m")
)
WRAP = 2**32  # a file of more than 4 GB states the rest of this division in its 32 bits


@dataclass(frozen=True)
class Part:
    """A recording within a file: the bytes from ``start`` to ``stop``, perhaps behind another header."""

    start: int
    stop: int
    header: bytes = b""


def refuse_cut(stated: int, held: int, name: str, *, slack: int = FEW) -> bool:
    """Return True if a stated size is sloppy, which is logged once; False if it is right.

    Args:
        stated: bytes according to the header.
        held: bytes in the file.
        slack: more bytes that are no cut.

    Raises:
        ItemError: the file is cut short.
    """
    if stated <= held:
        return False
    if stated >= STREAMED or (stated >= LARGE and stated > FAR * held):
        say_once(f"{name}: its header states a placeholder of {stated} bytes; the {held} bytes that are there are read")
    elif stated - held <= FEW or stated - held == slack:
        say_once(f"{name}: its header states {stated} bytes, {stated - held} too many; the {held} bytes that are there are read")
    else:
        refuse(name, f"cut short: its header states {stated} bytes of audio, the file holds {held}; download it again")
    return True


def wav_parts(file: Any, size: int, name: str) -> list[Part] | None:
    """Return the recordings of a WAV file (RIFF, RIFX, RF64 or BW64), joined ones too, with a corrected header where it is wrong.

    Joined AIFF files are cut as well. None leaves the file to the decoder: it is right as it is, or of another kind.

    Raises:
        ItemError: the file is cut short.
    """
    found, start = [], 0
    while (part := _wav_part(file, start, size, name) or _form_part(file, start, size)) is not None:
        found.append(part)
        start = part.stop
    return found if len(found) > 1 or (found and found[0].header) else None


def _wav_part(file: Any, start: int, size: int, name: str) -> Part | None:
    """Return the recording whose header begins at ``start``; None if there is none."""
    file.seek(start)
    head = file.read(12)
    if head[:4] not in (b"RIFF", b"RIFX", b"RF64", b"BW64") or head[8:12] != b"WAVE":
        return None
    order = ">" if head[:4] == b"RIFX" else "<"
    layout = _chunks(file, start + 12, size, order)
    if layout is None:
        return None
    fmt, offset, stated, unpadded = layout
    held = size - offset
    taken, sloppy = _taken(file, offset, stated, held, name, order)
    stop = offset + taken
    if sloppy or unpadded or head[:4] == b"BW64" or start:
        return Part(offset, stop, _header(fmt, taken, order))
    return Part(start, stop)


def _form_part(file: Any, start: int, size: int) -> Part | None:
    """Return the AIFF recording that begins at ``start``; None if there is none."""
    file.seek(start)
    head = file.read(12)
    if head[:4] != b"FORM" or head[8:] not in (b"AIFF", b"AIFC"):
        return None
    length = struct.unpack(">I", head[4:8])[0]
    return Part(start, min(size, start + 8 + length + length % 2))


def _chunks(file: Any, place: int, size: int, order: str) -> tuple[bytes, int, int, bool] | None:
    """Return the format chunk, the offset and the stated size of the samples, and True if a chunk lacks its byte of padding."""
    fmt, large, unpadded = b"", None, False
    while place + 8 <= size:
        file.seek(place)
        word, length = struct.unpack(f"{order}4sI", file.read(8))
        place += 8
        if word == b"data":
            return (fmt, place, large if large is not None and length == WRAP - 1 else length, unpadded) if fmt else None
        if word == b"fmt ":
            fmt = file.read(min(length, 2**16))
        elif word == b"ds64" and length >= 16:
            large = struct.unpack("<QQ", file.read(16))[1]
        place += length
        if length % 2:  # a byte of padding follows, which sloppy writers forget
            file.seek(place)
            unpadded |= (missing := file.read(4) in CHUNKS)
            place += not missing
    return None


def _taken(file: Any, offset: int, stated: int, held: int, name: str, order: str) -> tuple[int, bool]:
    """Return the number of bytes of samples, and True if the header states another one."""
    if stated > held:
        return held, refuse_cut(stated, held, name, slack=offset if stated - held == offset else offset - 8)
    file.seek(offset + stated + stated % 2)
    after = file.read(12)
    if stated == 0 and held and not _goes_on(after, order, held):
        say_once(f"{name}: its header states 0 bytes of audio; the {held} bytes that follow are read")
        return held, True
    if held - stated >= WRAP and (held - stated) % WRAP <= FEW:
        say_once(f"{name}: its header states {stated} bytes, {WRAP} too few; the {held} bytes that are there are read")
        return held, True
    if held - stated > FEW and not _goes_on(after, order, held) and after[:4] not in (b"RIFF", b"RIFX", b"RF64", b"BW64"):
        say_once(f"{name}: {held - stated} bytes after the audio that its header states are not read")
    return stated, False


def _goes_on(after: bytes, order: str, held: int) -> bool:
    """Return True if a chunk follows."""
    return len(after) >= 8 and after[:4] in CHUNKS and struct.unpack(f"{order}I", after[4:8])[0] <= held


def _header(fmt: bytes, taken: int, order: str) -> bytes:
    """Return a header of WAV with the format and the number of bytes of the samples; RF64 if 32 bits do not hold it."""
    chunk = struct.pack(f"{order}4sI", b"fmt ", len(fmt)) + fmt + b"\0" * (len(fmt) % 2)
    if taken + len(chunk) + 20 < WRAP:
        word = b"RIFX" if order == ">" else b"RIFF"
        return struct.pack(f"{order}4sI", word, taken + len(chunk) + 12) + b"WAVE" + chunk + struct.pack(f"{order}4sI", b"data", taken)
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, taken + len(chunk) + 48, taken, 0, 0)
    return struct.pack("<4sI", b"RF64", WRAP - 1) + b"WAVE" + sizes + chunk + struct.pack("<4sI", b"data", WRAP - 1)


def _end_of_form(file: Any) -> int:
    file.seek(4)
    return struct.unpack(">I", file.read(4))[0] + 8


def _end_of_caf(file: Any) -> int:
    place = 8
    while True:
        file.seek(place)
        head = file.read(12)
        if len(head) < 12:
            return 0
        word, length = struct.unpack(">4sq", head)
        if word == b"data" or length < 0:  # -1: the data reach to the end of the file
            return place + 12 + length if length >= 0 else 0
        place += 12 + length


def _end_of_au(file: Any) -> int:
    file.seek(4)
    offset, length = struct.unpack(">II", file.read(8))
    return 0 if length == WRAP - 1 else offset + length  # all ones: the size is not known, which is allowed


def _end_of_w64(file: Any) -> int:
    file.seek(16)
    return struct.unpack("<Q", file.read(8))[0]


_ENDS: dict[bytes, Callable[[Any], int]] = {b"FORM": _end_of_form, b".snd": _end_of_au, b"caff": _end_of_caf, W64: _end_of_w64}


def refuse_cut_short(file: Any, size: int, name: str) -> None:
    """Raise ItemError if an AIFF, AU, W64 or Ogg file ends before the end that it states; libsndfile reads it without a word."""
    file.seek(0)
    head = file.read(16)
    for word, end in _ENDS.items():
        if head.startswith(word) and size >= 24:
            refuse_cut(end(file), size, name)
    if head[:4] == b"OggS":
        file.seek(max(0, size - 2**17))  # a page has at most 65,307 bytes
        if not _ends_with_last_page(file.read()):
            refuse(name, "cut short: the last Ogg page, which ends the stream, is missing; download it again")
    file.seek(0, os.SEEK_SET)


def _ends_with_last_page(data: bytes) -> bool:
    """Return True if the last Ogg page in the data is complete and marked as end of stream. Source: RFC 3533, section 6."""
    page = data[max(0, data.rfind(b"OggS")) :]
    return len(page) > 27 and bool(page[5] & 4) and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])
