"""Spectra for speech synthesis: magnitudes, mels of magnitudes, and their compressed values, which models are trained to predict.

Papers: Wang et al. 2017 (Tacotron, arXiv 1703.10135), table 1; Shen et al. 2017 (Tacotron 2, arXiv 1712.05884), section 2.1. References:
NVIDIA/tacotron2 ``layers.py``, keithito/tacotron ``util/audio.py``, torchaudio ``pipelines/_tts``; filters are librosa's.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from zoo.processors.media.log_mel import Spectrum, mel_filters

FLOOR = 1e-5  # smallest magnitude, in NVIDIA/tacotron2 and keithito/tacotron
REFERENCE_DECIBEL, RANGE_DECIBEL = 20.0, 100.0  # ref_level_db and -min_level_db of keithito/tacotron
COMPRESSIONS = ("log", "decibel")


@dataclass(frozen=True)
class Framing:
    """Settings of the spectra: frames, mel filters, and compression of the magnitudes.

    Attributes:
        window_samples: length of the Hann window, which is centred in ``num_fft`` samples.
        hop_samples: samples from one frame to the next.
        lowest_hz: lower edge of the first mel filter.
        highest_hz: upper edge of the last mel filter.
        pre_emphasis: share of the previous sample that is subtracted from each sample; 0.97 in the first Tacotron.
        compression: "log", the natural logarithm of magnitudes of at least 1e-5; "decibel", -80 dB to 20 dB mapped to 0 to 1.
    """

    sample_rate_hz: int = 22050
    num_fft: int = 1024
    window_samples: int = 1024
    hop_samples: int = 256
    num_mels: int = 80
    lowest_hz: float = 0.0
    highest_hz: float = 8000.0
    pre_emphasis: float = 0.0
    compression: str = "log"

    @property
    def num_bins(self) -> int:
        """Number of frequency bins of a linear spectrum."""
        return self.num_fft // 2 + 1

    @property
    def floor(self) -> float:
        """Compressed value of magnitude zero; also used as padding."""
        return float(np.log(FLOOR)) if self.compression == "log" else 0.0

    @property
    def quiet(self) -> float:
        """Compressed value up to which the loudest mel of a frame counts as silence: 40 dB below the level of a voice."""
        return -5.0 if self.compression == "log" else 0.35

    @property
    def filters(self) -> Float[Tensor, "num_mels bins"]:
        """Slaney mel filters from ``lowest_hz`` to ``highest_hz``."""
        spectrum = Spectrum(self.sample_rate_hz, self.num_fft, self.hop_samples, self.highest_hz, self.lowest_hz)
        return mel_filters(spectrum, self.num_mels)

    @property
    def window(self) -> Float[Tensor, " window_samples"]:
        """Periodic Hann window."""
        return _window(self.window_samples)


@functools.cache
def _window(length: int) -> Tensor:
    return torch.hann_window(length)


def magnitudes(waveform: Float[Tensor, " samples"], framing: Framing) -> Float[Tensor, "bins frames"]:
    """Return the magnitude spectrum of each frame; there is one frame more than whole hops in the waveform."""
    if framing.pre_emphasis:
        waveform = torch.cat([waveform[:1], waveform[1:] - framing.pre_emphasis * waveform[:-1]])
    if len(waveform) <= framing.num_fft // 2:  # reflection padding needs one more sample than it adds
        waveform = F.pad(waveform, (0, framing.num_fft // 2 + 1 - len(waveform)))
    spectrum = torch.stft(
        waveform, framing.num_fft, framing.hop_samples, framing.window_samples, framing.window, center=True, return_complex=True
    )
    return spectrum.abs()


def to_mels(spectrum: Float[Tensor, "bins frames"], framing: Framing) -> Float[Tensor, "num_mels frames"]:
    """Convert magnitudes to compressed mels."""
    return compress(framing.filters @ spectrum, framing)


def compress(values: Float[Tensor, "rows frames"], framing: Framing) -> Float[Tensor, "rows frames"]:
    """Compress magnitudes or mels to the values that models predict, as ``framing.compression`` specifies."""
    if framing.compression == "log":
        return values.clamp(min=FLOOR).log()
    decibel = 20 * values.clamp(min=FLOOR).log10() - REFERENCE_DECIBEL
    return ((decibel + RANGE_DECIBEL) / RANGE_DECIBEL).clamp(0, 1)


def expand(values: Float[Tensor, "rows frames"], framing: Framing) -> Float[Tensor, "rows frames"]:
    """Invert ``compress``, except for values that it clamped."""
    if framing.compression == "log":
        return values.exp()
    # Predictions may lie outside 0 to 1, hence the clamp before the inversion.
    return 10 ** ((values.clamp(0, 1) * RANGE_DECIBEL - RANGE_DECIBEL + REFERENCE_DECIBEL) / 20)


def from_mels(mels: Float[Tensor, "num_mels frames"], framing: Framing) -> Float[Tensor, "bins frames"]:
    """Estimate magnitudes from compressed mels: the least-squares solution of minimum norm, with negative values set to zero.

    Source: torchaudio ``transforms.InverseMelScale``, which solves the same least-squares problem.
    """
    return (_inverse_filters(framing) @ expand(mels, framing)).clamp(min=0)


@functools.cache
def _inverse_filters(framing: Framing) -> Float[Tensor, "bins num_mels"]:
    return torch.linalg.pinv(framing.filters.double()).float()
