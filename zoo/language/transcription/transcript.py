"""Transcript of a recording: text, segments with times, and optionally words with times."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Word:
    """One word with its punctuation.

    Attributes:
        text: text of the word; it begins with a space in languages with spaces between words.
        start: seconds from the beginning of the recording.
        end: seconds from the beginning of the recording.
        probability: mean probability of its tokens.
    """

    text: str
    start: float
    end: float
    probability: float


@dataclass(frozen=True)
class Segment:
    """Text between two timestamps.

    Attributes:
        id: index among the recording's segments.
        start: seconds from the beginning of the recording.
        end: seconds from the beginning of the recording.
        text: text as the model wrote it, usually with a leading space; empty if the segment has no duration or no words.
        token_ids: token ids of the text and of the timestamps around it.
        temperature: temperature at which the segment's window was decoded.
        average_log_probability: mean log-probability of the tokens of the segment's window.
        compression_ratio: bytes of the window's text / bytes of it compressed by zlib.
        no_speech_probability: probability that the window has no speech.
        words: words with times; None without ``word_timestamps``.
    """

    id: int
    start: float
    end: float
    text: str
    token_ids: list[int]
    temperature: float
    average_log_probability: float
    compression_ratio: float
    no_speech_probability: float
    words: list[Word] | None = None


@dataclass(frozen=True)
class Transcript:
    """Transcript of a whole recording.

    Attributes:
        text: text of all segments.
        segments: segments in order of time.
        language: given or detected language code.
        duration_s: duration of the recording in seconds.
    """

    text: str
    segments: list[Segment]
    language: str
    duration_s: float

    def as_json(self) -> dict[str, Any]:
        """Return the transcript as plain lists, dictionaries, strings and numbers."""
        return asdict(self)
