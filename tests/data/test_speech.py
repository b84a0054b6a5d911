"""Sound as a target: mels against librosa's and torchaudio's, Griffin-Lim against torchaudio's, and the processor around them."""

import numpy as np
import pytest
import torch
import torchaudio
from quick_librosa import load_librosa

from zoo.data.system_processor import Processor
from zoo.errors import ConfigError, ItemError
from zoo.processors.media.griffin_lim import griffin_lim, undo_pre_emphasis
from zoo.processors.media.tacotron_mel import Framing, compress, expand, from_mels, magnitudes, to_mels
from zoo.processors.media.vocoders import WAVERNN
from zoo.processors.speech import SpeechProcessor
from zoo.processors.text import TextProcessor
from zoo.types import FRAMES, MAGNITUDES, MELS, Sample

NVIDIA = Framing()
KEITHITO = Framing(20000, 2048, 1000, 250, 80, 0.0, 10000.0, 0.97, "decibel")


def sound(samples=8000):
    times = torch.arange(samples) / 22050
    return 0.3 * torch.sin(2 * torch.pi * (200 + 300 * times) * times) + 0.01 * torch.randn(samples)


@pytest.mark.parametrize("framing", [NVIDIA, KEITHITO, WAVERNN])
def test_magnitudes_and_mels_are_librosas(framing):
    waveform = sound()
    emphasised = waveform.numpy() if not framing.pre_emphasis else np.append(waveform[0], waveform[1:] - 0.97 * waveform[:-1])
    words = {"n_fft": framing.num_fft, "hop_length": framing.hop_samples, "win_length": framing.window_samples, "pad_mode": "reflect"}
    theirs = np.abs(load_librosa().stft(emphasised.astype(np.float32), **words))
    found = magnitudes(waveform, framing)
    np.testing.assert_allclose(found, theirs, atol=1e-4)
    filters = load_librosa().filters.mel(
        sr=framing.sample_rate_hz, n_fft=framing.num_fft, n_mels=framing.num_mels, fmin=framing.lowest_hz, fmax=framing.highest_hz
    )
    mels = filters @ theirs
    decibel = np.clip((20 * np.log10(np.maximum(1e-5, mels)) - 20 + 100) / 100, 0, 1)
    expected = np.log(np.maximum(1e-5, mels)) if framing.compression == "log" else decibel
    np.testing.assert_allclose(to_mels(found, framing), expected, atol=1e-3)


def test_mels_of_wavernn_are_torchaudios():
    theirs = torchaudio.transforms.MelSpectrogram(
        22050, 2048, 1100, 275, f_min=40, f_max=11025, n_mels=80, power=1, mel_scale="slaney", norm="slaney"
    )(sound())
    torch.testing.assert_close(to_mels(magnitudes(sound(), WAVERNN), WAVERNN).shape, theirs.clamp(min=1e-5).log().shape)
    waveform = sound()
    filters = WAVERNN.filters @ torch.stft(waveform, 2048, 275, 1100, torch.hann_window(1100), return_complex=True).abs()
    torch.testing.assert_close(to_mels(magnitudes(waveform, WAVERNN), WAVERNN), filters.clamp(min=1e-5).log(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("framing", [NVIDIA, KEITHITO])
def test_expanding_undoes_compressing(framing):
    values = torch.rand(4, 5) * 3 + 0.01
    torch.testing.assert_close(expand(compress(values, framing), framing), values, atol=1e-4, rtol=1e-4)


def test_least_squares_are_torchaudios():
    mels = to_mels(magnitudes(sound(), NVIDIA), NVIDIA)
    inverse = torchaudio.transforms.InverseMelScale(513, 80, 22050, 0, 8000, norm="slaney", mel_scale="slaney")
    torch.testing.assert_close(from_mels(mels, NVIDIA), inverse(mels.exp()), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("momentum", [0.0, 0.99])
def test_griffin_lim_is_torchaudios(momentum):
    spectrum = magnitudes(sound(), NVIDIA)
    theirs = torchaudio.functional.griffinlim(
        spectrum, torch.hann_window(1024), 1024, 256, 1024, power=1.0, n_iter=8, momentum=momentum, length=None, rand_init=False
    )
    found = griffin_lim(spectrum, NVIDIA, iterations=8, momentum=momentum, seed=None)
    torch.testing.assert_close(found, theirs, atol=1e-4, rtol=1e-4)


def test_griffin_lim_comes_near_and_follows_its_seed():
    spectrum = magnitudes(sound(), NVIDIA)
    found = griffin_lim(spectrum, NVIDIA, iterations=40)
    error = (magnitudes(found, NVIDIA) - spectrum).norm() / spectrum.norm()
    assert error < 0.15  # from 0.6 with the first phases
    assert torch.equal(found, griffin_lim(spectrum, NVIDIA, iterations=40))
    assert not torch.allclose(found, griffin_lim(spectrum, NVIDIA, iterations=40, seed=1))


def test_pre_emphasis_is_undone():
    waveform = sound(3000)
    changed = torch.cat([waveform[:1], waveform[1:] - 0.97 * waveform[:-1]])
    torch.testing.assert_close(undo_pre_emphasis(changed, 0.97), waveform, atol=1e-5, rtol=1e-5)


def test_a_processor_fills_targets_and_travels(tmp_path):
    sounds = SpeechProcessor(sample_rate_hz=16000, num_fft=512, num_mels=20, linear=True, max_seconds=3.0)
    processor = Processor({"text": TextProcessor(vocab_size=38, context_length=50, tokenizer="characters"), "speech": sounds})
    clips = [np.random.default_rng(n).normal(size=n).astype(np.float32) * 0.1 for n in (4000, 6000)]
    samples = [Sample(str(n), {"text": "forty two", "audio": (clip, 16000)}) for n, clip in enumerate(clips)]
    items = [processor.items(sample) for sample in samples]
    batch = processor.collate(samples, items)
    assert set(batch.inputs) == {"text"} and {MELS, MAGNITUDES, FRAMES} <= set(batch.targets)
    assert batch.targets[FRAMES].sum(1).tolist() == [1 + 4000 // 256, 1 + 6000 // 256]
    assert batch.targets[MELS].shape == (2, 20, 24) and batch.targets[MAGNITUDES].shape == (2, 257, 24)
    torch.testing.assert_close(batch.targets[MELS][0, :, 16:], torch.full((20, 8), np.log(1e-5), dtype=torch.float32))
    processor.save(tmp_path)
    again = Processor.load(tmp_path)
    assert again["speech"].settings == sounds.settings
    torch.testing.assert_close(again.items(samples[0])["speech"], items[0]["speech"])
    assert {name: t.shape[1:-1] for name, t in processor.meta(["text", "speech"], 2).targets.items() if name in (MELS, MAGNITUDES)} == {
        MELS: (20,),
        MAGNITUDES: (257,),
    }


def test_silence_is_cut_off_both_ends():
    processor = SpeechProcessor(trim_decibels=40.0, trim_seconds=0.1)
    quiet = np.zeros(22050, dtype=np.float32)
    clip = np.concatenate([quiet, 0.5 * np.sin(np.arange(11025) / 10).astype(np.float32), quiet])
    kept = processor.waveform(clip)
    assert 11025 + 0.15 * 22050 < len(kept) < 11025 + 0.25 * 22050
    with pytest.raises(ItemError, match="silent"):
        processor.waveform(quiet)


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (3, "cannot be made from int"),
        (torch.zeros(7, 4), "80, frames"),
        (np.full(100, np.nan, dtype=np.float32), "NaN|finite"),
        (np.zeros(22050 * 3, dtype=np.float32), "max_seconds allows 2"),
        ("missing.wav", "no such file"),
    ],
)
def test_what_is_no_recording_is_refused(raw, match):
    with pytest.raises(ItemError, match=match):
        SpeechProcessor(max_seconds=2.0).item(raw)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"hop_samples": 2000}, "hop_samples 2000"),
        ({"highest_hz": 12000.0}, "highest_hz 12000"),
        ({"compression": "cube"}, "compression"),
        ({"pre_emphasis": 1.0}, "pre_emphasis 1.0"),
        ({"momentum": 1.0}, "momentum 1.0"),
    ],
)
def test_wrong_settings_are_refused(words, match):
    with pytest.raises(ConfigError, match=match):
        SpeechProcessor(**words)
