"""Processor for speech synthesis: converts recordings to target frames, and predicted frames back to waveforms.

It is used if audio is a target, not an input: it reads ``inputs["audio"]`` of a sample and fills ``targets`` of the batch.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zoo.errors import ConfigError, ItemError, name_choices
from zoo.processors.media.audio_file import read_audio, resample, to_mono
from zoo.processors.media.griffin_lim import griffin_lim
from zoo.processors.media.tacotron_mel import COMPRESSIONS, Framing, compress, expand, from_mels, magnitudes, to_mels
from zoo.processors.media.vocoders import find_vocoder
from zoo.registry import register
from zoo.types import FRAMES, MAGNITUDES, MELS, ModalityProcessor

CLASSICAL, FAST = 0.0, 0.99  # momentum of the classical and of the fast Griffin-Lim algorithm
TRIM_WINDOW_SECONDS = 0.02  # loudness is measured in windows of this length


@register("processor")
class SpeechProcessor(ModalityProcessor):
    """Conversion of waveforms to compressed mels (and, if requested, linear magnitudes), and back by the Griffin-Lim algorithm.

    The defaults are those of NVIDIA's Tacotron 2.

    Args:
        sample_rate_hz: sample rate of the waveforms; recordings are resampled to it.
        window_samples: length of the window; None means ``num_fft``.
        hop_samples: samples from one frame to the next.
        lowest_hz: lower edge of the first mel filter.
        highest_hz: upper edge of the last mel filter.
        pre_emphasis: share of the previous sample that is subtracted from each sample.
        compression: "log" or "decibel", see ``zoo.processors.media.tacotron_mel.Framing``.
        linear: also make compressed magnitudes, ``targets["magnitudes"]``.
        trim_decibels: remove both ends of a recording that are this much quieter than its loudest window; None removes nothing.
        trim_seconds: length of the quiet margin that trimming leaves at both ends.
        max_seconds: longer recordings raise an error.
        power: exponent applied to the magnitudes before Griffin-Lim.
        iterations: number of Griffin-Lim iterations.
        momentum: momentum of Griffin-Lim; 0 is the classical algorithm.

    Raises:
        ConfigError: a number is outside its range, or ``compression`` is unknown.
    """

    target = True  # fills ``Batch.targets``, not ``Batch.inputs``
    modality = "audio"  # the modality of samples that it reads
    sample_rate_hz: int

    def __init__(
        self,
        *,
        sample_rate_hz: int = 22050,
        num_fft: int = 1024,
        window_samples: int | None = None,
        hop_samples: int = 256,
        num_mels: int = 80,
        lowest_hz: float = 0.0,
        highest_hz: float = 8000.0,
        pre_emphasis: float = 0.0,
        compression: str = "log",
        linear: bool = False,
        trim_decibels: float | None = None,
        trim_seconds: float = 0.05,
        max_seconds: float = 20.0,
        power: float = 1.0,
        iterations: int = 60,
        momentum: float = FAST,
    ) -> None:
        window = num_fft if window_samples is None else window_samples
        _refuse_numbers(sample_rate_hz, num_fft, window, hop_samples, num_mels, lowest_hz, highest_hz, pre_emphasis)
        if compression not in COMPRESSIONS:
            raise ConfigError(f"compression: there is no {compression!r}; {name_choices(compression, COMPRESSIONS)}")
        if max_seconds <= 0 or power <= 0 or iterations < 0 or not 0 <= momentum < 1 or trim_seconds < 0:
            raise ConfigError(
                f"max_seconds {max_seconds}, power {power}, iterations {iterations}, momentum {momentum}, trim_seconds {trim_seconds}; "
                "allowed are max_seconds and power above 0, iterations and trim_seconds from 0 on, and momentum from 0 to below 1"
            )
        self.framing = Framing(sample_rate_hz, num_fft, window, hop_samples, num_mels, lowest_hz, highest_hz, pre_emphasis, compression)
        self.sample_rate_hz, self.hop_samples, self.num_mels = sample_rate_hz, hop_samples, num_mels
        self.window_samples, self.linear, self.max_seconds = window_samples, linear, max_seconds
        self.trim_decibels, self.trim_seconds = trim_decibels, trim_seconds
        self.power, self.iterations, self.momentum = power, iterations, momentum

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's keywords, for ``processor.json``."""
        framing = ("num_fft", "lowest_hz", "highest_hz", "pre_emphasis", "compression")
        own = ("sample_rate_hz", "window_samples", "hop_samples", "num_mels", "linear", "trim_decibels", "trim_seconds", "max_seconds")
        found = {key: getattr(self.framing, key) for key in framing} | {key: getattr(self, key) for key in own}
        return {**found, "power": self.power, "iterations": self.iterations, "momentum": self.momentum}

    @property
    def quiet_level(self) -> float:
        """Compressed value up to which the loudest mel of a frame counts as silence."""
        return self.framing.quiet

    def item(self, raw: Any) -> dict[str, Float[Tensor, "rows frames"]]:
        """Process one recording to target frames.

        Args:
            raw: a path, the bytes of a file, ``(array, sample_rate_hz)``, samples at the processor's own rate, or mels as a tensor
                [num_mels, frames], which are only checked.

        Returns:
            "mels" [num_mels, frames] and, if ``linear``, "magnitudes" [bins, frames], both compressed.

        Raises:
            ItemError: the input is not a recording, cannot be used, or is too long.
        """
        if isinstance(raw, Tensor) and raw.ndim == 2:
            return {MELS: self._checked(raw)}
        spectrum = magnitudes(torch.from_numpy(self.waveform(raw)), self.framing)
        found = {MELS: to_mels(spectrum, self.framing)}
        return {**found, MAGNITUDES: compress(spectrum, self.framing)} if self.linear else found

    def waveform(self, raw: Any) -> Float[np.ndarray, " samples"]:
        """Load a recording as one channel of trimmed samples at the processor's sample rate.

        Raises:
            ItemError: as ``item``.
        """
        if isinstance(raw, str | Path | bytes):
            samples, rate = read_audio(raw, max_seconds=self.max_seconds)
        else:
            values, rate = raw if isinstance(raw, tuple) and len(raw) == 2 else (raw, self.sample_rate_hz)
            values = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
            if not isinstance(values, np.ndarray):
                raise ItemError(f"a recording cannot be made from {type(values).__name__}; give a path, or samples as an array", "audio")
            samples = to_mono(values)
        samples = resample(samples, rate, self.sample_rate_hz)
        samples = self._trimmed(samples)
        if len(samples) > self.max_seconds * self.sample_rate_hz:
            seconds = len(samples) / self.sample_rate_hz
            most = self.max_seconds
            raise ItemError(f"a recording lasts {seconds:.1f} s; max_seconds allows {most:g}", "audio")
        return samples

    def _trimmed(self, samples: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " kept"]:
        if self.trim_decibels is None:
            return samples
        width = max(1, round(TRIM_WINDOW_SECONDS * self.sample_rate_hz))
        levels = np.sqrt(np.add.reduceat(samples.astype(np.float64) ** 2, np.arange(0, len(samples), width)) / width)
        loud = np.flatnonzero(levels > levels.max() * 10 ** (-self.trim_decibels / 20))
        if not len(loud):
            raise ItemError("a recording is silent; leave it out", "audio")
        margin = round(self.trim_seconds * self.sample_rate_hz)
        return samples[max(0, loud[0] * width - margin) : (loud[-1] + 1) * width + margin]

    def collate(self, items: Sequence[Mapping[str, Float[Tensor, "rows _"]]]) -> dict[str, Tensor]:
        """Pad recordings at the end with the value of silence; the target "frames" [batch, length] is True at real frames."""
        lengths = torch.tensor([item[MELS].shape[1] for item in items])
        longest = int(lengths.max())
        found = {FRAMES: torch.arange(longest) < lengths[:, None]}
        for name in items[0]:
            found[name] = torch.full((len(items), items[0][name].shape[0], longest), self.framing.floor)
            for row, item in zip(found[name], items, strict=True):
                row[:, : item[name].shape[1]] = item[name]
        return found

    def __call__(self, raw: Any) -> dict[str, Tensor]:
        """Process a list of recordings to targets."""
        return self.collate([self.item(each) for each in raw])

    def meta(self, batch_size: int) -> dict[str, Tensor]:
        """Return targets of a tenth of a second without data, for checks on the meta device; a decoder runs once for each frame."""
        frames = 1 + self.sample_rate_hz // 10 // self.hop_samples
        sizes = {MELS: self.num_mels} | ({MAGNITUDES: self.framing.num_bins} if self.linear else {})
        found = {name: torch.empty(batch_size, rows, frames, device="meta") for name, rows in sizes.items()}
        return {**found, FRAMES: torch.empty(batch_size, frames, dtype=torch.bool, device="meta")}

    def to_waveform(self, mels: Float[Tensor, "num_mels frames"], *, seed: int = 0) -> Float[Tensor, " samples"]:
        """Convert compressed mels to a waveform by the pseudo-inverse of the mel filters and Griffin-Lim."""
        return self._sound(from_mels(mels, self.framing), seed)

    def vocoder(self, name: str, *, seed: int = 0) -> Callable[[Tensor, Tensor | None], Tensor]:
        """Return a function from mels, and compressed magnitudes or None, to a waveform.

        Args:
            name: "griffin_lim", or a vocoder of ``zoo.processors.media.vocoders``; those ignore the magnitudes.
            seed: seed of the random initial phases of Griffin-Lim.

        Raises:
            ConfigError: the vocoder is unknown or not installed, or was trained with other mel settings.
        """
        if name == "griffin_lim":
            return lambda mels, spectrum: (
                self.to_waveform(mels, seed=seed) if spectrum is None else self.from_magnitudes(spectrum, seed=seed)
            )
        found = find_vocoder(name, self.framing)
        return lambda mels, spectrum: found(mels)

    def log_mels(self, mels: Float[Tensor, "num_mels frames"]) -> Float[Tensor, "num_mels frames"]:
        """Convert compressed mels to natural logarithms, for either compression."""
        return mels if self.framing.compression == "log" else expand(mels, self.framing).log()

    def from_magnitudes(self, values: Float[Tensor, "bins frames"], *, seed: int = 0) -> Float[Tensor, " samples"]:
        """Convert compressed magnitudes to a waveform by Griffin-Lim."""
        return self._sound(expand(values, self.framing), seed)

    def _sound(self, spectrum: Tensor, seed: int) -> Tensor:
        waveform = griffin_lim(spectrum, self.framing, power=self.power, iterations=self.iterations, momentum=self.momentum, seed=seed)
        return waveform / max(1.0, float(waveform.abs().max()))  # scaled down if it would clip

    def _checked(self, mels: Tensor) -> Tensor:
        if len(mels) != self.num_mels or not mels.is_floating_point() or not mels.shape[1]:
            raise ItemError(
                f"mels are {mels.dtype} of shape {list(mels.shape)}; allowed are floating-point mels [{self.num_mels}, frames]", "audio"
            )
        return mels.float()


def _refuse_numbers(
    rate: int, num_fft: int, window: int, hop: int, num_mels: int, lowest: float, highest: float, pre_emphasis: float
) -> None:
    if not 0 < hop <= window <= num_fft or rate < 1000:
        raise ConfigError(
            f"sample_rate_hz {rate}, hop_samples {hop}, window_samples {window}, num_fft {num_fft}; allowed are a sample rate of at least "
            "1000 and hop_samples <= window_samples <= num_fft"
        )
    if not 0 <= lowest < highest <= rate / 2:
        raise ConfigError(
            f"lowest_hz {lowest:g}, highest_hz {highest:g}; at sample_rate_hz {rate} allowed is 0 <= lowest_hz < highest_hz <= {rate / 2:g}"
        )
    if not 1 <= num_mels <= num_fft // 4 or not 0 <= pre_emphasis < 1:
        raise ConfigError(
            f"num_mels {num_mels}, pre_emphasis {pre_emphasis}; allowed are num_mels 1 to num_fft / 4 and pre_emphasis 0 to below 1"
        )
