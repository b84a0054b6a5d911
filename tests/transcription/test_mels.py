"""Mels of whole recordings a window at a time, against those that openai-whisper makes at once."""

import numpy as np
import pytest
import soundfile
import torch
import whisper

from zoo.errors import ItemError
from zoo.language.transcription import mels
from zoo.language.transcription.mels import RecordingMels


@pytest.mark.parametrize("samples", [1, 159, 161, 400, 5000, 480000, 480001, 480320, 16000 * 61 + 77])
@pytest.mark.parametrize("kept", [60000, 10])
def test_windows_are_those_of_the_whole_with_30_s_of_silence_behind_it(sound, monkeypatch, samples, kept):
    monkeypatch.setattr(mels, "KEPT_FRAMES", kept)
    waveform = sound(samples / 16000)
    expected = whisper.log_mel_spectrogram(waveform, 80, padding=480000)
    made = RecordingMels(waveform, 80)
    assert made.num_frames == expected.shape[1] - 3000 and made.duration_s == samples / 16000
    for start in range(0, made.num_frames + 1, 1700):
        window = made.window(start, 3000)
        assert torch.allclose(window, expected[:, start : start + 3000], atol=1e-6, rtol=0)


def test_a_long_recording_is_never_held_as_a_whole(sound, monkeypatch, tmp_path):
    monkeypatch.setattr(mels, "KEPT_FRAMES", 1000)
    soundfile.write(tmp_path / "long.wav", np.tile(sound(30), 6), 16000)
    made = RecordingMels(tmp_path / "long.wav", 80)
    held = [made.window(start, 3000) is not None and made.kept.shape[1] for start in range(0, made.num_frames, 500)]
    assert made.num_frames == 18000 and max(held) <= 2 * 3000 + 10


def test_other_rates_and_channels_become_one_channel_of_16_khz(sound, tmp_path):
    waveform = np.repeat(sound(2), 2)
    soundfile.write(tmp_path / "stereo.wav", np.stack([waveform, waveform], axis=1), 32000, subtype="FLOAT")
    of_file, of_array = RecordingMels(tmp_path / "stereo.wav", 80), RecordingMels((waveform, 32000), 80)
    assert of_file.num_frames == of_array.num_frames == 200
    assert torch.allclose(of_file.window(0, 200), of_array.window(0, 200), atol=1e-3)


def test_ready_mels_pass_and_silence_stands_behind_them():
    ready = torch.randn(80, 120)
    made = RecordingMels(ready, 80)
    assert made.num_frames == 120 and made.duration_s == 1.2 and made.window(20, 100).equal(ready[:, 20:])
    assert (made.window(100, 50)[:, 20:] == ready.min()).all()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros(0, dtype=np.float32), "at least one sample"),
        (np.full(100, np.nan, dtype=np.float32), "not finite"),
        (np.zeros((2, 100), dtype=np.float32), "array float32"),
        (torch.zeros(3, 100), "allowed are floats"),
        ({"array": 1}, "cannot read audio from dict"),
        ("missing.wav", "no such file"),
    ],
)
def test_what_is_no_recording_is_refused(source, message):
    with pytest.raises(ItemError, match=message):
        RecordingMels(source, 80)
