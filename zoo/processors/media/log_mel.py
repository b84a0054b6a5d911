"""Whisper's log-mel spectrogram, and mel power and mel filters for any spectrogram.

Paper: Radford et al. 2022 (arXiv 2212.04356), section 2.2. Reference: openai-whisper ``audio.py``. The filters equal those of librosa
``filters.mel`` (Slaney's scale and norm), bit for bit.

Where we differ: no absolute value of a complex tensor is computed. Real and imaginary parts are squared in place, and one matrix
product with filters in which each weight stands twice gives the mels. It takes a few frames at a time, which fit into the CPU's cache.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

FRAMES_AT_ONCE = 250  # few enough to fit into the CPU's cache
DYNAMIC_RANGE = 8.0  # in log10 units: values more than 80 dB below the clip's maximum are raised to that level


@dataclass(frozen=True)
class Spectrum:
    """Parameters of a mel spectrogram; the window is a periodic Hann window, and the first frame is centred at the first sample.

    Attributes:
        htk: filters of HTK with peak 1 (torchaudio's default); False: Slaney's scale and norm.
    """

    sample_rate_hz: int
    num_fft: int
    hop_samples: int
    highest_hz: float
    lowest_hz: float = 0.0
    htk: bool = False


WHISPER = Spectrum(sample_rate_hz=16000, num_fft=400, hop_samples=160, highest_hz=8000.0)


def whisper_log_mel(
    waveform: Float[Tensor, " samples"], num_mels: int = 80, *, num_frames: int, pad: bool = False
) -> Float[Tensor, "num_mels frames"]:
    """Compute Whisper's log-mel of a clip at 16 kHz, equal to that of the clip padded with zeros.

    The reference pads a clip with zeros to 30 s. Here only the zeros that overlap a frame of the clip are added: of the reference's 3000
    frames, the result has those whose hop begins inside the clip, with equal values. A clip of ``num_frames`` frames or more is padded
    with its own reflection, as in the reference.

    Args:
        waveform: mono samples at 16 kHz.
        num_frames: number of frames of the reference: 3000.
        pad: return ``num_frames`` frames, with silence after the clip. Frames wholly after the clip have a constant value, which is
            filled in without computing them.
    """
    hop, length = WHISPER.hop_samples, len(waveform)
    whole = max(length, min(length + WHISPER.num_fft, num_frames * hop))
    # Whisper drops the last frame, so that a clip of n hops has n frames.
    power = mel_power(F.pad(waveform, (0, whole - length)), WHISPER, num_mels)[:-1]  # [frames, num_mels]
    power.clamp_(min=1e-10).log10_()
    floor = max(-10.0, power.max().item() - DYNAMIC_RANGE)
    mels = power.clamp_(min=floor).add_(4.0).mul_(0.25).T  # [num_mels, frames]
    if not pad:
        return mels[:, : -(-length // hop)].contiguous()
    padded = mels.new_full((num_mels, max(num_frames, mels.shape[1])), (floor + 4) / 4)
    padded[:, : mels.shape[1]] = mels
    return padded


def mel_power(waveform: Float[Tensor, " samples"], spectrum: Spectrum, num_mels: int) -> Float[Tensor, "frames num_mels"]:
    """Return the mel power of each frame: squared magnitudes times mel filters, in the precision of the waveform."""
    frames, window = _frames(waveform, spectrum), _window(spectrum.num_fft, waveform.dtype)
    filters = _doubled_filters(spectrum, num_mels).to(waveform.dtype)
    power = waveform.new_empty(len(frames), num_mels)
    for start in range(0, len(frames), FRAMES_AT_ONCE):
        parts = torch.view_as_real(torch.fft.rfft(frames[start : start + FRAMES_AT_ONCE] * window)).flatten(1)  # [frames, 2 * bins]
        torch.mm(parts.square_(), filters, out=power[start : start + FRAMES_AT_ONCE])
    return power


def _frames(waveform: Float[Tensor, " samples"], spectrum: Spectrum) -> Float[Tensor, "frames num_fft"]:
    """Return overlapping frames as a view, after padding the waveform by reflection at both ends."""
    half = spectrum.num_fft // 2
    return F.pad(waveform[None], (half, half), mode="reflect")[0].unfold(0, spectrum.num_fft, spectrum.hop_samples)


@functools.cache
def _window(num_fft: int, dtype: torch.dtype) -> Float[Tensor, " num_fft"]:
    return torch.hann_window(num_fft, dtype=dtype, device="cpu")


@functools.cache
def _doubled_filters(spectrum: Spectrum, num_mels: int) -> Float[Tensor, "twice_bins num_mels"]:
    """Return the mel filters with each bin's row twice, for the squares of its real and of its imaginary part."""
    return mel_filters(spectrum, num_mels).T.repeat_interleave(2, dim=0).contiguous()


@functools.cache
def mel_filters(spectrum: Spectrum, num_mels: int) -> Float[Tensor, "num_mels bins"]:
    """Return triangular mel filters with corners evenly spaced on Slaney's mel scale and peak 2 / width in Hz; with ``htk`` peak 1.

    The order of operations, and so the rounding, of Slaney's is that of librosa ``filters.mel``.
    """
    bins = np.fft.rfftfreq(spectrum.num_fft, 1 / spectrum.sample_rate_hz)
    to_mel, to_hertz = (_htk_mel, _htk_hertz) if spectrum.htk else (_mel, _hertz)
    corners = to_hertz(np.linspace(to_mel(spectrum.lowest_hz), to_mel(spectrum.highest_hz), num_mels + 2))
    widths, slopes = np.diff(corners), corners[:, None] - bins[None]
    weights = np.zeros((num_mels, len(bins)), dtype=np.float32)
    for i in range(num_mels):
        weights[i] = np.maximum(0, np.minimum(-slopes[i] / widths[i], slopes[i + 2] / widths[i + 1]))
    if not spectrum.htk:
        weights *= (2.0 / (corners[2:] - corners[:-2]))[:, None]
    return torch.from_numpy(weights)


# Slaney's scale (Auditory Toolbox, 1998): linear to 1000 Hz, 15 mels, then 27 mels for each factor of 6.4.
_LINEAR, _BREAK, _STEP = 200.0 / 3, 1000.0, np.log(6.4) / 27


def _mel(hertz: float) -> float:
    return hertz / _LINEAR if hertz < _BREAK else _BREAK / _LINEAR + float(np.log(hertz / _BREAK)) / _STEP


def _hertz(mels: np.ndarray) -> np.ndarray:
    above = mels >= _BREAK / _LINEAR
    hertz = _LINEAR * mels
    hertz[above] = _BREAK * np.exp(_STEP * (mels[above] - _BREAK / _LINEAR))
    return hertz


# HTK's scale (Young et al., The HTK Book, section 5.4).
def _htk_mel(hertz: float) -> float:
    return 2595.0 * math.log10(1.0 + hertz / 700.0)


def _htk_hertz(mels: np.ndarray) -> np.ndarray:
    return 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
