"""Sound while it comes in, at 16 kHz: from a microphone, or from a stream of bytes (raw samples or a container).

The microphone is read by PortAudio (sounddevice); containers are decoded by FFmpeg (PyAV) as far as they have come.
"""

import queue
import threading
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np

from zoo.errors import ConfigError
from zoo.processors.media.channels import mix
from zoo.processors.media.ffmpeg_sound import NO_NETWORK
from zoo.processors.media.sound_faults import audio_error
from zoo.processors.media.sound_kinds import HEAD, is_sound

RATE_HZ = 16000
PIECE_S = 0.25  # of raw samples at once
FULL_SCALE = 2**15
# FFmpeg looks at 5 MB or 5 s of a stream before it decodes; that would be the delay of the first word.
AT_ONCE = {"probesize": "65536", "analyzeduration": "500000"}  # not "nobuffer", which drops what it looked at


@runtime_checkable
class Readable(Protocol):
    """Stream of bytes whose ``read`` returns what is there, as that of an unbuffered file does; empty at the end."""

    def read(self, count: int = -1, /) -> bytes | None: ...


def stream_sound(stream: Readable, name: str) -> Iterator[np.ndarray]:
    """Yield the samples of a stream as they come, at 16 kHz.

    Args:
        stream: a container that FFmpeg knows by its first bytes, else raw little-endian samples of 16 bits at 16 kHz, one channel.
        name: for messages.

    Raises:
        ItemError: the container cannot be read, or PyAV is not installed.
    """
    head = _exactly(stream, HEAD)
    yield from (_container(_Rewound(stream, head), name) if is_sound(head) else _raw(stream, head))


def microphone_sound(device: str | int | None = None) -> Iterator[np.ndarray]:
    """Yield the samples of a microphone as they come, at 16 kHz, without an end.

    Raises:
        ConfigError: sounddevice is not installed, or there is no microphone.
    """
    try:
        import sounddevice  # pyright: ignore[reportMissingImports]
    except (ImportError, OSError) as error:  # OSError: the system has no PortAudio
        raise ConfigError(f"--microphone: needs sounddevice and PortAudio ({error}); install it with: zoo install microphone") from error
    pieces: queue.Queue[np.ndarray] = queue.Queue()
    try:
        with sounddevice.InputStream(
            samplerate=RATE_HZ,
            channels=1,
            dtype="float32",
            device=device,
            blocksize=round(PIECE_S * RATE_HZ),
            callback=lambda data, *_: pieces.put(data[:, 0].copy()),
        ):
            while True:
                yield pieces.get()
    except sounddevice.PortAudioError as error:
        raise ConfigError(
            f"--microphone: cannot be opened ({error}); connect one, or pipe the sound into zoo transcribe --live -"
        ) from error


def gathered(pieces: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield all that has come since the last time, joined; a thread reads on meanwhile, so that a slow reader stays up to date.

    An error of ``pieces`` is raised here.
    """
    waiting: queue.Queue[Any] = queue.Queue()

    def read() -> None:
        try:
            for piece in pieces:
                waiting.put(piece)
            waiting.put(None)
        except BaseException as error:  # handed to the reader, which raises it
            waiting.put(error)

    threading.Thread(target=read, daemon=True).start()
    while True:
        found = [waiting.get()]
        while not waiting.empty():
            found.append(waiting.get())
        sound = [each for each in found if isinstance(each, np.ndarray)]
        if sound:
            yield np.concatenate(sound)
        if isinstance(found[-1], BaseException):
            raise found[-1]
        if found[-1] is None:
            return


def _exactly(stream: Readable, count: int) -> bytes:
    """Read so many bytes, fewer only at the end."""
    found = b""
    while len(found) < count and (more := stream.read(count - len(found))):
        found += more
    return found


def _raw(stream: Readable, rest: bytes) -> Iterator[np.ndarray]:
    while True:
        whole = len(rest) // 2 * 2
        if whole:
            yield np.frombuffer(rest[:whole], dtype="<i2").astype(np.float32) / FULL_SCALE
        more = stream.read(2 * round(PIECE_S * RATE_HZ))
        if not more:
            return
        rest = rest[whole:] + more


class _Rewound:
    """Stream whose first bytes, read already, come once more."""

    def __init__(self, stream: Readable, head: bytes) -> None:
        self.stream, self.head = stream, head

    def read(self, count: int = -1) -> bytes:
        """Return at most so many bytes."""
        if self.head:
            found, self.head = self.head[:count], self.head[count:]
            return found
        return self.stream.read(count) or b""


def _container(stream: _Rewound, name: str) -> Iterator[np.ndarray]:
    try:
        import av
    except ImportError as error:
        raise audio_error(
            f"{name}: a container needs FFmpeg; zoo install audio, or give raw samples (16 kHz, s16le, one channel)"
        ) from error
    unreadable: type[Exception] = av.FFmpegError  # type: ignore[attr-defined]
    try:
        with av.open(stream, mode="r", options={**NO_NETWORK, **AT_ONCE}) as container:
            if not container.streams.audio:
                raise audio_error(f"{name}: holds no sound track")
            change = av.AudioResampler(format="fltp", rate=RATE_HZ)
            for frame in container.decode(audio=0):
                for plane in change.resample(frame):
                    yield mix(plane.to_ndarray().T, name)
            for plane in change.resample(None):
                yield mix(plane.to_ndarray().T, name)
    except unreadable as error:
        raise audio_error(f"{name}: cannot be read as it comes ({error}); save it to a file first") from error
