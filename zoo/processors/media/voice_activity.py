"""Stretches of a recording with speech, from the probability of speech of each 32 ms.

Two detectors give the probabilities: Silero's model (``zoo.processors.media.silero``), and an energy rule for installations without it.
The rule takes whatever is louder than the background for speech; unlike the model it cannot tell music and noises from voices.
Thresholds of 0.5 and 0.35: the defaults of the package ``silero-vad``, ``get_speech_timestamps``.
"""

import logging
from functools import cache
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32

from zoo.processors.media.silero import FRAME_SAMPLES, SileroDetector, silero_file, silero_model

SAMPLE_RATE_HZ = 16000
FRAME_S = FRAME_SAMPLES / SAMPLE_RATE_HZ
DETECTORS = ("silero", "energy")
ON, OFF = 0.5, 0.35  # speech begins at a frame above the first, and ends before a frame below the second
SHORTEST_S = 0.09  # least speech, three frames; a melody of synthetic tones has single frames above ON
# In recordings shorter than 2 s a single frame is enough: of 551 telephone prompts, the spoken letter "a" has one frame above ON.
SHORT_RECORDING_S, SHORTEST_RECORDING_S = 2.0, 0.15  # no word is shorter than the second
# The energy rule, in decibels of full scale. Steady sounds (noise, hum, a tone) vary by less than SPREAD_DB; speech varies by 30 and more.
QUIETEST_DB, SPREAD_DB, ABOVE_FLOOR_DB, BELOW_PEAK_DB, SLOPE_DB = -60.0, 10.0, 6.0, 30.0, 3.0
Span = tuple[float, float]
log = logging.getLogger("zoo")


@runtime_checkable
class Detector(Protocol):
    """Voice-activity detector of one recording, which is given in blocks of samples at 16 kHz."""

    def take(self, samples: Float32[np.ndarray, " samples"]) -> None:
        """Take the next samples of the recording."""
        ...

    def finish(self) -> Float[np.ndarray, " frames"]:
        """Return the probability of speech of each frame of 512 samples; the last frame may be padded with silence."""
        ...


class EnergyDetector:
    """Detector by loudness: frames that are much louder than the background and not much softer than the loudest ones are speech."""

    def __init__(self) -> None:
        self.rest = np.empty(0, dtype=np.float32)
        self.levels: list[np.ndarray] = []  # decibels of each frame

    def take(self, samples: Float32[np.ndarray, " samples"]) -> None:
        """Take the next samples of the recording."""
        self.rest = np.concatenate([self.rest, samples])
        whole = len(self.rest) // FRAME_SAMPLES
        frames = self.rest[: whole * FRAME_SAMPLES].reshape(whole, FRAME_SAMPLES)
        power = frames.var(axis=1, dtype=np.float64)  # without the mean: a constant offset is no sound
        self.levels.append(10 * np.log10(np.maximum(power, 1e-12)))
        self.rest = self.rest[whole * FRAME_SAMPLES :]

    def finish(self) -> Float[np.ndarray, " frames"]:
        """Return 0.5 for frames at the threshold, and values towards 0 and 1 for softer and louder frames."""
        if len(self.rest):
            self.take(np.zeros(FRAME_SAMPLES - len(self.rest), dtype=np.float32))
        levels = np.concatenate([np.empty(0), *self.levels])
        if not len(levels):
            return levels
        floor, peak = (float(np.percentile(levels, share)) for share in (2, 95))
        if len(levels) * FRAME_S >= SHORT_RECORDING_S and peak - floor < SPREAD_DB:
            return np.zeros(len(levels))
        threshold = max(QUIETEST_DB, peak - BELOW_PEAK_DB, floor + min(ABOVE_FLOOR_DB, (peak - floor) / 2))
        return 1 / (1 + np.exp((threshold - levels) / SLOPE_DB))


def chosen_detector(name: str) -> str:
    """Return the detector that a name means: itself, and for "auto" Silero's model if its package is installed, else the energy rule.

    Raises:
        ConfigError: the package that the detector needs is missing.
        WeightsError: the package holds other weights.
    """
    if name == "auto" and silero_file() is None:
        _tell_fallback()
        return "energy"
    name = "silero" if name == "auto" else name
    if name == "silero":
        silero_model()
    return name


@cache  # once per process
def _tell_fallback() -> None:
    log.warning(
        "silence is found by loudness, which takes music and noises for speech, because silero-vad is not installed; zoo install vad"
    )


def new_detector(name: str) -> Detector:
    """Return a detector for one recording; ``name`` is one of ``DETECTORS``."""
    return SileroDetector() if name == "silero" else EnergyDetector()


def speech_spans(probabilities: Float[np.ndarray, " frames"], duration_s: float) -> list[Span]:
    """Return start and end of each stretch of speech, in seconds.

    >>> speech_spans(np.array([0.1, 0.2, 0.6, 0.9, 0.4, 0.4, 0.1]), 7 * 0.032)
    [(0.064, 0.192)]
    """
    if duration_s < SHORTEST_RECORDING_S:
        return []
    shortest = SHORTEST_S if duration_s >= SHORT_RECORDING_S else 0.0
    found, start = [], None
    for frame, probability in enumerate([*probabilities.tolist(), 0.0]):
        if start is None and probability > ON:
            start = frame
        elif start is not None and probability < OFF:
            found.append((round(start * FRAME_S, 3), round(min(frame * FRAME_S, duration_s), 3)))
            start = None
    return [(start, end) for start, end in found if end - start > shortest]
