"""Spectra of speech that is to be made: magnitudes, mels of magnitudes, and the numbers that models are taught.

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

FLOOR = 1e-5  # of magnitudes: NVIDIA's and keithito's
REFERENCE_DECIBEL, RANGE_DECIBEL = 20.0, 100.0  # keithito's
COMPRESSIONS = ("log", "decibel")


@dataclass(frozen=True)
class Framing:
    """How a waveform is cut into frames, and what the magnitudes become.

    Attributes:
        window_samples: Hann's window in the middle of ``num_fft``.
        lowest_hz: where the first mel begins.
        pre_emphasis: each sample less this share of the one before; 0.97 in the first Tacotron.
        compression: "log", the natural logarithm from 1e-5 up; "decibel", from -80 dB to 20 dB as 0 to 1.
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
        """Of a linear spectrum."""
        return self.num_fft // 2 + 1

    @property
    def floor(self) -> float:
        """What no sound at all becomes."""
        return float(np.log(FLOOR)) if self.compression == "log" else 0.0

    @property
    def quiet(self) -> float:
        """The level of the loudest mel of a frame in which nothing is heard: 40 dB below that of a voice."""
        return -5.0 if self.compression == "log" else 0.35

    @property
    def filters(self) -> Float[Tensor, "num_mels bins"]:
        """Slaney's, from ``lowest_hz`` to ``highest_hz``."""
        spectrum = Spectrum(self.sample_rate_hz, self.num_fft, self.hop_samples, self.highest_hz, self.lowest_hz)
        return mel_filters(spectrum, self.num_mels)

    @property
    def window(self) -> Float[Tensor, " window_samples"]:
        """Hann's, periodic."""
        return _window(self.window_samples)


@functools.cache
def _window(length: int) -> Tensor:
    return torch.hann_window(length)


def magnitudes(waveform: Float[Tensor, " samples"], framing: Framing) -> Float[Tensor, "bins frames"]:
    """Absolute values of the spectrum of each frame; one frame more than there are whole hops."""
    if framing.pre_emphasis:
        waveform = torch.cat([waveform[:1], waveform[1:] - framing.pre_emphasis * waveform[:-1]])
    if len(waveform) <= framing.num_fft // 2:  # the reflection in front needs one sample more
        waveform = F.pad(waveform, (0, framing.num_fft // 2 + 1 - len(waveform)))
    spectrum = torch.stft(
        waveform, framing.num_fft, framing.hop_samples, framing.window_samples, framing.window, center=True, return_complex=True
    )
    return spectrum.abs()


def to_mels(spectrum: Float[Tensor, "bins frames"], framing: Framing) -> Float[Tensor, "num_mels frames"]:
    """Compressed mels of magnitudes."""
    return compress(framing.filters @ spectrum, framing)


def compress(values: Float[Tensor, "rows frames"], framing: Framing) -> Float[Tensor, "rows frames"]:
    """Magnitudes to what models are taught."""
    if framing.compression == "log":
        return values.clamp(min=FLOOR).log()
    decibel = 20 * values.clamp(min=FLOOR).log10() - REFERENCE_DECIBEL
    return ((decibel + RANGE_DECIBEL) / RANGE_DECIBEL).clamp(0, 1)


def expand(values: Float[Tensor, "rows frames"], framing: Framing) -> Float[Tensor, "rows frames"]:
    """The other way round of ``compress``."""
    if framing.compression == "log":
        return values.exp()
    return 10 ** ((values.clamp(0, 1) * RANGE_DECIBEL - RANGE_DECIBEL + REFERENCE_DECIBEL) / 20)


def from_mels(mels: Float[Tensor, "num_mels frames"], framing: Framing) -> Float[Tensor, "bins frames"]:
    """Magnitudes whose mels these could be: of all that fit the one nearest to zero, without what is negative.

    Source: torchaudio ``transforms.InverseMelScale``, which has the same least squares.
    """
    return (_inverse_filters(framing) @ expand(mels, framing)).clamp(min=0)


@functools.cache
def _inverse_filters(framing: Framing) -> Float[Tensor, "bins num_mels"]:
    return torch.linalg.pinv(framing.filters.double()).float()
