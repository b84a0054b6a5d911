"""Video files: frames chosen by number or by rate, decoded to upright 8-bit RGB through FFmpeg's libraries (PyAV)."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from zoo.errors import DataError
from zoo.processors.media.ffmpeg_sound import DECODE_ERRORS, NO_NETWORK
from zoo.processors.media.image_file import MAX_PIXELS

VIDEO_SUFFIXES = (".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".webm", ".wmv")
NUM_FRAMES = 8
MOST_FRAMES = 512  # of one video; more pictures than this fill the context of every model


@dataclass(frozen=True)
class Frame:
    """One frame of a video; a tiler makes one tile of it as a whole.

    Attributes:
        pixels: upright RGB values.
        seconds: time in the video.
    """

    pixels: UInt8[Tensor, "3 height width"]
    seconds: float = 0.0


@dataclass(frozen=True)
class Video:
    """Frames of a video, in order.

    Attributes:
        frames: the frames that are shown.
        duration: length of the video in seconds; None if it is not known.
        shown: number of frames of the whole video that are shown, of which these may be a part; None: these are all.
    """

    frames: tuple[Frame, ...]
    duration: float | None = None
    shown: int | None = None

    @property
    def interval(self) -> float:
        """Seconds from one frame to the next, on average."""
        if self.duration is not None:
            return self.duration / len(self.frames)
        return (self.frames[-1].seconds - self.frames[0].seconds) / max(1, len(self.frames) - 1)

    def parts(self, size: int) -> "list[Video]":
        """Return the video in parts of ``size`` frames; the last frame is repeated until the last part has so many.

        Raises:
            DataError: there is no frame.
        """
        if not self.frames:
            raise DataError("a video has no frames; give at least one")
        frames = self.frames + self.frames[-1:] * (-len(self.frames) % size)
        return [Video(frames[start : start + size], shown=len(self.frames)) for start in range(0, len(frames), size)]


def is_video(raw: Any) -> bool:
    """Return True for a ``Video``, and for a path that ends as video files do."""
    return isinstance(raw, Video) or (isinstance(raw, Path) and raw.suffix.lower() in VIDEO_SUFFIXES)


def read_video(path: str | Path, *, frames: int | None = None, rate: float | None = None) -> Video:
    """Decode evenly spread frames of a video file; of a shorter video, all frames.

    With 30 frames and ``frames=4`` these are the frames 0, 7, 15 and 22.

    Args:
        frames: number of frames; None takes 8, or what ``rate`` gives.
        rate: frames per second of the video, instead of a number.

    Raises:
        DataError: the file is missing or not a video, is damaged, or a value is not allowed.
    """
    _refuse_values(frames, rate)
    with _opened(path) as file:
        total, seconds = file.length()
        number = (frames or NUM_FRAMES) if rate is None else max(1, math.floor(seconds * rate + 1e-6))
        if number > MOST_FRAMES:
            raise DataError(f"{path}: {rate} frames per second are {number} frames; allowed are {MOST_FRAMES}: choose a lower rate")
        return Video(tuple(file.read(_spread(total, number))), duration=seconds or None)


def _refuse_values(frames: int | None, rate: float | None) -> None:
    if frames is not None and rate is not None:
        raise DataError(f"frames {frames} and rate {rate}: give one of them")
    if frames is not None and not 1 <= frames <= MOST_FRAMES:
        raise DataError(f"frames: {frames}; allowed is 1 to {MOST_FRAMES}")
    if rate is not None and not 0 < rate < math.inf:
        raise DataError(f"rate: {rate}; allowed is a number of frames per second above 0")


def _spread(total: int, number: int) -> list[int]:
    """Return the places of ``number`` frames among ``total``, as transformers' ``sample_frames``."""
    return list(range(total)) if number >= total else [place * total // number for place in range(number)]


class _File:
    """Video file that PyAV can decode."""

    def __init__(self, file: Any, path: str | Path, library: Any) -> None:
        self.file, self.path, self.library = file, path, library

    def length(self) -> tuple[int, float]:
        """Return the number of frames, and the duration in seconds.

        Packets are counted, because many files do not state a number of frames, or a wrong one.
        """
        with self._stream() as (container, stream):
            size = stream.codec_context.width * stream.codec_context.height
            if size > MAX_PIXELS:
                raise DataError(f"{self.path}: has frames of {size} pixels; allowed are {MAX_PIXELS}")
            total = sum(packet.size > 0 for packet in container.demux(stream))
            rate = stream.average_rate or stream.guessed_rate
        if not total:
            raise DataError(f"{self.path}: holds no frame; download it again")
        return total, total / float(rate) if rate else 0.0

    def read(self, places: list[int]) -> list[Frame]:
        """Return the frames at these places, in rising order; places behind the last frame are left out."""
        wanted, found = set(places), []
        with self._stream() as (container, stream):
            stream.thread_type = "AUTO"
            for place, frame in enumerate(container.decode(stream)):
                if place in wanted:
                    pixels = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)  # [3, H, W]
                    found.append(Frame(torch.rot90(pixels, round(frame.rotation / 90), (1, 2)), float(frame.time or 0.0)))
                if place >= places[-1]:
                    break
        if not found:
            raise DataError(f"{self.path}: none of its frames can be decoded; download it again")
        return found

    @contextmanager
    def _stream(self) -> Iterator[tuple[Any, Any]]:
        self.file.seek(0)
        with self.library.open(self.file, options=NO_NETWORK) as container:
            if not container.streams.video:
                raise DataError(f"{self.path}: holds no pictures (a recording of sound?); give a video, or use it as audio")
            yield container, container.streams.video[0]


@contextmanager
def _opened(path: str | Path) -> Iterator[_File]:
    try:
        import av
    except ImportError as error:
        raise DataError(f"{path}: reading videos needs PyAV; run: zoo install audio") from error
    unreadable: tuple[type[Exception], ...] = (av.FFmpegError, *DECODE_ERRORS)  # type: ignore[attr-defined]
    try:
        with Path(path).open("rb") as file:
            yield _File(file, path, av)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; check the path") from error
    except unreadable as error:
        raise DataError(f"{path}: not a video that can be read, or damaged ({error}); convert it to MP4, or download it again") from error
