"""Recordings to one channel of float samples: the whole file, its beginning, or block by block in bounded memory.

libsndfile (soundfile) reads WAV, FLAC, Ogg, MP3 and similar formats. If PyAV is installed, FFmpeg's decoders read other formats (G.722,
M4A, the sound track of videos). libsoxr resamples: its "HQ" quality takes half the time of torchaudio's default filter and suppresses
aliasing better (a tone of 9 kHz, resampled to 16 kHz, leaves -140 dB instead of -17 dB).
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from zoo.errors import ConfigError, ItemError
from zoo.processors.media.channels import mix
from zoo.processors.media.ffmpeg_sound import DECODE_ERRORS, open_with_ffmpeg
from zoo.processors.media.joined_files import PartFile, parts_of
from zoo.processors.media.sound_faults import audio_error, refuse
from zoo.processors.media.stated_sizes import refuse_cut_short
from zoo.storage.outside import refuse_special

RAW_FORMATS = {".g722": "g722"}  # suffix to FFmpeg's format name, for formats without a header from which to detect them
BLOCK_SAMPLES = 2**19  # samples decoded at once, all channels together
LOWEST_RATE, HIGHEST_RATE = 1000, 768_000  # Hz
MP3_SHARE = 0.9  # least share of the samples stated in an MP3 header: it counts whole frames, and some encoders are off by a few
LOUDEST = 10.0  # largest absolute value accepted for float samples; above 1 by a few decibels happens, more is a wrong scale
SCALES = {"int8": 2**7, "int16": 2**15, "int32": 2**31}
Blocks = Iterator[np.ndarray]


@dataclass(frozen=True, slots=True)
class Track:
    """One sound track of a file that has several; the first has number 1."""

    source: str | Path | bytes
    number: int


Recording = str | Path | bytes | Track


def read_audio(source: Recording, *, max_seconds: float | None = None, cut: bool = False) -> tuple[Float32[np.ndarray, " samples"], int]:
    """Read a recording; return the mean of its channels and the sample rate in Hz.

    Args:
        source: path, the bytes of a file, or a ``Track`` of one of these.
        max_seconds: longest recording allowed, in seconds; the rest of a longer one is not decoded. None allows any length.
        cut: keep the beginning of a longer recording instead of raising an error.

    Raises:
        ItemError: the recording is missing, empty, cut short, too long or unreadable, or its samples are not finite.
        ConfigError: a required library is not installed.
    """
    name = _name(source)
    with _opened(source) as (rate, blocks):
        limit = None if max_seconds is None else round(max_seconds * rate)
        found, count = [], 0
        for block in blocks:
            found.append(block)
            count += len(block)
            if limit is not None and count > limit:
                break
    if not count:
        refuse(name, "holds no sound; leave it out")
    waveform = np.concatenate(found)
    if limit is not None and count > limit:
        if not cut:
            refuse(name, f"lasts longer than {max_seconds:g} s; take its beginning with too_long=cut, or cut it into pieces")
        waveform = waveform[:limit]
    return _checked(waveform, name), rate


def read_piece(path: str | Path, start: float, seconds: float) -> tuple[Float32[np.ndarray, " samples"], int]:
    """Read ``seconds`` seconds of a recording from ``start`` (in seconds) on, without decoding the rest.

    Returns:
        Mono samples, fewer if the recording ends earlier, and the sample rate in Hz.

    Raises:
        ItemError: libsndfile cannot read the file, or the recording ends before ``start``.
    """
    soundfile = _need("soundfile")
    refuse_special(Path(path), audio_error)
    try:
        with open(path, "rb") as file, soundfile.SoundFile(_first_part(file, str(path)) or path) as sound:
            rate, first = sound.samplerate, round(start * sound.samplerate)
            if first >= sound.frames:
                refuse(str(path), f"ends at {sound.frames / rate:.2f} s, before the requested start at {start:g} s")
            sound.seek(first)
            samples = sound.read(round(seconds * rate), dtype="float32", always_2d=True)  # [frames, channels]
    except (soundfile.LibsndfileError, *DECODE_ERRORS) as error:
        if isinstance(error, ItemError):
            raise
        refuse(str(path), f"cannot be read in part ({error}); convert it to WAV or FLAC")
    return _checked(mix(samples, str(path)), str(path)), rate


def seconds_in_header(path: str | Path) -> float:
    """Return the duration in seconds stated in a recording's header; 0 if libsndfile cannot read the file."""
    soundfile = _need("soundfile")
    try:
        return float(soundfile.info(path).duration) if os.path.isfile(path) else 0.0
    except (soundfile.LibsndfileError, *DECODE_ERRORS):
        return 0.0


def stream_blocks(source: Recording, *, sample_rate_hz: int, seconds: float = 30.0) -> Iterator[Float32[np.ndarray, " samples"]]:
    """Yield the samples of ``read_audio`` and ``resample`` in blocks of ``seconds`` seconds; the last block may be shorter.

    Only a few blocks are in memory at a time, however long the recording is.

    Raises:
        ItemError: as ``read_audio``; the blocks before the damage have been yielded by then.
    """
    name, size, rest = _name(source), max(1, round(seconds * sample_rate_hz)), np.empty(0, dtype=np.float32)
    empty = True
    with _opened(source) as (rate, blocks):
        for block in _resampled((_checked(block, name) for block in blocks), rate, sample_rate_hz):
            empty = False
            rest = np.concatenate([rest, block])
            while len(rest) >= size:
                yield rest[:size]
                rest = rest[size:]
    if empty:
        refuse(name, "holds no sound; leave it out")
    if len(rest):
        yield rest


def resample(waveform: Float32[np.ndarray, " samples"], rate: int, new_rate: int) -> Float32[np.ndarray, " new_samples"]:
    """Change the sample rate, both in Hz; a recording shorter than one new sample gives one sample."""
    if rate == new_rate:
        return waveform
    changed = _need("soxr").resample(waveform, rate, new_rate, "HQ")
    return changed if len(changed) else waveform[:1]


def to_mono(values: Shaped[np.ndarray, "..."], name: str = "a waveform") -> Float32[np.ndarray, " samples"]:
    """Convert samples [n], [channels, n] or [n, channels] to one channel of float32.

    The shorter axis is the channels; they are averaged. Integers of 8, 16 and 32 bits are scaled to [-1, 1); unsigned 8-bit values
    are centred at 128.

    Raises:
        ItemError: the array is empty or has another shape or type, or its samples are not finite or far outside [-1, 1].
    """
    if values.ndim not in (1, 2) or not values.size:
        refuse(name, f"has the shape {list(values.shape)}; give samples [n] or channels and samples [channels, n], at least one sample")
    kind = values.dtype.name
    if kind in SCALES:
        values = values.astype(np.float64) / SCALES[kind]
    elif kind == "uint8":
        values = (values.astype(np.float32) - 128) / 128
    elif kind not in ("float16", "float32", "float64"):
        refuse(name, f"holds {kind} values; allowed are floats in [-1, 1] and the integers int8, uint8, int16 and int32")
    if values.ndim == 2:
        values = mix((values if np.argmin(values.shape) else values.T).astype(np.float64), name)
    return _checked(np.ascontiguousarray(values, dtype=np.float32), name)


def checked_rate(rate: Any, name: str = "a waveform") -> int:
    """Return a sample rate in Hz as an int.

    Raises:
        ItemError: the rate is not a whole number from ``LOWEST_RATE`` to ``HIGHEST_RATE``.
    """
    whole = isinstance(rate, int | np.integer) or (isinstance(rate, float) and rate.is_integer())
    if not whole or isinstance(rate, bool) or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        refuse(name, f"has the sample rate {rate!r}; allowed are {LOWEST_RATE} to {HIGHEST_RATE} samples per second, for example 16000")
    return int(rate)


def require_audio() -> None:
    """Raise ConfigError unless the libraries that read recordings are installed."""
    for module in ("soundfile", "soxr"):
        _need(module)


def _need(module: str) -> ModuleType:
    try:
        return __import__(module)
    except (ImportError, OSError) as error:  # OSError: the wheel's libsndfile does not fit the system
        raise ConfigError(f"audio: needs {module} ({error}); install it with: zoo install audio") from error


def _checked(waveform: Float32[np.ndarray, " samples"], name: str) -> Float32[np.ndarray, " samples"]:
    if not np.isfinite(waveform).all():
        refuse(name, "holds samples that are not finite (NaN or infinite); export it again")
    if len(waveform) and (peak := float(np.abs(waveform).max())) > LOUDEST:
        refuse(name, f"holds float samples up to {peak:g}, where [-1, 1] is expected; divide them by their full scale (16 bits: 32768)")
    return waveform


def _resampled(blocks: Blocks, rate: int, new_rate: int) -> Blocks:
    """Yield the blocks at another sample rate; nothing if all are empty."""
    filled = (block for block in blocks if len(block))
    if rate == new_rate:
        yield from filled
        return
    change, first = _need("soxr").ResampleStream(rate, new_rate, 1, dtype="float32", quality="HQ"), next(filled, None)
    if first is None:
        return
    yield change.resample_chunk(first)
    for block in filled:
        yield change.resample_chunk(block)
    yield change.resample_chunk(np.empty(0, dtype=np.float32), last=True)


def _name(source: Recording) -> str:
    if isinstance(source, Track):
        return _name(source.source)
    return "audio in memory" if isinstance(source, bytes) else str(source)


class _InMemory(io.BytesIO):
    """In-memory file that ignores a seek to before its beginning, as damaged headers cause; libsndfile cannot handle an exception."""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return self.tell()


@contextmanager
def _opened(recording: Recording) -> Iterator[tuple[int, Blocks]]:
    """Open a recording; yield its sample rate in Hz and an iterator over its mono blocks."""
    name, track = _name(recording), recording.number if isinstance(recording, Track) else None
    source = recording.source if isinstance(recording, Track) else recording
    if not isinstance(source, bytes):
        refuse_special(Path(source), audio_error)
    try:
        with _InMemory(source) if isinstance(source, bytes) else open(source, "rb") as file:
            if not (size := file.seek(0, os.SEEK_END)):
                refuse(name, "the file is empty; download it again")
            raw_format = None if isinstance(source, bytes) else RAW_FORMATS.get(Path(source).suffix.lower())
            if raw_format is not None:
                opening = _open_track(file, name, raw_format, track)
            else:
                refuse_cut_short(file, size, name)
                files = [PartFile(file, part) for part in parts_of(file, size, name) or ()]
                file.seek(0)
                # A path, not a file object: libsndfile then reads without calling Python.
                opening = _open_all(files or [file if isinstance(source, bytes) else source], file, name, track)
            with opening as found:
                yield found
    except PermissionError as error:
        raise audio_error(f"{name}: cannot be opened ({error.strerror}); give the path of a recording that you may read") from error


def _first_part(file: Any, name: str) -> PartFile | None:
    """Return the first of joined recordings, or a WAV file with its header corrected; None if the file can be read as it is."""
    size = file.seek(0, os.SEEK_END)
    parts = parts_of(file, size, name) if size else None
    return PartFile(file, parts[0]) if parts else None


@contextmanager
def _open_track(file: Any, name: str, format: str | None, track: int | None, otherwise: str | None = None) -> Iterator[tuple[int, Blocks]]:
    """Open a sound track with FFmpeg; yield as ``_opened``."""
    with open_with_ffmpeg(file, name, format, track=track, otherwise=otherwise) as (rate, blocks):
        yield checked_rate(rate, name), blocks


@contextmanager
def _open_all(places: list[Any], file: Any, name: str, track: int | None) -> Iterator[tuple[int, Blocks]]:
    """Open recordings that were joined in one file, usually a single one; yield as ``_opened``, at the sample rate of the first."""
    soundfile = _need("soundfile")
    try:
        sound = soundfile.SoundFile(places[0])
    except soundfile.LibsndfileError as error:
        with _open_track(file, name, None, track, otherwise=str(error.error_string).strip(" .")) as found:
            yield found
        return
    if track not in (None, 1):
        sound.close()
        refuse(name, f"has no sound track {track}; it has 1")
    rate = checked_rate(sound.samplerate, name)

    def blocks() -> Blocks:
        yield from _sound_blocks(sound, soundfile.LibsndfileError, name)
        for place in places[1:]:
            try:
                further = soundfile.SoundFile(place)
            except soundfile.LibsndfileError as error:
                raise audio_error(f"{name}: a recording that was appended to it cannot be read ({error.error_string})") from error
            with further:
                yield from _resampled(_sound_blocks(further, soundfile.LibsndfileError, name), further.samplerate, rate)

    with sound:
        yield rate, blocks()


def _sound_blocks(sound: Any, library_error: type[Exception], name: str) -> Blocks:
    """Yield decoded mono blocks.

    Raises:
        ItemError: the recording is damaged, or shorter than its header states.
    """
    expected, count = sound.frames, 0
    while True:
        try:
            block = sound.read(max(1, BLOCK_SAMPLES // sound.channels), dtype="float32", always_2d=True)  # [frames, channels]
        except (library_error, *DECODE_ERRORS) as error:
            raise audio_error(
                f"{name}: damaged or cut short after {count / sound.samplerate:.1f} s ({error}); download it again"
            ) from error
        if not len(block):
            break
        count += len(block)
        yield mix(block, name)
    if count < expected * (MP3_SHARE if sound.format == "MP3" else 1) and _states_samples(sound):
        seconds = [round(frames / sound.samplerate, 1) for frames in (count, expected)]
        refuse(name, f"cut short: holds {seconds[0]} s of the {seconds[1]} s stated in its header; download it again")


def _states_samples(sound: Any) -> bool:
    """Return True if the header states the number of samples. An MP3 without a Xing header does not, and libsndfile guesses it."""
    if sound.format != "MP3":
        return True
    if isinstance(sound.name, str | Path):
        with open(sound.name, "rb") as file:
            beginning = file.read(2**17)
    else:
        sound.name.seek(0)
        beginning = sound.name.read(2**17)
    return any(word in beginning for word in (b"Xing", b"Info"))
