"""Any recording to one channel of float samples: whole, cut short, or block by block in bounded memory.

libsndfile (soundfile) reads WAV, FLAC, Ogg, MP3 and their like; where PyAV is installed, FFmpeg's decoders read the rest (G.722, M4A,
the sound of films). Rates are changed by libsoxr: its "HQ" takes half the time of torchaudio's default filter, and of a tone of 9 kHz
it leaves -140 dB at 16 kHz, where that filter leaves -17 dB.
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

AUDIO_SUFFIXES = (
    *(".aac", ".aif", ".aiff", ".au", ".caf", ".flac", ".g722", ".m4a", ".mp3"),
    *(".mp4", ".oga", ".ogg", ".opus", ".wav", ".webm", ".wma"),
)
RAW_FORMATS = {".g722": "g722"}  # of FFmpeg, for what has no header that would tell
BLOCK_SAMPLES = 2**20  # of all channels together, that are decoded at once
LOWEST_RATE, HIGHEST_RATE = 1000, 768_000  # Hz
MP3_SHARE = 0.9  # of the samples that an MP3's header tells of; it rounds to whole frames, and some writers are wrong by a few
LOUDEST = 10.0  # of float samples, which lie in [-1, 1] but for a few decibels
STREAMED = 0x7FFFF000  # from here on the size in a WAV header means that its writer did not know it
# What soundfile and PyAV raise on damaged files beside errors of their own, found by flipping bytes of whole ones.
DECODE_ERRORS = (OSError, ValueError, TypeError, AttributeError, LookupError, OverflowError, MemoryError, RuntimeError)
SCALES = {"int8": 2**7, "int16": 2**15, "int32": 2**31}
Recording = str | Path | bytes


def read_audio(source: Recording, *, max_seconds: float | None = None, cut: bool = False) -> tuple[Float32[np.ndarray, " samples"], int]:
    """The mean of the channels and the sample rate in Hz.

    Args:
        source: a path, or the bytes of a file.
        max_seconds: what is longer is refused before more of it is decoded; None allows any length.
        cut: take the beginning of what is longer instead.

    Raises:
        ItemError: missing, empty, cut short, too long, not finite, or nothing that can be read.
        ConfigError: a library that is needed is not installed.
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
    """So many seconds of a recording from a place on, or what there is of them, and the sample rate; nothing else is decoded.

    Raises:
        ItemError: a file that libsndfile does not read, or one that ends before the place.
    """
    soundfile = _need("soundfile")
    try:
        with soundfile.SoundFile(path) as sound:
            rate, first = sound.samplerate, round(start * sound.samplerate)
            if first >= sound.frames:
                _refuse(str(path), f"ends at {sound.frames / rate:.2f} s, where a piece from {start:g} s on is asked for")
            sound.seek(first)
            samples = sound.read(round(seconds * rate), dtype="float32", always_2d=True)  # [frames, channels]
    except (soundfile.LibsndfileError, *DECODE_ERRORS) as error:
        if isinstance(error, ItemError):
            raise
        _refuse(str(path), f"no piece of it can be read ({error}); convert it to WAV or FLAC")
    return _checked(samples.mean(axis=1), str(path)), rate


def seconds_in_header(path: str | Path) -> float:
    """How long a recording lasts by its header; 0 where libsndfile reads none."""
    soundfile = _need("soundfile")
    try:
        return float(soundfile.info(path).duration)
    except (soundfile.LibsndfileError, *DECODE_ERRORS):
        return 0.0


def stream_blocks(source: Recording, *, sample_rate_hz: int, seconds: float = 30.0) -> Iterator[Float32[np.ndarray, " samples"]]:
    """The samples that ``read_audio`` and ``resample`` give, in blocks of so many seconds; the last one may be shorter.

    No more than a few blocks are ever in memory, however long the recording is.

    Raises:
        ItemError: as ``read_audio``; what stands before the damage has been given then.
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
    """Change the sample rate; of a recording shorter than a new sample one sample is left."""
    if rate == new_rate:
        return waveform
    changed = _need("soxr").resample(waveform, rate, new_rate, "HQ")
    return changed if len(changed) else waveform[:1]


def to_mono(values: Shaped[np.ndarray, "..."], name: str = "a waveform") -> Float32[np.ndarray, " samples"]:
    """Samples [n], or of several channels [channels, n] or [n, channels] with fewer channels than samples, as one channel of floats.

    Whole numbers of 8, 16 and 32 bits become [-1, 1); those without sign are centred at half their range.

    Raises:
        ItemError: empty, not finite, not samples, or floats far outside [-1, 1].
    """
    if values.ndim not in (1, 2) or not values.size:
        _refuse(name, f"has the shape {list(values.shape)}; give samples [n] or channels and samples [channels, n], at least one sample")
    kind = values.dtype.name
    if kind in SCALES:
        values = values.astype(np.float64) / SCALES[kind]
    elif kind == "uint8":
        values = (values.astype(np.float32) - 128) / 128
    elif kind not in ("float16", "float32", "float64"):
        _refuse(name, f"holds {kind}; allowed are floats in [-1, 1] and whole numbers of 8 (uint8 too), 16 or 32 bits")
    if values.ndim == 2:
        values = values.mean(axis=int(np.argmin(values.shape)), dtype=np.float64)
    return _checked(np.ascontiguousarray(values, dtype=np.float32), name)


def checked_rate(rate: Any, name: str = "a waveform") -> int:
    """A sample rate in Hz as a whole number.

    Raises:
        ItemError: not a number of samples per second.
    """
    whole = isinstance(rate, int | np.integer) or (isinstance(rate, float) and rate.is_integer())
    if not whole or isinstance(rate, bool) or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        _refuse(name, f"has the sample rate {rate!r}; allowed are {LOWEST_RATE} to {HIGHEST_RATE} samples per second, for example 16000")
    return int(rate)


def require_audio() -> None:
    """Raise ConfigError where the libraries that read recordings are not installed."""
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
    """Blocks that are not empty, and then an empty one."""
    yield from (block for block in blocks if len(block))
    yield np.empty(0, dtype=np.float32)


def _refuse(name: str, what: str) -> NoReturn:
    raise ItemError(f"{name}: {what}", "audio")


def _name(source: Recording) -> str:
    return "audio in memory" if isinstance(source, bytes) else str(source)


class _InMemory(io.BytesIO):
    """A file whose place stays where it is when a damaged header leads to before its beginning; libsndfile cannot take an exception."""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return self.tell()


@contextmanager
def _opened(source: Recording) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
    """The rate, and an iterator over mono blocks."""
    name = _name(source)
    try:
        with _InMemory(source) if isinstance(source, bytes) else open(source, "rb") as file:
            if not (size := file.seek(0, os.SEEK_END)):
                _refuse(name, "the file is empty; fetch it again")
            file.seek(0)
            raw_format = None if isinstance(source, bytes) else RAW_FORMATS.get(Path(source).suffix.lower())
            opening = _open_with_soundfile(file, source, size) if raw_format is None else _open_with_av(file, name, raw_format)
            with opening as found:
                yield found
    except FileNotFoundError as error:
        raise ItemError(f"{name}: no such file; check the path (the current folder is {Path.cwd()})", "audio") from error
    except (IsADirectoryError, PermissionError) as error:
        raise ItemError(f"{name}: cannot be opened ({error.strerror}); give the path of a recording that you may read", "audio") from error


@contextmanager
def _open_with_soundfile(file: io.BufferedIOBase, source: Recording, size: int) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
    """By libsndfile, or by FFmpeg where libsndfile does not know the format."""
    soundfile, name = _need("soundfile"), _name(source)
    _refuse_cut_short(file, size, name)
    beginning = file.read(2**17)
    exact = any(word in beginning for word in (b"Xing", b"Info")) or not beginning.startswith((b"ID3", b"\xff"))
    file.seek(0)
    try:
        sound = soundfile.SoundFile(file if isinstance(source, bytes) else source)  # a path is read without a way through Python
    except soundfile.LibsndfileError as error:
        file.seek(0)
        with _open_with_av(file, name, None, otherwise=str(error.error_string).strip(" .")) as found:
            yield found
        return
    with sound:
        yield checked_rate(sound.samplerate, name), _sound_blocks(sound, soundfile.LibsndfileError, exact, name)


def _sound_blocks(sound: Any, library_error: type[Exception], exact: bool, name: str) -> Iterator[np.ndarray]:
    """Decoded blocks.

    Args:
        exact: whether the file tells its number of samples; an MP3 without a Xing header does not, and libsndfile guesses.
    """
    expected, count = sound.frames, 0
    while True:
        try:
            block = sound.read(max(1, BLOCK_SAMPLES // sound.channels), dtype="float32", always_2d=True)  # [frames, channels]
        except (library_error, *DECODE_ERRORS) as error:
            raise ItemError(
                f"{name}: damaged or cut short after {count / sound.samplerate:.1f} s ({error}); fetch it again", "audio"
            ) from error
        if not len(block):
            break
        count += len(block)
        yield block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
    if count < expected * (MP3_SHARE if sound.format == "MP3" else 1) and exact:
        seconds = [round(frames / sound.samplerate, 1) for frames in (count, expected)]
        _refuse(name, f"cut short: holds {seconds[0]} s of the {seconds[1]} s that its header tells; fetch it again")


def _refuse_cut_short(file: io.BufferedIOBase, size: int, name: str) -> None:
    """Raise ItemError for what libsndfile reads without a word: less data than the header says, or Ogg without its last page."""
    start = file.read(12)
    if start[:4] == b"RIFF" and start[8:] == b"WAVE":
        declared, offset = _wav_data(file)
        if declared is not None and declared < STREAMED and offset + declared > size:
            _refuse(name, f"cut short: its header tells of {declared} bytes of sound, {size - offset} are there; fetch it again")
    elif start[:4] == b"FORM" and (declared := struct.unpack(">I", start[4:8])[0] + 8) > size:
        _refuse(name, f"cut short: its header tells of {declared} bytes, {size} are there; fetch it again")
    elif start[:4] == b"OggS":
        file.seek(max(0, size - 2**17))  # a page has at most 65,307 bytes
        if not _ends_with_last_page(file.read()):
            _refuse(name, "cut short: its last page, which would end the stream, is not there; fetch it again")
    file.seek(0)


def _ends_with_last_page(data: bytes) -> bool:
    """Whether the last page in the data is whole, and says that it ends the stream. Source: RFC 3533, section 6."""
    page = data[max(0, data.rfind(b"OggS")) :]
    return len(page) > 27 and bool(page[5] & 4) and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])


def _wav_data(file: io.BufferedIOBase) -> tuple[int | None, int]:
    """Size and place of the chunk of samples; None where there is none."""
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
    """By FFmpeg.

    Args:
        format: None lets FFmpeg find out.
        otherwise: why libsndfile does not read it, for the message where FFmpeg is not there.
    """
    try:
        import av
    except ImportError as error:
        what = otherwise or f"a recording of the kind {format} is read by FFmpeg"
        raise ItemError(f"{name}: not a recording that libsndfile reads ({what}); pip install av reads more kinds", "audio") from error
    unreadable: tuple[type[Exception], ...] = (av.FFmpegError, *DECODE_ERRORS)  # type: ignore[attr-defined]
    try:
        container = av.open(file, format=format)
        rate = container.streams.audio[0].rate
    except unreadable as error:
        raise ItemError(f"{name}: not a recording that can be read ({otherwise or error}); convert it to WAV or FLAC", "audio") from error
    with container:
        yield checked_rate(rate, name), _av_blocks(container, unreadable, name)


def _av_blocks(container: Any, unreadable: tuple[type[Exception], ...], name: str) -> Iterator[np.ndarray]:
    from av import AudioResampler

    planes = AudioResampler(format="fltp")  # rate and channels stay as they are
    try:
        for frame in container.decode(audio=0):
            for plane in planes.resample(frame):
                yield plane.to_ndarray().mean(axis=0)  # [samples]
    except unreadable as error:
        raise ItemError(f"{name}: damaged or cut short ({error}); fetch it again", "audio") from error
