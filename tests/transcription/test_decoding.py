"""Windows to texts, against openai-whisper with the same random weights."""

from dataclasses import replace

import pytest
import torch
from whisper.decoding import DecodingOptions, decode
from whisper.utils import compression_ratio as reference_ratio

from zoo.errors import ConfigError
from zoo.language.transcription.decoding import Window, compression_ratio
from zoo.language.transcription.mels import RecordingMels

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__")  # of numpy 2, at openai-whisper's beams
OPEN = {"compression_ratio_threshold": None, "log_probability_threshold": None, "no_speech_threshold": None}


def window(sound, *, seconds=30, seed=0, previous=(), start=0):
    return Window(RecordingMels(sound(seconds, seed), 80).window(0, seconds * 100), start, "en", tuple(previous))


def pairs_of(reference, ours):
    """Return the pairs of values that must be equal in both."""
    assert ours.token_ids == reference.tokens and ours.text == reference.text
    assert ours.average_log_probability == pytest.approx(reference.avg_logprob, abs=1e-5)
    assert ours.no_speech_probability == pytest.approx(reference.no_speech_prob, abs=1e-5)
    assert ours.compression_ratio == pytest.approx(reference.compression_ratio)


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, {}),
        ({"num_beams": 3}, {"beam_size": 3}),
        ({"num_beams": 4, "patience": 2.0, "length_penalty": 0.6}, {"beam_size": 4, "patience": 2.0, "length_penalty": 0.6}),
        ({"num_beams": 3, "patience": 0.4}, {"beam_size": 3, "patience": 0.4}),
        ({"timestamps": False, "num_beams": 2}, {"without_timestamps": True, "beam_size": 2}),
    ],
    ids=["greedy", "beams", "patience", "impatience", "no_timestamps"],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_texts_are_those_of_openai_whisper(pair, sound, settings, options, seed):
    made = pair(seed=seed)
    for previous in ((), (1000, 2000, 50400, 3000)):
        asked = window(sound, seed=seed, previous=previous)
        (ours,) = made.recogniser(temperatures=(0.0,), **OPEN, **settings).decode([asked])
        pairs_of(decode(made.reference, asked.mels, DecodingOptions(fp16=False, language="en", prompt=list(previous), **options)), ours)


@pytest.mark.parametrize("task", ["transcribe", "translate"])
def test_a_multilingual_model_is_told_language_and_task(pair, sound, task):
    made = pair(multilingual=True)
    asked = replace(window(sound), language="de")
    (ours,) = made.recogniser(temperatures=(0.0,), language="de", task=task, **OPEN).decode([asked])
    pairs_of(decode(made.reference, asked.mels, DecodingOptions(fp16=False, language="de", task=task)), ours)


def test_the_language_is_the_one_openai_whisper_finds(pair, sound):
    for seed in range(3):
        made = pair(multilingual=True, seed=seed)
        mels = window(sound, seed=seed).mels
        probabilities = made.reference.detect_language(mels)[1]
        assert made.recogniser().identify(mels) == max(probabilities, key=probabilities.get)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"temperatures": (0.7,), "best_of": 3}], ids=["greedy", "beams", "drawn"])
def test_a_window_gets_the_same_text_in_every_batch(pair, sound, settings):
    recogniser = pair().recogniser(**{"temperatures": (0.0,), **OPEN, **settings})
    asked = [window(sound, seed=seed, previous=range(300, 300 + seed // 2), start=100 * seed) for seed in range(5)]
    together = recogniser.decode(asked)
    for one, alone in zip(together, (recogniser.decode([each])[0] for each in asked), strict=True):
        assert one.token_ids == alone.token_ids
        assert one.average_log_probability == pytest.approx(alone.average_log_probability, abs=1e-5)


def test_in_short_mode_a_window_does_not_depend_on_longer_ones(pair, sound):
    recogniser = pair().recogniser(temperatures=(0.0,), short=True, **OPEN)
    asked = [window(sound, seconds=seconds) for seconds in (2, 7, 3)]
    together = recogniser.decode(asked)
    assert [one.token_ids for one in together] == [recogniser.decode([each])[0].token_ids for each in asked]
    assert together[0].memory.keys.shape[-2] >= 100


def test_draws_depend_on_the_seed_and_the_place_alone(pair, sound):
    settings = {"temperatures": (1.0,), **OPEN}
    asked = window(sound)
    first, again, other = (pair().recogniser(seed=seed, **settings).decode([asked])[0].token_ids for seed in (0, 0, 1))
    elsewhere = pair().recogniser(**settings).decode([replace(asked, start=500)])[0].token_ids
    assert first == again and first != other and first != elsewhere


def test_the_best_of_several_draws_is_at_least_as_likely_as_the_first(pair, sound):
    def score(best_of):
        found = pair().recogniser(temperatures=(1.0,), best_of=best_of, **OPEN).decode([window(sound)])[0]
        return found.average_log_probability * (len(found.token_ids) + 1) / len(found.token_ids)

    scores = [score(count) for count in (None, 4)]
    assert scores[1] > min(scores[0], -5.0)


def test_a_bad_text_is_tried_again_at_the_next_temperature(pair, sound):
    never, twice = {**OPEN, "log_probability_threshold": 1.0}, (0.0, 0.3, 0.9)
    (last,) = pair().recogniser(temperatures=twice, **never).decode([window(sound)])
    assert last.temperature == 0.9
    (good,) = pair().recogniser(temperatures=twice, **{**never, "log_probability_threshold": -100.0}).decode([window(sound)])
    assert good.temperature == 0.0
    (repeats,) = pair().recogniser(temperatures=twice, **{**OPEN, "compression_ratio_threshold": 0.0}).decode([window(sound)])
    assert repeats.temperature == 0.9


def test_an_improbable_text_of_a_silent_window_is_not_tried_again(pair, sound):
    silent = {"compression_ratio_threshold": 0.0, "log_probability_threshold": 1.0, "no_speech_threshold": -1.0}
    recogniser = pair().recogniser(temperatures=(0.0, 1.0), **silent)
    (found,) = recogniser.decode([window(sound)])
    assert found.temperature == 0.0 and recogniser.is_silent(found)
    assert not pair().recogniser(**{**silent, "log_probability_threshold": -100.0}).is_silent(found)


def test_only_the_bad_windows_of_a_batch_are_tried_again(pair, sound):
    asked = [window(sound, seed=seed) for seed in range(4)]
    found = pair().recogniser(temperatures=(0.0,), **OPEN).decode(asked)
    limit = sorted(one.average_log_probability for one in found)[1] + 1e-4
    again = pair().recogniser(temperatures=(0.0, 1.0), **{**OPEN, "log_probability_threshold": limit}).decode(asked)
    assert sorted(one.temperature for one in again) == [0.0, 0.0, 1.0, 1.0]
    kept = [(a.token_ids, b.token_ids) for a, b in zip(found, again, strict=True) if b.temperature == 0]
    assert all(a == b for a, b in kept)


def test_compression_is_that_of_openai_whisper():
    for text in ("", "a" * 100, "the quick brown fox jumps over the lazy dog", "\u65e5\u672c\u8a9e"):
        assert compression_ratio(text) == reference_ratio(text)
    assert compression_ratio("thank you " * 20) == pytest.approx(9.5238, abs=1e-4)


@pytest.mark.parametrize(
    ("multilingual", "settings", "message"),
    [
        (False, {"language": "de"}, "only transcribes English"),
        (False, {"task": "translate"}, "only transcribes English"),
        (True, {"language": "xx"}, "'xx'"),
    ],
)
def test_a_language_that_the_model_does_not_know_is_refused(pair, multilingual, settings, message):
    with pytest.raises(ConfigError, match=message):
        pair(multilingual=multilingual).recogniser(**settings)


def test_no_gradients_are_kept(pair, sound):
    (found,) = pair().recogniser(temperatures=(0.0,), **OPEN).decode([window(sound)])
    assert not found.memory.keys.requires_grad and torch.is_inference(found.memory.keys)
