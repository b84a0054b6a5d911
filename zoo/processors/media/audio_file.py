"""Recordings to one channel of float samples: the whole file, its beginning, or block by block in bounded memory.

libsndfile (soundfile) reads WAV, FLAC, Ogg, MP3 and similar formats. If PyAV is installed, FFmpeg's decoders read other formats (G.722,
M4A, the sound track of videos). libsoxr resamples: its "HQ" quality takes half the time of torchaudio's default filter and suppresses
aliasing better (a tone of 9 kHz, resampled to 16 kHz, leaves -140 dB instead of -17 dB).
"""

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Float32, Shaped

from zoo.errors import ConfigError, ItemError
from zoo.storage.outside import refuse_special

AUDIO_SUFFIXES = (
    *(".aac", ".aif", ".aiff", ".au", ".caf", ".flac", ".g722", ".m4a", ".mp3"),
    *(".mp4", ".oga", ".ogg", ".opus", ".wav", ".webm", ".wma"),
)
RAW_FORMATS = {".g722": "g722"}  # suffix to FFmpeg's format name, for formats without a header from which to detect them
# A playlist (HLS, DASH, SDP, concat) in a file called .wav would make FFmpeg open addresses or other files.
NO_NETWORK = {"protocol_whitelist": "pipe"}
BLOCK_SAMPLES = 2**20  # samples decoded at once, all channels together
LOWEST_RATE, HIGHEST_RATE = 1000, 768_000  # Hz
MP3_SHARE = 0.9  # least share of the samples stated in an MP3 header: it counts whole frames, and some encoders are off by a few
LOUDEST = 10.0  # largest absolute value accepted for float samples; above 1 by a few decibels happens, more is a wrong scale
STREAMED = 0x7FFFF000  # a WAV size from here on is a placeholder: the file was streamed and its writer did not know the size
# Exceptions that soundfile and PyAV raise on damaged files, beside their own; found by flipping bytes of intact files.
DECODE_ERRORS = (OSError, ValueError, TypeError, AttributeError, LookupError, OverflowError, MemoryError, RuntimeError)
SCALES = {"int8": 2**7, "int16": 2**15, "int32": 2**31}
Recording = str | Path | bytes


def read_audio(source: Recording, *, max_seconds: float | None = None, cut: bool = False) -> tuple[Float32[np.ndarray, " samples"], int]:
    """Read a recording; return the mean of its channels and the sample rate in Hz.

    Args:
        source: path, or the bytes of a file.
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
        _refuse(name, "holds no sound; leave it out")
    waveform = np.concatenate(found)
    if limit is not None and count > limit:
        if not cut:
            _refuse(name, f"lasts longer than {max_seconds:g} s; take its beginning with too_long=cut, or cut it into pieces")
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
    refuse_special(Path(path), _audio_error)
    try:
        with soundfile.SoundFile(path) as sound:
            rate, first = sound.samplerate, round(start * sound.samplerate)
            if first >= sound.frames:
                _refuse(str(path), f"ends at {sound.frames / rate:.2f} s, before the requested start at {start:g} s")
            sound.seek(first)
            samples = sound.read(round(seconds * rate), dtype="float32", always_2d=True)  # [frames, channels]
    except (soundfile.LibsndfileError, *DECODE_ERRORS) as error:
        if isinstance(error, ItemError):
            raise
        _refuse(str(path), f"cannot be read in part ({error}); convert it to WAV or FLAC")
    return _checked(samples.mean(axis=1), str(path)), rate


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
    soxr = _need("soxr")
    name, size, rest = _name(source), max(1, round(seconds * sample_rate_hz)), np.empty(0, dtype=np.float32)
    empty = True
    with _opened(source) as (rate, blocks):
        change = soxr.ResampleStream(rate, sample_rate_hz, 1, dtype="float32", quality="HQ") if rate != sample_rate_hz else None
        for block in _and_end(blocks):
            empty = empty and not len(block)
            at_end = not len(block)
            _checked(block, name)
            rest = np.concatenate([rest, block if change is None else change.resample_chunk(block, last=at_end)])
            while len(rest) >= size:
                yield rest[:size]
                rest = rest[size:]
    if empty:
        _refuse(name, "holds no sound; leave it out")
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
        _refuse(name, f"has the shape {list(values.shape)}; give samples [n] or channels and samples [channels, n], at least one sample")
    kind = values.dtype.name
    if kind in SCALES:
        values = values.astype(np.float64) / SCALES[kind]
    elif kind == "uint8":
        values = (values.astype(np.float32) - 128) / 128
    elif kind not in ("float16", "float32", "float64"):
        _refuse(name, f"holds {kind} values; allowed are floats in [-1, 1] and the integers int8, uint8, int16 and int32")
    if values.ndim == 2:
        values = values.mean(axis=int(np.argmin(values.shape)), dtype=np.float64)
    return _checked(np.ascontiguousarray(values, dtype=np.float32), name)


def checked_rate(rate: Any, name: str = "a waveform") -> int:
    """Return a sample rate in Hz as an int.

    Raises:
        ItemError: the rate is not a whole number from ``LOWEST_RATE`` to ``HIGHEST_RATE``.
    """
    whole = isinstance(rate, int | np.integer) or (isinstance(rate, float) and rate.is_integer())
    if not whole or isinstance(rate, bool) or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        _refuse(name, f"has the sample rate {rate!r}; allowed are {LOWEST_RATE} to {HIGHEST_RATE} samples per second, for example 16000")
    return int(rate)


def require_audio() -> None:
    """Raise ConfigError unless the libraries that read recordings are installed."""
    for module in ("soundfile", "soxr"):
        _need(module)


def _need(module: str) -> ModuleType:
    try:
        return __import__(module)
    except (ImportError, OSError) as error:  # OSError: the wheel's libsndfile does not fit the system
        raise ConfigError(f"audio: needs {module} ({error}); install it with: pip install 'multimodal-zoo[audio]'") from error


def _checked(waveform: Float32[np.ndarray, " samples"], name: str) -> Float32[np.ndarray, " samples"]:
    if not np.isfinite(waveform).all():
        _refuse(name, "holds samples that are not finite (NaN or infinite); export it again")
    if len(waveform) and (peak := float(np.abs(waveform).max())) > LOUDEST:
        _refuse(name, f"holds float samples up to {peak:g}, where [-1, 1] is expected; divide them by their full scale (16 bits: 32768)")
    return waveform


def _and_end(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the blocks that are not empty, and then an empty one that marks the end."""
    yield from (block for block in blocks if len(block))
    yield np.empty(0, dtype=np.float32)


def _refuse(name: str, problem: str) -> NoReturn:
    raise ItemError(f"{name}: {problem}", "audio")


def _audio_error(message: str) -> ItemError:
    return ItemError(message, "audio")


def _name(source: Recording) -> str:
    return "audio in memory" if isinstance(source, bytes) else str(source)


class _InMemory(io.BytesIO):
    """In-memory file that ignores a seek to before its beginning, as damaged headers cause; libsndfile cannot handle an exception."""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return self.tell()


@contextmanager
def _opened(source: Recording) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
    """Open a recording; yield its sample rate in Hz and an iterator over its mono blocks."""
    name = _name(source)
    if not isinstance(source, bytes):
        refuse_special(Path(source), _audio_error)
    try:
        with _InMemory(source) if isinstance(source, bytes) else open(source, "rb") as file:
            if not (size := file.seek(0, os.SEEK_END)):
                _refuse(name, "the file is empty; download it again")
            file.seek(0)
            raw_format = None if isinstance(source, bytes) else RAW_FORMATS.get(Path(source).suffix.lower())
            opening = _open_with_soundfile(file, source, size) if raw_format is None else _open_with_av(file, name, raw_format)
            with opening as found:
                yield found
    except PermissionError as error:
        raise ItemError(f"{name}: cannot be opened ({error.strerror}); give the path of a recording that you may read", "audio") from error


@contextmanager
def _open_with_soundfile(file: io.BufferedIOBase, source: Recording, size: int) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
    """Open with libsndfile, or with FFmpeg if libsndfile does not know the format; yield as ``_opened``."""
    soundfile, name = _need("soundfile"), _name(source)
    _refuse_cut_short(file, size, name)
    beginning = file.read(2**17)
    exact = any(word in beginning for word in (b"Xing", b"Info")) or not beginning.startswith((b"ID3", b"\xff"))
    file.seek(0)
    try:
        sound = soundfile.SoundFile(file if isinstance(source, bytes) else source)  # a path: no callbacks into Python
    except soundfile.LibsndfileError as error:
        file.seek(0)
        with _open_with_av(file, name, None, otherwise=str(error.error_string).strip(" .")) as found:
            yield found
        return
    with sound:
        yield checked_rate(sound.samplerate, name), _sound_blocks(sound, soundfile.LibsndfileError, exact, name)


def _sound_blocks(sound: Any, library_error: type[Exception], exact: bool, name: str) -> Iterator[np.ndarray]:
    """Yield decoded mono blocks.

    Args:
        exact: True if the header states the number of samples. An MP3 without a Xing header does not, and libsndfile guesses it.
    """
    expected, count = sound.frames, 0
    while True:
        try:
            block = sound.read(max(1, BLOCK_SAMPLES // sound.channels), dtype="float32", always_2d=True)  # [frames, channels]
        except (library_error, *DECODE_ERRORS) as error:
            raise ItemError(
                f"{name}: damaged or cut short after {count / sound.samplerate:.1f} s ({error}); download it again", "audio"
            ) from error
        if not len(block):
            break
        count += len(block)
        yield block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
    if count < expected * (MP3_SHARE if sound.format == "MP3" else 1) and exact:
        seconds = [round(frames / sound.samplerate, 1) for frames in (count, expected)]
        _refuse(name, f"cut short: holds {seconds[0]} s of the {seconds[1]} s stated in its header; download it again")


def _refuse_cut_short(file: io.BufferedIOBase, size: int, name: str) -> None:
    """Raise ItemError for two faults that libsndfile does not report: less data than the header states, and Ogg without its last page."""
    start = file.read(12)
    if start[:4] == b"RIFF" and start[8:] == b"WAVE":
        declared, offset = _wav_data(file)
        if declared is not None and declared < STREAMED and offset + declared > size:
            _refuse(name, f"cut short: its header states {declared} bytes of audio, the file holds {size - offset}; download it again")
    elif start[:4] == b"FORM" and (declared := struct.unpack(">I", start[4:8])[0] + 8) > size:
        _refuse(name, f"cut short: its header states {declared} bytes, the file has {size}; download it again")
    elif start[:4] == b"OggS":
        file.seek(max(0, size - 2**17))  # a page has at most 65,307 bytes
        if not _ends_with_last_page(file.read()):
            _refuse(name, "cut short: the last Ogg page, which ends the stream, is missing; download it again")
    file.seek(0)


def _ends_with_last_page(data: bytes) -> bool:
    """Return True if the last Ogg page in the data is complete and marked as end of stream. Source: RFC 3533, section 6."""
    page = data[max(0, data.rfind(b"OggS")) :]
    return len(page) > 27 and bool(page[5] & 4) and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])


def _wav_data(file: io.BufferedIOBase) -> tuple[int | None, int]:
    """Return the size in bytes and the offset of the chunk of samples; the size is None if the chunk is missing."""
    while len(header := file.read(8)) == 8:
        word, length = header[:4], struct.unpack("<I", header[4:])[0]
        if word == b"data":
            return length, file.tell()
        file.seek(length + length % 2, os.SEEK_CUR)
    return None, file.tell()


@contextmanager
def _open_with_av(
    file: io.BufferedIOBase, name: str, format: str | None, otherwise: str | None = None
) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
    """Open with FFmpeg (PyAV); yield as ``_opened``.

    Args:
        format: FFmpeg's name of the format; None lets FFmpeg detect it.
        otherwise: why libsndfile cannot read the file, for error messages.
    """
    try:
        import av
    except ImportError as error:
        reason = otherwise or f"the format {format} needs FFmpeg"
        raise ItemError(
            f"{name}: not a recording that libsndfile can read ({reason}); to read more formats, pip install av", "audio"
        ) from error
    unreadable: tuple[type[Exception], ...] = (av.FFmpegError, *DECODE_ERRORS)  # type: ignore[attr-defined]
    try:
        container = av.open(file, format=format, options=NO_NETWORK)
        rate = container.streams.audio[0].rate
    except unreadable as error:
        raise ItemError(f"{name}: not a recording that can be read ({otherwise or error}); convert it to WAV or FLAC", "audio") from error
    with container:
        yield checked_rate(rate, name), _av_blocks(container, unreadable, name)


def _av_blocks(container: Any, unreadable: tuple[type[Exception], ...], name: str) -> Iterator[np.ndarray]:
    from av import AudioResampler

    planes = AudioResampler(format="fltp")  # only to float samples; rate and channels stay
    try:
        for frame in container.decode(audio=0):
            for plane in planes.resample(frame):
                yield plane.to_ndarray().mean(axis=0)  # [samples]
    except unreadable as error:
        raise ItemError(f"{name}: damaged or cut short ({error}); download it again", "audio") from error
