"""Voice activity: Silero's model against its package, the energy rule, and stretches of speech."""

import numpy as np
import pytest
import torch

from zoo.errors import ConfigError
from zoo.processors.media import silero, voice_activity
from zoo.processors.media.voice_activity import DETECTORS, EnergyDetector, chosen_detector, new_detector, speech_spans

SECONDS = np.arange(6 * 16000) / 16000
STEADY = {
    "zeros": np.zeros(len(SECONDS)),
    "offset": np.full(len(SECONDS), 0.2),
    "noise": 0.1 * np.random.default_rng(0).standard_normal(len(SECONDS)),
    "hum": 0.3 * sum(np.sin(2 * np.pi * 50 * k * SECONDS) / k for k in (1, 2, 3, 5)),
}


def probabilities(detector, waveform, block=16000):
    for start in range(0, len(waveform), block):
        detector.take(waveform[start : start + block].astype(np.float32))
    return detector.finish()


def chirps(samples, seed=0):
    """Sound that is not steady: a voice-like buzz whose pitch and loudness vary."""
    t = np.arange(samples) / 16000
    pitch = np.cumsum(120 + 30 * np.sin(2 * np.pi * 1.3 * t)) / 16000
    buzz = sum(np.sin(2 * np.pi * k * pitch) / k for k in range(1, 20))
    noise = 0.01 * np.random.default_rng(seed).standard_normal(samples)
    return (0.2 * buzz * np.maximum(0, np.sin(2 * np.pi * 2 * t)) + noise).astype(np.float32)


@pytest.mark.parametrize("samples", [16000 * 3, 16000 * 2 + 7, 512])
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of the package, at its TorchScript file
def test_probabilities_are_those_of_the_package(samples):
    import silero_vad

    waveform = chirps(samples)
    expected = silero_vad.load_silero_vad().audio_forward(torch.from_numpy(waveform)[None], 16000)[0].numpy()
    found = probabilities(silero.SileroDetector(), waveform)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert samples < 16000 or found.max() - found.min() > 0.05


@pytest.mark.parametrize("name", DETECTORS)
def test_blocks_of_any_size_give_the_same(name):
    waveform = chirps(20001)
    whole = probabilities(new_detector(name), waveform, block=len(waveform))
    np.testing.assert_allclose(probabilities(new_detector(name), waveform, block=777), whole, atol=1e-5)


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("sound", STEADY)
def test_steady_sounds_are_no_speech(name, sound):
    assert speech_spans(probabilities(new_detector(name), STEADY[sound]), 6.0) == []


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_loud_stretches_are_speech_by_the_energy_rule(noise):
    waveform = np.concatenate([np.zeros(16000), chirps(32000), np.zeros(32000), chirps(16000)])
    waveform += noise * np.random.default_rng(1).standard_normal(len(waveform))
    found = speech_spans(probabilities(EnergyDetector(), waveform), 6.0)
    edge = 0.032  # a frame that begins before the sound may count
    assert all((1 - edge < start and end < 3 + edge) or 5 - edge < start for start, end in found)
    assert sum(end - start for start, end in found) > 1.5  # the buzz is loud for two thirds of its 3 s


def test_speech_lasts_from_a_sure_frame_to_an_unlikely_one():
    row = np.array([0.4, 0.6, 0.4, 0.4, 0.3, 0.6, 0.1, 0.6, 0.9, 0.9, 0.9])
    assert speech_spans(row, 11 * 0.032) == [(0.032, 0.128), (0.16, 0.192), (0.224, 0.352)]
    longer = np.concatenate([row, np.zeros(60)])
    assert speech_spans(longer, 71 * 0.032) == [(0.032, 0.128), (0.224, 0.352)]  # a single frame counts in short recordings only


def test_a_recording_shorter_than_any_word_has_no_speech():
    assert speech_spans(np.ones(4), 0.1) == []


def test_without_the_package_loudness_decides_and_the_log_says_so(monkeypatch, caplog):
    monkeypatch.setattr(voice_activity, "silero_file", lambda: None)
    voice_activity._tell_fallback.cache_clear()
    assert chosen_detector("auto") == "energy" and "zoo install vad" in caplog.text
    monkeypatch.setattr(silero, "silero_file", lambda: None)
    silero.silero_model.cache_clear()
    with pytest.raises(ConfigError, match="needs the package silero-vad"):
        chosen_detector("silero")
