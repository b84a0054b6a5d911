"""What was heard in a recording: its text, in segments with times and, where asked for, in words."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Word:
    """One word with the punctuation at it.

    Attributes:
        text: begins with a space, where the language has spaces between words.
        start: seconds from the beginning of the recording; likewise ``end``.
        probability: mean of its tokens'.
    """

    text: str
    start: float
    end: float
    probability: float


@dataclass(frozen=True)
class Segment:
    """What was said from one timestamp to the next.

    Attributes:
        id: its place among the recording's segments.
        start: seconds from the beginning of the recording; likewise ``end``.
        text: as the model wrote it, mostly with a space before it; empty where it has no length or no words.
        token_ids: those of the text, and the timestamps around it.
        temperature: at which the segment's window was decoded.
        average_log_probability: of the tokens of its window; likewise ``compression_ratio`` (bytes of the text to those of the text
            compressed) and ``no_speech_probability`` are its window's.
        words: None where they were not asked for.
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
    """A whole recording.

    Attributes:
        text: of all segments.
        language: the code that was given, or the one that the model found.
        duration_s: of the recording.
    """

    text: str
    segments: list[Segment]
    language: str
    duration_s: float

    def as_json(self) -> dict[str, Any]:
        """Plain lists, dictionaries and numbers."""
        return asdict(self)
