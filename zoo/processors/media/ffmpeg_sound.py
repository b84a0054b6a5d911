"""Sound of any container through FFmpeg's libraries (PyAV): codecs that libsndfile lacks, and the sound tracks of videos."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from zoo.errors import ItemError
from zoo.processors.media.channels import SILENT, mix
from zoo.processors.media.sound_faults import audio_error, refuse, say_once

# A playlist (HLS, DASH, SDP, concat) in a file called .wav would make FFmpeg open addresses or other files.
NO_NETWORK = {"protocol_whitelist": "pipe"}
BLOCK_SAMPLES = 2**18  # samples of a channel that are mixed at once; a frame has about a thousand
# Exceptions that soundfile and PyAV raise on damaged files, beside their own; found by flipping bytes of intact files.
DECODE_ERRORS = (OSError, ValueError, TypeError, AttributeError, LookupError, OverflowError, MemoryError, RuntimeError)


@contextmanager
def open_with_ffmpeg(
    file: Any, name: str, format: str | None, *, track: int | None = None, otherwise: str | None = None
) -> Iterator[tuple[Any, Iterator[np.ndarray]]]:
    """Open a file; yield the sample rate in Hz of a sound track and an iterator over its blocks of one channel.

    Args:
        format: FFmpeg's name of the format; None lets FFmpeg detect it.
        track: number of the sound track, from 1 on; None takes the first, with a warning if it is silent and another is not.
        otherwise: why libsndfile cannot read the file, for error messages.

    Raises:
        ItemError: PyAV is not installed, the file cannot be read, or it has no such track.
    """
    try:
        import av
    except ImportError as error:
        reason = otherwise or f"the format {format} needs FFmpeg"
        raise audio_error(
            f"{name}: not a recording that libsndfile can read ({reason}); to read more formats: zoo install audio"
        ) from error
    unreadable: tuple[type[Exception], ...] = (av.FFmpegError, *DECODE_ERRORS)  # type: ignore[attr-defined]

    def opened() -> Any:
        file.seek(0)
        return av.open(file, format=format, options=NO_NETWORK)

    try:
        with opened() as container:
            rates = [stream.rate for stream in container.streams.audio]
            streams = len(container.streams)
        number = _chosen(rates, streams, track, name)
        if track is None and len(rates) > 1:
            _warn_of_tracks(opened, len(rates), name)
        container = opened()
    except ItemError:
        raise
    except unreadable as error:
        raise audio_error(f"{name}: not a recording that can be read ({otherwise or error}); convert it to WAV or FLAC") from error
    with container:
        yield rates[number], _blocks(container, number, unreadable, name)


def _chosen(rates: list[Any], streams: int, track: int | None, name: str) -> int:
    if not rates and streams:
        refuse(name, "holds no sound track (a video or pictures without sound); leave it out")
    if not rates:
        refuse(name, "not a recording that can be read; convert it to WAV or FLAC")
    if track is not None and not 1 <= track <= len(rates):
        refuse(name, f"has no sound track {track}; allowed are 1 to {len(rates)}")
    return (track or 1) - 1


def _warn_of_tracks(opened: Any, count: int, name: str) -> None:
    """Log once that a file has several tracks; if the first is silent, name one that is not."""
    first, *others = range(count)
    choose = "--track N or Track(path, N) chooses another"
    if _is_silent(opened, first):
        loud = next((number for number in others if not _is_silent(opened, number)), None)
        if loud is not None:
            say_once(
                f"{name}: has {count} sound tracks, and the first is silent; track {loud + 1} is not: choose it with --track {loud + 1}"
            )
            return
    say_once(f"{name}: has {count} sound tracks; the first is read, {choose}")


def _is_silent(opened: Any, number: int) -> bool:
    """Return True if a track has no sound from its beginning to its end."""
    from av import AudioResampler

    planes = AudioResampler(format="fltp")
    with opened() as container:
        for frame in container.decode(audio=number):
            if any(np.square(plane.to_ndarray()).mean() > SILENT for plane in planes.resample(frame)):
                return False
    return True


def _blocks(container: Any, number: int, unreadable: tuple[type[Exception], ...], name: str) -> Iterator[np.ndarray]:
    from av import AudioResampler

    planes, waiting, count = AudioResampler(format="fltp"), [], 0  # only to float samples; rate and channels stay
    try:
        for frame in container.decode(audio=number):
            for plane in planes.resample(frame):
                values = plane.to_ndarray()  # [channels, samples]
                if waiting and (count >= BLOCK_SAMPLES or len(values) != len(waiting[0])):
                    yield mix(np.concatenate(waiting, axis=1).T, name)
                    waiting, count = [], 0
                waiting.append(values)
                count += values.shape[1]
    except unreadable as error:
        raise audio_error(f"{name}: damaged or cut short ({error}); download it again") from error
    if waiting:
        yield mix(np.concatenate(waiting, axis=1).T, name)
