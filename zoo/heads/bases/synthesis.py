"""What a system says: waveform and alignment, why it stopped, and what is wrong with it where something is.

A model that reads aloud may lose its place: skip words, say them twice, or never end. Its alignment tells, so that every utterance
carries it, with figures made of it and the faults that these show.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.errors import ConfigError, DataError
from zoo.types import (
    FRAMES,
    LARGEST_JUMP,
    LARGEST_RETURN,
    LEAST_DIAGONALITY,
    LEAST_FOCUS,
    MELS,
    SATURATED,
    SILENCE,
    STEP_LIMIT,
    STOP_TOKEN,
    UNREAD,
    Batch,
    Speech,
    diagonality,
    focus,
)


@dataclass(frozen=True)
class Spoken:
    """What a decoder gives for a batch of texts, before it becomes sound; steps behind a row's own are of no meaning.

    Attributes:
        frames: log-mels, or what else the processor makes waveforms of.
        num_frames: of each text.
        alignments: steps may be fewer than frames (``reduction``).
        num_steps: of each text.
        reasons: why each stopped.
        magnitudes: linear ones, of heads that give them.
    """

    frames: Float[Tensor, "batch num_mels frames"]
    num_frames: Int[Tensor, " batch"]
    alignments: Float[Tensor, "batch steps length"]
    num_steps: Int[Tensor, " batch"]
    reasons: list[str]
    magnitudes: Float[Tensor, "batch bins frames"] | None = None


class StopWatch:
    """Finds the step at which each text of a batch is over; asked after every step, it looks at a few at once.

    Args:
        lengths: characters of each text.
        threshold: of the probability of the stop token.
        rest: steps in which attention may stay on the last character; None: for ever.
        silent: steps in which no sound is heard before it is over; None: for ever.
        quiet: the level (of the loudest mel of a step) below which no sound is heard.
    """

    every = 8  # steps between two looks: each waits for the device

    def __init__(
        self,
        lengths: Int[Tensor, " batch"],
        *,
        threshold: float = 0.5,
        rest: int | None = None,
        silent: int | None = None,
        quiet: float = 0.0,
    ) -> None:
        self.last, self.threshold, self.rest, self.silent, self.quiet = lengths - 1, threshold, rest, silent, quiet
        self.steps = 0
        self.ends = torch.full_like(lengths, -1)
        self.reasons = [STEP_LIMIT] * len(lengths)
        self._resting = torch.zeros_like(lengths)
        self._quiet_for = torch.zeros_like(lengths)
        self._kept: list[tuple[Tensor | None, Tensor, Tensor]] = []

    def add(
        self, stop: Float[Tensor, " batch"] | None, weights: Float[Tensor, "batch length"], group: Float[Tensor, "batch group"]
    ) -> bool:
        """Take note of a step; returns whether all are known to be over."""
        self._kept.append((stop, weights.argmax(1), group.amax(1)))
        return len(self._kept) == self.every and self.look()

    def look(self) -> bool:
        """Look at the steps since the last look; returns whether all are over."""
        for stop, place, level in self._kept:
            self._resting = torch.where(place >= self.last, self._resting + 1, 0)
            self._quiet_for = torch.where(level < self.quiet, self._quiet_for + 1, 0)
            now = [
                (STOP_TOKEN, None if stop is None else stop.sigmoid() > self.threshold),
                (SATURATED, None if self.rest is None else self._resting >= self.rest),
                (SILENCE, None if self.silent is None else self._quiet_for >= self.silent),
            ]
            self.steps += 1
            for reason, over in now:
                new = None if over is None else over & (self.ends < 0)
                if new is not None and bool(new.any()):
                    self.ends[new] = self.steps
                    for row in new.nonzero()[:, 0].tolist():
                        self.reasons[row] = reason
        self._kept.clear()
        return bool((self.ends >= 0).all())

    def num_steps(self) -> Int[Tensor, " batch"]:
        """Of each text; those that never ended have all."""
        self.look()
        return torch.where(self.ends < 0, self.steps, self.ends)


@dataclass(frozen=True)
class Pace:
    """How long a step of a decoder lasts, and below which level nothing is heard; without a processor nobody knows."""

    steps_per_second: float = 0.0
    quiet: float = 0.0

    @classmethod
    def of(cls, sound: Any, reduction: int) -> "Pace":
        """Of the processor ``speech``, which may be None."""
        return cls() if sound is None else cls(sound.sample_rate_hz / sound.hop_samples / reduction, sound.quiet_level)

    def steps(self, seconds: float) -> int:
        """As many steps as last so long, one at least."""
        return max(1, round(seconds * self.steps_per_second))

    def watch(
        self, mask: Bool[Tensor, "batch length"], *, threshold: float, rest_seconds: float | None, silent_seconds: float | None
    ) -> StopWatch:
        """What ends texts of these lengths; None for what shall not."""
        rest, silent = (self.steps(each) if each and self.steps_per_second else None for each in (rest_seconds, silent_seconds))
        return StopWatch(mask.sum(1), threshold=threshold, rest=rest, silent=silent, quiet=self.quiet)


def say_groups(
    step: Callable[[Tensor, int], tuple[Tensor, Tensor | None, Tensor]],
    first: Float[Tensor, "batch num_mels"],
    watch: StopWatch,
    limit: int,
) -> tuple[list[Tensor], list[Tensor]]:
    """Groups of frames and where each step looked, until all texts are over, or so many steps are done.

    Args:
        step: gives group, stop logit and attention for the frame before and the number of the step.
        first: what is fed to the first step.
    """
    groups, alignments, frame = [], [], first
    for number in range(limit):
        group, stop, weights = step(frame, number)
        frame = group[:, -first.shape[1] :]
        groups.append(group)
        alignments.append(weights)
        if watch.add(stop, weights, group):
            break
    return groups, alignments


def targets_of(batch: Batch, num_mels: int) -> tuple[Float[Tensor, "batch num_mels frames"], Bool[Tensor, "batch frames"]]:
    """The frames to be said, and which of them are real.

    Raises:
        DataError: there are none, or of another number of mels.
    """
    mels = batch.targets.get(MELS)
    if mels is None or mels.ndim != 3 or mels.shape[1] != num_mels:
        what = "has none" if mels is None else f"has {list(mels.shape)}"
        raise DataError(
            f"targets[{MELS!r}] are to be mels [batch, {num_mels}, frames]; the batch {what}: give the system a processor 'speech' with "
            f"num_mels {num_mels}, and samples with sound"
        )
    mask = batch.targets.get(FRAMES)
    return mels, torch.ones_like(mels[:, 0], dtype=torch.bool) if mask is None else mask


def alignment_faults(alignment: Float[Tensor, "steps length"], reason: str) -> list[str]:
    """What is wrong with a reading, in words."""
    places = alignment.argmax(1)
    if len(places) < 2:
        return ["says nothing"]
    moves, length = places.diff(), alignment.shape[1]
    seen = int(places.max())
    found = []
    if focus(alignment) < LEAST_FOCUS:
        found.append("attention is diffuse")
    if diagonality(alignment) < LEAST_DIAGONALITY:
        found.append("attention is off the diagonal")
    if int(moves.max()) > LARGEST_JUMP or int(places[0]) > LARGEST_JUMP:
        found.append("skips text")
    if int(moves.min()) < -LARGEST_RETURN:
        found.append("goes back in the text")
    if seen < length - 1 - UNREAD:
        found.append(f"ends before the text does (character {seen + 1} of {length})")
    if reason == STEP_LIMIT:
        found.append("does not end")
    return found


def speak(
    head: Any, system: Any, texts: Sequence[str], *, batch_size: int, max_seconds: float, seed: int, vocoder: str, words: Mapping[str, Any]
) -> list[Speech]:
    """The verb ``synthesize`` of heads that have ``say(encoded, ...) -> Spoken``.

    Args:
        vocoder: what makes waveforms of mels, see ``zoo.processors.speech``.
        words: further arguments of ``say``.

    Raises:
        ConfigError: numbers that are not positive, or a system that makes no waveforms.
        DataError: no texts, or one without anything to say.
    """
    if words.get("speaker") is None and head.num_speakers:
        raise ConfigError(f"speaker: this model has {head.num_speakers} voices; say which, 0 to {head.num_speakers - 1}")
    if words.get("speaker") is not None and not 0 <= words["speaker"] < head.num_speakers:
        raise ConfigError(
            f"speaker: {words['speaker']}; this model has {head.num_speakers or 1} voice(s), counted from 0"
            + ("" if head.num_speakers else ": leave it out")
        )
    if batch_size < 1 or max_seconds <= 0:
        raise ConfigError(f"batch_size {batch_size}, max_seconds {max_seconds}; allowed are 1 or more, and more than 0")
    if isinstance(texts, str):
        raise DataError(f"synthesize takes a list of texts; got one string, {texts[:40]!r}: put it in a list")
    if system.processor is None or "speech" not in system.processor.parts:
        raise ConfigError("this system has no processor 'speech', which makes waveforms; load it from a saved directory")
    sound, found = system.processor["speech"], []
    make = sound.vocoder(vocoder, seed=seed)
    for text in texts:
        if not isinstance(text, str) or not any(map(str.isalnum, text)):
            raise DataError(f"nothing to say in {text!r}; give a text with letters or numbers in it")
    for start in range(0, len(texts), batch_size):
        chunk = list(texts[start : start + batch_size])
        encoded = system.encode("text", chunk)
        spoken = head.say(encoded, sound=sound, max_seconds=max_seconds, seed=seed, **words)
        found += [_speech(spoken, row, text, encoded.mask[row], sound.sample_rate_hz, make) for row, text in enumerate(chunk)]
    return found


def _speech(spoken: Spoken, row: int, text: str, mask: Bool[Tensor, " length"], sample_rate_hz: int, make: Any) -> Speech:
    frames, steps = int(spoken.num_frames[row]), int(spoken.num_steps[row])
    mels = spoken.frames[row, :, :frames].float().cpu()
    alignment = spoken.alignments[row, :steps, : int(mask.sum())].float().cpu()
    magnitudes = None if spoken.magnitudes is None else spoken.magnitudes[row, :, :frames].float().cpu()
    reason = spoken.reasons[row]
    figures = (diagonality(alignment), focus(alignment), alignment_faults(alignment, reason))
    return Speech(text, make(mels, magnitudes), sample_rate_hz, mels, alignment, reason, *figures)
