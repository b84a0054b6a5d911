"""Log-mels against openai-whisper and transformers, filters against torchaudio."""

import math

import numpy as np
import pytest
import torch
import torchaudio
from transformers import WhisperFeatureExtractor
from whisper.audio import log_mel_spectrogram, pad_or_trim
from whisper.audio import mel_filters as published_filters

from zoo.processors.media.log_mel import WHISPER, Spectrum, mel_filters, whisper_log_mel

SECOND = 16000


def tone():
    """Make a tone with time in float32, as the reference does; its rounding is visible in the mean of the mels."""
    return 0.5 * torch.sin(2 * math.pi * 440 * (torch.arange(30 * SECOND) / SECOND))


@pytest.mark.parametrize("num_mels", [80, 128])
def test_filters_are_bit_for_bit_those_that_whisper_ships(num_mels):
    assert torch.equal(mel_filters(WHISPER, num_mels), published_filters("cpu", num_mels))


def test_filters_have_the_figures_of_the_sheet():
    filters = mel_filters(WHISPER, 80)
    assert filters.sum().item() == pytest.approx(1.9990242, abs=1e-6) and filters.max().item() == pytest.approx(0.0258807, abs=1e-7)
    assert filters[0].nonzero().flatten().tolist() == [1] and filters[0, 1].item() == pytest.approx(0.0248626, abs=1e-7)
    assert filters[79].nonzero().flatten().tolist() == list(range(186, 200))


def test_silence_is_constant():
    assert (whisper_log_mel(torch.zeros(SECOND), num_frames=3000, pad=True) == -1.5).all()


def test_a_tone_has_the_figures_of_the_sheet():
    mels = whisper_log_mel(tone(), num_frames=3000)
    assert mels.shape == (80, 3000) and mels.mean(1).argmax() == 11
    figures = [mels.max().item(), mels.min().item(), mels.mean().item()]
    assert figures == pytest.approx([1.4382204, -0.5617796, -0.4295038], abs=2e-6)


@pytest.mark.parametrize("num_mels", [80, 128])
@pytest.mark.parametrize("length", [1, 159, 160, 161, 3 * SECOND + 7, 30 * SECOND - 300, 30 * SECOND, 33 * SECOND])
def test_padded_mels_are_those_of_openai_whisper(length, num_mels):
    """2e-6 of values of size one: log10 of sums in another order."""
    waveform = torch.randn(length) * 0.1
    reference = pad_or_trim(waveform) if length < 30 * SECOND else waveform
    expected = log_mel_spectrogram(reference, num_mels)
    torch.testing.assert_close(whisper_log_mel(waveform, num_mels, num_frames=3000, pad=True), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("length", [1, 160, 161, 3 * SECOND + 7, 30 * SECOND - 300, 30 * SECOND])
def test_short_mels_are_the_first_frames_of_the_padded_ones(length):
    waveform = torch.randn(length) * 0.1
    short, padded = (whisper_log_mel(waveform, num_frames=3000, pad=pad) for pad in (False, True))
    assert short.shape == (80, math.ceil(length / 160)) and torch.equal(short, padded[:, : short.shape[1]])
    if length < 30 * SECOND - 400:
        assert padded[:, short.shape[1] + 2 :].unique().item() == pytest.approx(max(-1.5, padded.max().item() - 2), abs=1e-6)


def test_padded_mels_are_those_of_transformers():
    waveform = torch.randn(5 * SECOND) * 0.1
    expected = WhisperFeatureExtractor()(waveform.numpy(), sampling_rate=SECOND, return_tensors="pt").input_features[0]
    torch.testing.assert_close(whisper_log_mel(waveform, num_frames=3000, pad=True), expected, rtol=0, atol=2e-6)


def test_the_waveform_stays_as_it_was():
    waveform = torch.randn(SECOND)
    before = waveform.clone()
    whisper_log_mel(waveform, num_frames=3000)
    assert torch.equal(waveform, before)


def test_filters_of_another_spectrum_are_those_of_torchaudio():
    ours = mel_filters(Spectrum(sample_rate_hz=22050, num_fft=1024, hop_samples=256, highest_hz=8000.0), 80).numpy()
    theirs = torchaudio.functional.melscale_fbanks(513, 0.0, 8000.0, 80, 22050, norm="slaney", mel_scale="slaney").T.numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
