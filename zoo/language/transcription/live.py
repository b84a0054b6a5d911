"""Transcription of sound while it comes in.

Machacek et al. 2023 (Whisper-Streaming, arXiv 2307.14743), section 3: the model transcribes all sound that is not final yet, again and
again. Words that two transcripts in a row begin with are stable. Where we differ: the text becomes final by the same decoding as that of a
file, at a pause or when a window of 30 s is nearly full, so that it is as good as the file's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zoo.errors import DataError
from zoo.language.transcription.decoding import Recogniser
from zoo.language.transcription.windows import transcribe_each
from zoo.processors.media.log_mel import WHISPER
from zoo.types import Segment, Transcript

RATE_HZ = WHISPER.sample_rate_hz
LEAST_S = 0.5  # less new sound is not worth a pass of the model
# Sound that is not final yet. From the first length on, complete segments become final without a pause, so that a pass of the model stays
# short; at the second, one segment alone does, before the window of 30 s is full.
LONG_S, FULL_S = 14.0, 26.0
PAUSE_S, PAUSE_AFTER_S = 0.8, 6.0  # a pause of the first length ends a passage of the second
QUIET = 0.03  # loudness of a pause, as a share of the loudest tenth of the passage
PROMPT_LETTERS = 400  # of the final text, as prompt for what follows


@dataclass(frozen=True)
class LiveText:
    """State of the text after a piece of sound.

    Attributes:
        final: segments that have become final now; their times count from the beginning.
        stable: beginning of the text that is not final yet, on which two transcripts in a row agree.
        open: rest of this text, which may still change.
    """

    final: tuple[Segment, ...]
    stable: str = ""
    open: str = ""


class LiveTranscription:
    """Transcription of one stream of sound; ``take`` each piece, then ``finish``.

    Args:
        recogniser: as ``recogniser_of`` makes it.
    """

    def __init__(self, recogniser: Recogniser) -> None:
        self.recogniser, self.settings = recogniser, recogniser.settings
        self.waiting = np.empty(0, dtype=np.float32)  # sound that is not final yet
        self.start_s, self.new_s = 0.0, 0.0  # where that begins, and how much of it no transcript has seen
        self.before: list[str] = []  # words of the last transcript
        self.stable: list[str] = []
        self.segments: list[Segment] = []
        self.language = self.settings.language

    def take(self, samples: np.ndarray) -> LiveText | None:
        """Add samples at 16 kHz; returns the text, or None if there is too little new sound for another pass of the model."""
        self.waiting = np.concatenate([self.waiting, np.asarray(samples, dtype=np.float32)])
        self.new_s += len(samples) / RATE_HZ
        if self.new_s < LEAST_S:
            return None
        self.new_s = 0.0
        if len(self.waiting) > LONG_S * RATE_HZ or self._pauses():
            return self._make_final(self._heard(quick=False), ends=self._pauses())
        return self._open_text(self._heard(quick=True))

    def finish(self) -> LiveText:
        """Return the rest of the text."""
        if not len(self.waiting):
            return LiveText(())
        return self._make_final(self._heard(quick=False), ends=True)

    def transcript(self) -> Transcript:
        """Return all text that is final."""
        duration_s = self.start_s + len(self.waiting) / RATE_HZ
        text = "".join(segment.text for segment in self.segments)
        return Transcript(text, list(self.segments), self.language or "en", duration_s)

    def _heard(self, *, quick: bool) -> Transcript:
        """Transcribe the waiting sound; quickly, that is greedily and without the silence up to 30 s."""
        previous = self.settings.initial_prompt
        if self.segments and self.settings.condition_on_previous_text:
            previous = "".join(segment.text for segment in self.segments)[-PROMPT_LETTERS:]
        changes: dict[str, Any] = {"language": self.language, "initial_prompt": previous}
        if quick:
            changes |= {
                "temperatures": (0.0,),
                "num_beams": None,
                "patience": None,
                "best_of": None,
                "short": True,
                "word_timestamps": False,
            }
        self.recogniser.settings = replace(self.settings, **changes)
        try:
            _, found = next(transcribe_each(self.recogniser, [self.waiting]))
        finally:
            self.recogniser.settings = self.settings
        if isinstance(found, DataError):
            raise found
        if not quick and found.text.strip():
            self.language = found.language  # found once, from the first text that became final
        return found

    def _open_text(self, heard: Transcript) -> LiveText:
        words = heard.text.split()
        self.stable = _common(self.before, words)
        self.before = words
        return LiveText((), " ".join(self.stable), " ".join(words[len(self.stable) :]))

    def _make_final(self, heard: Transcript, *, ends: bool) -> LiveText:
        """Make segments final: all at a pause or the end, else all but the last, whose end is not known."""
        duration_s = len(self.waiting) / RATE_HZ
        full = ends or duration_s >= FULL_S
        spoken = [segment for segment in heard.segments if segment.text.strip()]
        rest: list[Segment] = []
        if not ends and len(spoken) > 1:
            spoken, rest = spoken[:-1], spoken[-1:]
        elif not full:
            return self._open_text(heard)
        until_s = duration_s if ends or not spoken else min(rest[0].start if rest else spoken[-1].end, duration_s)
        final = tuple(_later(segment, self.start_s, len(self.segments) + n) for n, segment in enumerate(spoken))
        self.segments += final
        # At least a tenth of a second, or the sound would never become less.
        self.waiting = self.waiting[max(round(until_s * RATE_HZ), RATE_HZ // 10) :]
        self.start_s += duration_s - len(self.waiting) / RATE_HZ
        self.before = " ".join(segment.text for segment in rest).split()
        self.stable = []
        return LiveText(final, "", " ".join(self.before))

    def _pauses(self) -> bool:
        """Return True if the sound is long enough for a passage and ends with a pause."""
        if len(self.waiting) < PAUSE_AFTER_S * RATE_HZ:
            return False
        tenth = RATE_HZ // 10
        pieces = self.waiting[: len(self.waiting) // tenth * tenth].reshape(-1, tenth)
        loudness = np.sqrt(np.square(pieces).mean(axis=1))
        return bool(loudness[-round(PAUSE_S * 10) :].max() <= QUIET * loudness.max())


def _common(before: Sequence[str], now: Sequence[str]) -> list[str]:
    """Return the words with which both texts begin."""
    count = 0
    for first, second in zip(before, now, strict=False):
        if first != second:
            break
        count += 1
    return list(now[:count])


def _later(segment: Segment, seconds: float, number: int) -> Segment:
    """Return the segment with its times moved."""
    words = segment.words
    if words is not None:
        words = [replace(word, start=word.start + seconds, end=word.end + seconds) for word in words]
    return replace(segment, id=number, start=segment.start + seconds, end=segment.end + seconds, words=words)
