"""Outputs of a system's verbs: ``Speech`` and ``Transcript``."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

STOP_TOKEN, SATURATED, STEP_LIMIT, SILENCE = "stop token", "attention saturated", "step limit", "silence"
REASONS = (STOP_TOKEN, SATURATED, SILENCE, STEP_LIMIT)
BAND = 0.25  # as a share of the text's length: attention within this distance counts as on the diagonal
LEAST_DIAGONALITY, LEAST_FOCUS = 0.7, 0.3
LARGEST_JUMP, LARGEST_RETURN = 8, 3  # characters by which attention may jump forwards and backwards without a fault
UNREAD = 4  # characters at the end of the text that may get no attention without a fault


@dataclass(frozen=True)
class Speech:
    """Synthesized speech of one text.

    Attributes:
        text: text that was spoken.
        waveform: samples in [-1, 1].
        sample_rate_hz: sample rate of the waveform.
        mels: mel spectrogram from which the waveform was computed.
        alignment: attention of each decoder step over the characters.
        stop_reason: one of ``REASONS``.
        diagonality: see the function ``diagonality``.
        focus: see the function ``focus``.
        faults: faults that the alignment shows, as short phrases; empty if it shows none.
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
        """Duration in seconds."""
        return len(self.waveform) / self.sample_rate_hz

    @property
    def is_aligned(self) -> bool:
        """True if the alignment shows no fault, so the text was probably read from beginning to end."""
        return not self.faults


def diagonality(alignment: Float[Tensor, "steps length"], band: float = BAND) -> float:
    """Return the share of attention within a band around the diagonal: 1 at an even pace, about ``2 * band`` for uniform attention.

    Source: Chen et al. 2020 (MultiSpeech, arXiv 2006.04664), section 3.1, "diagonal attention rate".
    """
    steps, length = alignment.shape
    rows = (torch.arange(steps, device=alignment.device) + 0.5) / steps
    columns = (torch.arange(length, device=alignment.device) + 0.5) / length
    near = (rows[:, None] - columns).abs() <= band
    return float((alignment * near).sum() / alignment.sum().clamp(min=1e-9))


def focus(alignment: Float[Tensor, "steps length"]) -> float:
    """Return the mean over steps of the largest attention weight: 1 if every step attends to a single character.

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
