"""Mel spectrograms of CLAP in dB: one view of 10 s, or four views of a longer clip.

Paper: Wu et al. 2022 (CLAP, arXiv 2211.06687), section 3.3. Reference: transformers 5.17 ``feature_extraction_clap.py``.

Where we differ:

* A long clip is cut at fixed places, so that its vector is always the same: without fusion its first 10 s are taken, with fusion the middle
  one of the reference's possible starts of the first, middle and last part. The reference draws each at random.
* No clip is marked as longer unless it is. The reference marks a random one in a batch without long clips.
* The four views follow each other along the frames, and a short clip has one of them; the reference repeats it four times.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from zoo.processors.media.log_mel import Spectrum, mel_power

SECONDS = 10.0  # of one view
PLAIN = Spectrum(sample_rate_hz=48000, num_fft=1024, hop_samples=480, highest_hz=14000.0)  # filters of librosa (Slaney)
FUSED = Spectrum(sample_rate_hz=48000, num_fft=1024, hop_samples=480, highest_hz=14000.0, htk=True)  # filters of torchaudio
VIEW_SAMPLES = int(SECONDS * PLAIN.sample_rate_hz)
VIEW_FRAMES = VIEW_SAMPLES // PLAIN.hop_samples + 1
PADDING = -200.0  # value of frames behind a short clip; in dB no frame of a clip is below -100
PARTS = 3  # of a long clip, beside all of it
USUAL_SECONDS = 600.0  # longest clip with fusion, unless max_seconds says more: a spectrogram of an hour takes most of a gigabyte
SPECTRA: Mapping[str, Spectrum] = {"clap": PLAIN, "clap_fusion": FUSED}


class ClapFeatures:
    """Front end of CLAP: a mono waveform at 48 kHz to mels in dB [num_mels, frames].

    A shorter clip is repeated as many whole times as fit into 10 s, and zeros fill the rest.

    Args:
        spectrum: a key of ``SPECTRA``; with "clap_fusion" a clip of more than 10 s has four views.
        num_mels: number of mel bands.
    """

    sample_rate_hz = PLAIN.sample_rate_hz

    def __init__(self, spectrum: str, num_mels: int) -> None:
        self.spectrum, self.channels, self.fusion = SPECTRA[spectrum], num_mels, spectrum == "clap_fusion"

    @property
    def frames(self) -> int | None:
        """Number of frames of every clip; None if long clips have more."""
        return None if self.fusion else VIEW_FRAMES

    @property
    def longest_seconds(self) -> float:
        """Length of the longest clip of which nothing is cut off, unless ``max_seconds`` says more."""
        return USUAL_SECONDS if self.fusion else SECONDS

    @property
    def limit_seconds(self) -> float:
        """Largest value of ``max_seconds``."""
        return math.inf if self.fusion else SECONDS

    def frames_of(self, seconds: float) -> int:
        """Return the number of frames of a clip of this length."""
        return VIEW_FRAMES * (1 + PARTS) if self.fusion and _num_frames(int(seconds * self.sample_rate_hz)) > VIEW_FRAMES else VIEW_FRAMES

    def __call__(self, waveform: Float[np.ndarray, " samples"]) -> Float[Tensor, "num_mels frames"]:
        """Return the mels of one clip of one sample or more."""
        mels = self._decibels(repeat_padded(torch.from_numpy(waveform), VIEW_SAMPLES))
        if mels.shape[1] <= VIEW_FRAMES:  # also a clip that is longer by less than a hop
            return mels
        return torch.cat(_views(mels), dim=1) if self.fusion else mels[:, :VIEW_FRAMES]

    def _decibels(self, waveform: Float[Tensor, " samples"]) -> Float[Tensor, "num_mels frames"]:
        # In double precision: of a pure tone most bands hold rounding errors, which dB would show at full height.
        power = mel_power(waveform.double(), self.spectrum, self.channels)  # [frames, num_mels]
        return power.clamp_(min=1e-10).log10_().mul_(10).float().T.contiguous()


def repeat_padded(waveform: Float[Tensor, " samples"], length: int) -> Float[Tensor, " padded"]:
    """Repeat a waveform as many whole times as fit into ``length``, and add zeros; a longer one is returned as it is.

    ``[1 2 3]`` with a length of 8 becomes ``[1 2 3 1 2 3 0 0]``.
    """
    if len(waveform) >= length:
        return waveform
    repeated = waveform.repeat(length // len(waveform))
    return F.pad(repeated, (0, length - len(repeated)))


def _num_frames(samples: int) -> int:
    return max(samples, VIEW_SAMPLES) // PLAIN.hop_samples + 1


def part_starts(frames: int) -> list[int]:
    """Return the first frame of the three parts of a long clip: the middle of each third of the places where a view may begin.

    A clip of 1010 frames may begin at 0 to 9: 0 1 2 3 | 4 5 6 | 7 8 9, of which 2, 5 and 8 are taken.
    """
    thirds = np.array_split(np.arange(frames - VIEW_FRAMES + 1), PARTS)
    return [int(third[len(third) // 2]) if len(third) else 0 for third in thirds]  # of two places there is no last third


def _views(mels: Float[Tensor, "num_mels frames"]) -> list[Float[Tensor, "num_mels view_frames"]]:
    """Return all of a long clip, shrunk to the length of a view, and its three parts."""
    size = (VIEW_FRAMES, mels.shape[0])
    whole = F.interpolate(mels.T[None, None], size, mode="bilinear", align_corners=False)[0, 0].T
    return [whole, *(mels[:, start : start + VIEW_FRAMES] for start in part_starts(mels.shape[1]))]


def settings_of(spectrum: str) -> dict[str, Any]:
    """Return the settings of transformers' ``ClapFeatureExtractor`` for the front end ``spectrum``."""
    found = SPECTRA[spectrum]
    return {
        "feature_extractor_type": "ClapFeatureExtractor",
        "sampling_rate": found.sample_rate_hz,
        "fft_window_size": found.num_fft,
        "hop_length": found.hop_samples,
        "frequency_min": found.lowest_hz,
        "frequency_max": found.highest_hz,
        "max_length_s": int(SECONDS),
        "truncation": "fusion" if found.htk else "rand_trunc",
        "padding": "repeatpad",
        "padding_value": 0.0,
        "top_db": None,
    }
