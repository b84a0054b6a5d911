"""Speech against recordings: the distance by hand and by librosa's path, and the whole evaluation on a voice that is not trained."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.fft
import torch
from quick_librosa import load_librosa

import zoo
from zoo.errors import ConfigError, DataError
from zoo.evaluation.tts import Tts, mel_cepstral_distortion, warping_path
from zoo.types import Sample, Source, Split


class Clips(Source, Split):
    modalities = ("audio", "text")

    def split(self, name):
        return self

    def __len__(self):
        return 3

    def sample(self, index, generator=None):
        sound = np.random.default_rng(index).normal(size=6000).astype(np.float32) * 0.1
        return Sample(str(index), {"audio": (sound, 16000), "text": ("forty two", "seven", "one hundred")[index]})


def test_the_path_is_librosas():
    distances = np.random.default_rng(0).random((17, 23))
    cost, path = load_librosa().sequence.dtw(C=distances)
    ours = warping_path(distances)
    assert ours == [tuple(map(int, place)) for place in path[::-1]]
    assert sum(distances[place] for place in ours) == pytest.approx(cost[-1, -1])


def test_distortion_is_the_formula():
    one, two = torch.randn(20, 9), torch.randn(20, 9)
    cepstra = [scipy.fft.dct(mels.numpy(), type=2, norm="ortho", axis=0)[1:14].T for mels in (one, two)]
    distances = np.linalg.norm(cepstra[0][:, None] - cepstra[1], axis=-1)
    expected = 10 / math.log(10) * math.sqrt(2) * np.mean([distances[place] for place in warping_path(distances)])
    assert mel_cepstral_distortion(one, two) == pytest.approx(expected, rel=1e-5)
    assert mel_cepstral_distortion(one, one.repeat_interleave(2, 1)) == pytest.approx(0, abs=1e-4)


def test_an_untrained_voice_is_measured_and_its_faults_are_named(tmp_path):
    system = zoo.create_system("tacotron2_nano")
    told = []
    result = Tts(batch_size=2, max_seconds=0.5)(system, Clips(), "test", advance=told.append)
    assert result.num_items == sum(told) == 3
    assert set(result.metrics) == {"aligned", "stopped", "diagonality", "focus", "mel_cepstral_distortion", "length_ratio"}
    assert all(0 <= result.metrics[name] <= 1 for name in ("aligned", "stopped", "diagonality", "focus"))
    assert sum(result.details["stop_reasons"].values()) == 3
    assert result.draw(tmp_path) == "alignments.png" and (tmp_path / "alignments.png").stat().st_size > 5000
    lines = [json.loads(line) for line in (tmp_path / "utterances.jsonl").read_text().splitlines()]
    failed = [line["text"] for line in lines if line["faults"]]
    assert [each["text"] for each in result.facts["failed"]] == failed and len(failed) == 3 * (1 - result.metrics["aligned"])


class Faulty(Clips):
    """The second text is too long to be said at once, the third recording is empty."""

    def sample(self, index, generator=None):
        found = super().sample(index)
        if index == 1:
            found.inputs["text"] = "seven " * 100
        if index == 2:
            found.inputs["audio"] = (np.zeros(0, dtype=np.float32), 16000)
        return found


def test_what_cannot_be_said_or_compared_is_left_out_with_the_reason(tmp_path):
    told = []
    result = Tts(batch_size=1, max_seconds=0.2)(zoo.create_system("tacotron2_nano"), Faulty(), "test", advance=told.append)
    assert result.num_items == 1 and sum(told) == 3 and result.details["left_out"] == 2
    assert [each["id"] for each in result.facts["left_out"]] == ["1", "2"]
    assert "cannot be spoken in one piece" in result.left_out[0]["reason"] and "at least one sample" in result.left_out[1]["reason"]
    assert result.tables[-1][0] == "left out"


def test_where_nothing_can_be_said_the_evaluation_says_why():
    class Long(Faulty):
        def sample(self, index, generator=None):
            return super().sample(1)

    with pytest.raises(DataError, match="no item of the split 'test' can be used; the first: .* cannot be spoken in one piece"):
        Tts(max_seconds=0.2)(zoo.create_system("tacotron2_nano"), Long(), "test")


class AsrHead(torch.nn.Module):
    verbs = ("transcribe",)


class AsrModel(torch.nn.Module):
    """A system that transcribes only the first word of three synthesised texts, and every word of the recordings."""

    processor = None

    def __init__(self):
        super().__init__()
        self.encoders, self.head, self.asked = torch.nn.ModuleDict(), AsrHead(), []

    def transcribe(self, audio, **options):
        self.asked.append(([len(sound) for sound in audio], options))
        texts = ["forty", "seven", "one"] if len(audio) == 6 else ["forty"]
        return [SimpleNamespace(text=text) for text in [*texts, "forty two", "seven.", "One hundred!"]][: len(audio)]


def test_the_asr_model_transcribes_the_speech_and_the_recordings():
    asr_model = AsrModel()
    result = Tts(max_seconds=0.5, asr_model=asr_model, language="en", seed=3)(zoo.create_system("tacotron2_nano"), Clips(), "test")
    lengths, options = asr_model.asked[0]
    assert lengths[3:] == [6000] * 3 and options == {"language": "en", "batch_size": 32, "seed": 3}
    # "42" "7" "100": one word each; 40 and 1 are heard for 42 and 100
    assert result.metrics["wer"] == pytest.approx(2 / 3) and result.metrics["recorded_wer"] == 0
    assert result.metrics["cer"] == pytest.approx((1 + 3) / 6) and result.metrics["recorded_cer"] == 0
    assert result.tables[-1][2] == [["forty two", "40", "42"], ["one hundred", "one", "100"]]


def test_word_errors_need_an_asr_model_that_can_transcribe():
    system = zoo.create_system("tacotron2_nano")
    assert "wer" not in Tts(limit=1, max_seconds=0.2)(system, Clips(), "test").metrics
    for asr_model, words in (("runs/whisper", "is a name: load it first"), (system, "verb transcribe .* got System")):
        with pytest.raises(ConfigError, match=words):
            Tts(asr_model=asr_model).check(system, Clips())
    with pytest.raises(ConfigError, match="normalise"):
        Tts(asr_model=system, normalise="Englsh")


def test_what_does_not_speak_is_refused():
    with pytest.raises(ConfigError, match="needs a head that synthesises speech"):
        Tts().check(zoo.create_system("clip_vit_nano"), Clips())
    with pytest.raises(ConfigError, match="max_seconds"):
        Tts(max_seconds=0.0)
