"""Griffin-Lim: reconstruct a waveform from magnitude spectra by iterating between time and frequency domain to estimate the phases.

Papers: Griffin and Lim 1984; Perraudin et al. 2013 ("A fast Griffin-Lim algorithm"), whose momentum is 0 in the classical form.
References: torchaudio ``functional.griffinlim``, librosa ``griffinlim``.
"""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from zoo.processors.media.tacotron_mel import Framing

TINY = 1e-16  # avoids a division by zero


def griffin_lim(
    magnitudes: Float[Tensor, "bins frames"],
    framing: Framing,
    *,
    power: float = 1.0,
    iterations: int = 60,
    momentum: float = 0.99,
    seed: int | None = 0,
) -> Float[Tensor, " samples"]:
    """Reconstruct a waveform of ``(frames - 1) * hop_samples`` samples from linear magnitudes.

    Args:
        power: exponent applied to the magnitudes first. A value above 1 sounds cleaner: 1.2 in the first Tacotron paper, 1.5 in
            keithito's implementation.
        momentum: 0 for the original algorithm of Griffin and Lim, 0.99 for the fast one.
        seed: seed of the random initial phases; None starts with all phases at zero.
    """
    if power != 1:
        magnitudes = magnitudes**power
    length = max(1, (magnitudes.shape[1] - 1) * framing.hop_samples)
    if magnitudes.shape[1] < 2:
        return magnitudes.new_zeros(length)
    angles = torch.ones_like(magnitudes, dtype=torch.complex64)
    if seed is not None:
        turns = torch.rand(magnitudes.shape, generator=Generator().manual_seed(seed))
        angles = torch.polar(torch.ones_like(turns), 2 * torch.pi * turns)
    before = torch.zeros_like(angles)
    weight = momentum / (1 + momentum)
    for _ in range(iterations):
        rebuilt = _spectrum(_waveform(magnitudes * angles, framing, length), framing)
        angles = rebuilt - weight * before  # the accelerated step of the fast algorithm
        angles = angles / (angles.abs() + TINY)  # keep only the phases; the magnitudes are given
        before = rebuilt
    return undo_pre_emphasis(_waveform(magnitudes * angles, framing, length), framing.pre_emphasis)


def _waveform(spectrum: Tensor, framing: Framing, length: int) -> Tensor:
    return torch.istft(spectrum, framing.num_fft, framing.hop_samples, framing.window_samples, framing.window, length=length)


def _spectrum(waveform: Tensor, framing: Framing) -> Tensor:
    mode = "reflect" if len(waveform) > framing.num_fft // 2 else "constant"
    return torch.stft(
        waveform, framing.num_fft, framing.hop_samples, framing.window_samples, framing.window, pad_mode=mode, return_complex=True
    )


def undo_pre_emphasis(waveform: Float[Tensor, " samples"], share: float) -> Float[Tensor, " samples"]:
    """Undo pre-emphasis: ``y[n] = x[n] + share * y[n - 1]``."""
    if not share:
        return waveform
    decay = share ** torch.arange(_reach(share), dtype=torch.float64)  # impulse response, cut where negligible
    padded = torch.nn.functional.pad(waveform.double()[None, None], (len(decay) - 1, 0))
    return torch.nn.functional.conv1d(padded, decay.flip(0)[None, None])[0, 0].float()


def _reach(share: float) -> int:
    """Return the number of samples after which ``share ** n`` is below 1e-9."""
    return max(1, int(-9 / torch.log10(torch.tensor(share, dtype=torch.float64))) + 1)
