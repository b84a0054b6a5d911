"""Outputs of a system's verbs: ``Speech`` and ``Transcript``."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

STOP_TOKEN, SATURATED, STEP_LIMIT, SILENCE = "stop token", "attention saturated", "step limit", "silence"
REASONS = (STOP_TOKEN, SATURATED, SILENCE, STEP_LIMIT)
BAND = 0.25  # of the text's length: what lies nearer to the diagonal counts as on it
LEAST_DIAGONALITY, LEAST_FOCUS = 0.7, 0.3
LARGEST_JUMP, LARGEST_RETURN = 8, 3  # characters that attention may step over, and go back
UNREAD = 4  # characters at the end that may stay unread


@dataclass(frozen=True)
class Speech:
    """One utterance.

    Attributes:
        waveform: in [-1, 1].
        mels: from which the waveform was made.
        alignment: where each step of the decoder looked in the text.
        stop_reason: one of ``REASONS``.
        faults: what the alignment shows to be wrong, in words; empty where nothing is.
    """

    text: str
    waveform: Float[Tensor, " samples"]
    sample_rate_hz: int
    mels: Float[Tensor, "num_mels frames"]
    alignment: Float[Tensor, "steps length"]
    stop_reason: str
    diagonality: float
    focus: float
    faults: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.waveform) / self.sample_rate_hz

    @property
    def is_aligned(self) -> bool:
        """Whether the text was read from beginning to end, as far as the alignment tells."""
        return not self.faults


def diagonality(alignment: Float[Tensor, "steps length"], band: float = BAND) -> float:
    """Share of attention within a band around the diagonal: 1 for a text read at an even pace, ``2 band`` and less for none.

    Source: Chen et al. 2020 (MultiSpeech, arXiv 2006.04664), section 3.1, "diagonal attention rate".
    """
    steps, length = alignment.shape
    rows = (torch.arange(steps, device=alignment.device) + 0.5) / steps
    columns = (torch.arange(length, device=alignment.device) + 0.5) / length
    near = (rows[:, None] - columns).abs() <= band
    return float((alignment * near).sum() / alignment.sum().clamp(min=1e-9))


def focus(alignment: Float[Tensor, "steps length"]) -> float:
    """Mean over steps of the largest weight: 1 where every step looks at one character.

    Source: Ren et al. 2019 (FastSpeech, arXiv 1905.09263), section 3.2, "focus rate".
    """
    return float(alignment.amax(1).mean())


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
