"""Live text of one recording: sound is taken at once, and transcribed in a separate thread, so that no request waits for the model."""

import threading
from collections.abc import Callable

import numpy as np

from zoo.commands.demo.models import LazyModel
from zoo.errors import DataError
from zoo.language.transcription.decoding import Recogniser
from zoo.language.transcription.live import RATE_HZ, LiveTranscription
from zoo.types import Segment, Transcript


class LiveSession:
    """Sound of one microphone and its text.

    Args:
        model: a Whisper.
        recogniser_of: builds the recogniser from the loaded model.
        max_seconds: longest sound that is taken.
    """

    def __init__(self, model: LazyModel, recogniser_of: Callable[[object], Recogniser], max_seconds: float) -> None:
        self._model, self._recogniser_of, self._max_samples = model, recogniser_of, round(max_seconds * RATE_HZ)
        self._live: LiveTranscription | None = None
        self._pieces: list[np.ndarray] = []
        self._count = 0  # samples taken so far
        self._lock, self._worker = threading.Lock(), None
        self._error: Exception | None = None
        self.open_text = ""  # text that may still change

    @property
    def segments(self) -> list[Segment]:
        """Segments that are final."""
        return [] if self._live is None else self._live.segments

    def take(self, samples: np.ndarray) -> None:
        """Add samples at 16 kHz; returns at once.

        Raises:
            DataError: the sound is too long.
            ZooError: the sound before could not be transcribed.
        """
        self._raise()
        self._count += len(samples)
        if self._count > self._max_samples:
            raise DataError(f"live: {self._max_samples / RATE_HZ:g} s are reached; stop, and start again")
        with self._lock:
            self._pieces.append(samples)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, daemon=True)
                self._worker.start()

    def finish(self) -> Transcript:
        """Wait until all sound is transcribed, and return the transcript.

        Raises:
            DataError: no sound came.
            ZooError: the sound could not be transcribed.
        """
        with self._lock:
            worker = self._worker
        if worker is not None:
            worker.join()
        self._raise()
        if self._live is None:
            raise DataError("live: no sound came; allow the page to use the microphone, or connect one")
        with self._model.held():
            self._live.finish()
        return self._live.transcript()

    def _work(self) -> None:
        """Transcribe until no sound waits."""
        while True:
            with self._lock:
                pieces, self._pieces = self._pieces, []
                if not pieces or self._error is not None:
                    self._worker = None
                    return
            try:
                self._transcribe(np.concatenate(pieces))
            except Exception as error:  # raised again by the next event of the page
                self._error = error

    def _transcribe(self, samples: np.ndarray) -> None:
        with self._model.held() as model:
            self._live = self._live or LiveTranscription(self._recogniser_of(model))
            text = self._live.take(samples)
        if text is not None:
            self.open_text = f"{text.stable} {text.open}".strip()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
