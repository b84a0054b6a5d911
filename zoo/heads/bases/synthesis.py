"""Speech synthesis of the Tacotron heads: decoding of several texts, stop rules, and faults that the alignment shows.

A decoder may lose its place in the text: it skips words, repeats them, or never stops. The alignment (attention of each decoder step over
the characters) shows this. Each ``Speech`` therefore holds its alignment, two figures computed from it, and a list of faults.
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
    all_real,
    diagonality,
    focus,
)


@dataclass(frozen=True)
class Spoken:
    """Decoder output for a batch of texts, before the vocoder; values after the last step of a row have no meaning.

    Attributes:
        frames: log-mels, or other features that the processor turns into waveforms.
        num_frames: number of valid frames of each text.
        alignments: attention of each step over the characters; a step makes ``reduction`` frames.
        num_steps: number of valid steps of each text.
        reasons: stop reason of each text, one of ``zoo.types.REASONS``.
        magnitudes: linear magnitude spectra; None if the head does not predict them.
    """

    frames: Float[Tensor, "batch num_mels frames"]
    num_frames: Int[Tensor, " batch"]
    alignments: Float[Tensor, "batch steps length"]
    num_steps: Int[Tensor, " batch"]
    reasons: list[str]
    magnitudes: Float[Tensor, "batch bins frames"] | None = None


class StopWatch:
    """Stop rules: finds the step at which each text of a batch ends.

    Args:
        lengths: number of characters of each text.
        threshold: a stop probability above this ends the text.
        rest: number of steps with attention on the last character that end the text; None switches this rule off.
        silent: number of successive silent steps that end the text; None switches this rule off.
        quiet: a step is silent if its loudest mel is below this level.
    """

    every = 8  # steps between two checks, because each check waits for the device

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
        """Record a step; return True if all texts are known to have ended."""
        self._kept.append((stop, weights.argmax(1), group.amax(1)))  # stays on the device: a check copies eight steps at once
        return len(self._kept) == self.every and self.look()

    def look(self) -> bool:
        """Apply the stop rules to the steps recorded since the last check; return True if all texts have ended."""
        for stop, place, level in self._kept:
            self._resting = torch.where(place >= self.last, self._resting + 1, 0)
            self._quiet_for = torch.where(level < self.quiet, self._quiet_for + 1, 0)
            now = [  # in order of trust: if several rules fire in one step, the first one names the reason
                (STOP_TOKEN, None if stop is None else stop.sigmoid() > self.threshold),
                (SATURATED, None if self.rest is None else self._resting >= self.rest),
                (SILENCE, None if self.silent is None else self._quiet_for >= self.silent),
            ]
            self.steps += 1
            for reason, over in now:
                new = None if over is None else over & (self.ends < 0)  # a text that has ended keeps its first reason
                if new is not None and bool(new.any()):
                    self.ends[new] = self.steps
                    for row in new.nonzero()[:, 0].tolist():
                        self.reasons[row] = reason
        self._kept.clear()
        return bool((self.ends >= 0).all())

    def num_steps(self) -> Int[Tensor, " batch"]:
        """Return the number of steps of each text; a text that never ended has all recorded steps."""
        self.look()
        return torch.where(self.ends < 0, self.steps, self.ends)


@dataclass(frozen=True)
class Pace:
    """Duration of a decoder step and level of silence; both are 0 (unknown) without a processor for speech."""

    steps_per_second: float = 0.0
    quiet: float = 0.0

    @classmethod
    def of(cls, sound: Any, reduction: int) -> "Pace":
        """Read both from the processor ``speech``; ``sound`` is None if the system has no such processor."""
        return cls() if sound is None else cls(sound.sample_rate_hz / sound.hop_samples / reduction, sound.quiet_level)

    def steps(self, seconds: float) -> int:
        """Return the number of decoder steps in a duration, at least one."""
        return max(1, round(seconds * self.steps_per_second))

    def watch(
        self, mask: Bool[Tensor, "batch length"], *, threshold: float, rest_seconds: float | None, silent_seconds: float | None
    ) -> StopWatch:
        """Return the stop rules for texts of these lengths; a duration of None switches its rule off."""
        rest, silent = (self.steps(each) if each and self.steps_per_second else None for each in (rest_seconds, silent_seconds))
        return StopWatch(mask.sum(1), threshold=threshold, rest=rest, silent=silent, quiet=self.quiet)


def say_groups(
    step: Callable[[Tensor, int], tuple[Tensor, Tensor | None, Tensor]],
    first: Float[Tensor, "batch num_mels"],
    watch: StopWatch,
    limit: int,
) -> tuple[list[Tensor], list[Tensor]]:
    """Run a decoder step by step until all texts have ended, and return the groups of frames and the attention of each step.

    Args:
        step: takes the previous frame and the number of the step; returns a group of frames, the stop logit (None if the decoder has
            no stop token) and the attention over the characters.
        first: frame that the first step takes as its previous one.
        watch: stop rules.
        limit: largest number of steps.
    """
    groups, alignments, frame = [], [], first
    for number in range(limit):
        group, stop, weights = step(frame, number)
        frame = group[:, -first.shape[1] :]  # the last frame of the group is fed back (Wang et al. 2017, section 3.3)
        groups.append(group)
        alignments.append(weights)
        if watch.add(stop, weights, group):
            break
    return groups, alignments


def targets_of(batch: Batch, num_mels: int) -> tuple[Float[Tensor, "batch num_mels frames"], Bool[Tensor, "batch frames"]]:
    """Return the target mels of a batch and their mask, which is True at real frames.

    Raises:
        DataError: the batch has no mels, or their number of bands is not ``num_mels``.
    """
    mels = batch.targets.get(MELS)
    if mels is None or mels.ndim != 3 or mels.shape[1] != num_mels:
        found = "has no mels" if mels is None else f"has {list(mels.shape)}"
        raise DataError(
            f"targets[{MELS!r}] must be mels [batch, {num_mels}, frames]; the batch {found}; give the system a processor 'speech' with "
            f"num_mels {num_mels}, and use a data source with recordings"
        )
    mask = batch.targets.get(FRAMES)
    return mels, all_real(mels[:, 0].shape, mels.device) if mask is None else mask


def alignment_faults(alignment: Float[Tensor, "steps length"], reason: str) -> list[str]:
    """Return the faults that an alignment shows, as short phrases; empty if it shows none."""
    places = alignment.argmax(1)
    if len(places) < 2:
        return ["has fewer than two decoder steps"]
    moves, length = places.diff(), alignment.shape[1]
    seen = int(places.max())
    found = []
    if focus(alignment) < LEAST_FOCUS:
        found.append("attention is diffuse")
    if diagonality(alignment) < LEAST_DIAGONALITY:
        found.append("attention is off the diagonal")
    if int(moves.max()) > LARGEST_JUMP or int(places[0]) > LARGEST_JUMP:  # the first step may also start too late in the text
        found.append("skips text")
    if int(moves.min()) < -LARGEST_RETURN:
        found.append("goes back in the text")
    if seen < length - 1 - UNREAD:
        found.append(f"ends before the text does (character {seen + 1} of {length})")
    if reason == STEP_LIMIT:
        found.append("does not end")
    return found


def speak(
    head: Any,
    system: Any,
    texts: Sequence[str],
    *,
    batch_size: int,
    max_seconds: float,
    seed: int,
    vocoder: str,
    settings: Mapping[str, Any],
) -> list[Speech]:
    """Synthesize texts: the verb ``synthesize`` of heads that define ``say(encoded, ...) -> Spoken``.

    Args:
        head: a head that defines ``say``.
        system: the system of the head; its processor ``speech`` makes the waveforms.
        texts: texts to speak.
        batch_size: number of texts decoded together.
        max_seconds: longest duration of one text.
        seed: of dropout and of the vocoder.
        vocoder: name of the method that turns mels into a waveform, see ``zoo.processors.speech``.
        settings: further keywords of ``say``.

    Raises:
        ConfigError: a number is not positive, the speaker does not exist, or the system cannot make waveforms.
        DataError: ``texts`` is a single string, or a text has no letters and no digits.
    """
    if settings.get("speaker") is None and head.num_speakers:
        raise ConfigError(f"speaker: this model has {head.num_speakers} voices; choose one with a number from 0 to {head.num_speakers - 1}")
    if settings.get("speaker") is not None and not 0 <= settings["speaker"] < head.num_speakers:
        raise ConfigError(
            f"speaker: {settings['speaker']}; this model has {head.num_speakers or 1} voice(s), numbered from 0"
            + ("" if head.num_speakers else "; do not give a speaker")
        )
    if batch_size < 1 or max_seconds <= 0:
        raise ConfigError(f"batch_size {batch_size}, max_seconds {max_seconds}: batch_size must be 1 or more, and max_seconds more than 0")
    if isinstance(texts, str):
        raise DataError(f"synthesize takes a list of texts; got one string, {texts[:40]!r}: put it in a list")
    if system.processor is None or "speech" not in system.processor.parts:
        raise ConfigError("this system has no processor 'speech', so it cannot make waveforms; load the system from a saved directory")
    sound, found = system.processor["speech"], []
    make = sound.vocoder(vocoder, seed=seed)
    for text in texts:
        if not isinstance(text, str) or not any(map(str.isalnum, text)):
            raise DataError(f"{text!r} contains nothing that can be spoken; give a text with letters or digits")
    for start in range(0, len(texts), batch_size):
        chunk = list(texts[start : start + batch_size])
        encoded = system.encode("text", chunk)
        spoken = head.say(encoded, sound=sound, max_seconds=max_seconds, seed=seed, **settings)
        found += [_speech(spoken, row, text, encoded.mask[row], sound.sample_rate_hz, make) for row, text in enumerate(chunk)]
    return found


def _speech(spoken: Spoken, row: int, text: str, mask: Bool[Tensor, " length"], sample_rate_hz: int, make: Any) -> Speech:
    frames, steps = int(spoken.num_frames[row]), int(spoken.num_steps[row])
    mels = spoken.frames[row, :, :frames].float().cpu()  # vocoders and plots need float32 on the CPU
    alignment = spoken.alignments[row, :steps, : int(mask.sum())].float().cpu()
    magnitudes = None if spoken.magnitudes is None else spoken.magnitudes[row, :, :frames].float().cpu()
    reason = spoken.reasons[row]
    figures = (diagonality(alignment), focus(alignment), alignment_faults(alignment, reason))
    return Speech(text, make(mels, magnitudes), sample_rate_hz, mels, alignment, reason, *figures)
