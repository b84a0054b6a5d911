"""Whole recordings, against openai-whisper with the same random weights."""

import numpy as np
import pytest
import torch
import whisper

from zoo.errors import ConfigError, DataError
from zoo.language.transcription import mels
from zoo.language.transcription.windows import split_spans, transcribe_each

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__")  # of numpy 2, at openai-whisper's beams
OPEN = {"compression_ratio_threshold": None, "log_probability_threshold": None, "no_speech_threshold": None}
THEIRS = {"compression_ratio_threshold": None, "logprob_threshold": None, "no_speech_threshold": None, "temperature": (0.0,), "fp16": False}
NEAR = 0.021  # s: where one token of the recording is left in a window, openai-whisper divides by zero, and is a token early
T = 1000  # <|0.00|> of the examples


def transcribed(made, *sources, batch_size=1, **settings):
    recogniser = made.recogniser(**{"temperatures": (0.0,), **OPEN, **settings})
    found = dict(transcribe_each(recogniser, sources, batch_size=batch_size))
    return [found[number] for number in range(len(sources))]


def same(reference, ours):
    """Return True if segments, and their words if they have any, are equal."""
    assert len(reference["segments"]) == len(ours.segments) and reference["language"] == ours.language
    for theirs, segment in zip(reference["segments"], ours.segments, strict=True):
        assert (theirs["id"], theirs["tokens"], theirs["text"]) == (segment.id, segment.token_ids, segment.text)
        assert (theirs["start"], theirs["end"]) == pytest.approx((segment.start, segment.end), abs=NEAR)
        words = [(word.text, word.start, word.end) for word in segment.words or ()]
        expected = [(word["word"], *(pytest.approx(word[end], abs=NEAR) for end in ("start", "end"))) for word in theirs.get("words", ())]
        assert words == expected
        assert [word["probability"] for word in theirs.get("words", ())] == pytest.approx(
            [w.probability for w in segment.words or ()], abs=1e-5
        )


@pytest.mark.parametrize(
    ("ids", "spans", "step"),
    [
        ([T, 1, T + 50, T + 60, 2, T + 100, T + 100, 3], [(0.0, 1.0), (1.2, 2.0)], 200),  # 3 is heard again in the next window
        ([T, 1, T + 50, T + 60, 2, T + 100], [(0.0, 1.0), (1.2, 2.0)], 700),  # behind one timestamp nobody speaks
        ([T, 1, T + 50], [(0.0, 1.0)], 700),
        ([T, 1, 2], [(0.0, 7.0)], 700),
        ([1, 2], [(0.0, 7.0)], 700),
        ([], [(0.0, 7.0)], 700),
    ],
)
def test_segments_end_at_pairs_of_timestamps(ids, spans, step):
    found, frames = split_spans(ids, T, frames=700)
    assert [(span.start, span.end) for span in found] == spans and frames == step


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("words", [False, True], ids=["segments", "words"])
def test_long_recordings_are_transcribed_as_by_openai_whisper(pair, sound, seed, words):
    made, waveform = pair(seed=seed), sound(38.123, seed)
    (ours,) = transcribed(made, waveform, word_timestamps=words)
    same(whisper.transcribe(made.reference, waveform, word_timestamps=words, **THEIRS), ours)
    assert len(ours.segments) > 1 and ours.duration_s == pytest.approx(38.123)


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"initial_prompt": "Names: Zoe, Ann "}, {"initial_prompt": "Names: Zoe, Ann "}),
        ({"condition_on_previous_text": False}, {"condition_on_previous_text": False}),
        ({"num_beams": 2}, {"beam_size": 2}),
        ({"timestamps": False}, {"without_timestamps": True}),
        ({"no_speech_threshold": 0.0}, {"no_speech_threshold": 0.0}),
    ],
    ids=["prompt", "no_previous", "beams", "no_timestamps", "silence"],
)
def test_options_mean_what_they_mean_to_openai_whisper(pair, sound, settings, options):
    made, waveform = pair(), sound(40)
    (ours,) = transcribed(made, waveform, **settings)
    same(whisper.transcribe(made.reference, waveform, **{**THEIRS, **options}), ours)


@pytest.mark.parametrize("language", [None, "ja"])
def test_multilingual_models_find_or_take_the_language(pair, sound, language):
    made, waveform = pair(multilingual=True, seed=3), sound(33)
    (ours,) = transcribed(made, waveform, language=language, word_timestamps=True)
    same(whisper.transcribe(made.reference, waveform, language=language, word_timestamps=True, **THEIRS), ours)


def test_the_text_of_all_segments_is_the_text(pair, sound):
    made = pair()
    (ours,) = transcribed(made, sound(40))
    assert ours.text == "".join(segment.text for segment in ours.segments) != ""


def test_recordings_of_a_batch_are_transcribed_as_alone(pair, sound):
    made, sources = pair(seed=1), [sound(seconds, seed) for seed, seconds in enumerate((31, 2.5, 33, 0.005))]
    together = transcribed(made, *sources, batch_size=2)
    for source, one in zip(sources, together, strict=True):
        (alone,) = transcribed(made, source)
        assert [segment.token_ids for segment in one.segments] == [segment.token_ids for segment in alone.segments]
    assert together[3].text == "" and together[3].segments == []


def test_fixed_windows_are_30_s_apart_and_know_nothing_of_each_other(pair, sound):
    made, waveform = pair(), sound(75)
    (whole,) = transcribed(made, waveform, windows="fixed", batch_size=2)
    (again,) = transcribed(made, waveform, windows="fixed")
    assert [segment.token_ids for segment in whole.segments] == [segment.token_ids for segment in again.segments]
    windows = {segment.start // 30 for segment in whole.segments}
    assert windows == {0, 1, 2} and [segment.id for segment in whole.segments] == list(range(len(whole.segments)))


def test_a_streamed_recording_gives_what_a_kept_one_gives(pair, sound, monkeypatch):
    made, waveform = pair(seed=1), sound(45)
    (kept,) = transcribed(made, waveform, word_timestamps=True)
    monkeypatch.setattr(mels, "KEPT_FRAMES", 500)
    (streamed,) = transcribed(made, waveform, word_timestamps=True)
    assert kept == streamed


def test_one_bad_recording_leaves_the_others_alone(pair, sound):
    good, bad = sound(3), np.full(16000, np.nan, dtype=np.float32)
    found = transcribed(pair(), good, bad, "missing.wav", good, batch_size=2)
    assert [isinstance(one, DataError) for one in found] == [False, True, True, False] and found[0] == found[3]


def test_progress_is_told_in_seconds_of_sound(pair, sound):
    told = []
    recogniser = pair().recogniser(temperatures=(0.0,), **OPEN)
    list(transcribe_each(recogniser, [sound(40), sound(5)], on_progress=lambda *words: told.append(words)))
    assert told[0] == (0, 0.0, 40.0) and (0, 40.0, 40.0) in told and told[-1] == (1, 5.0, 5.0)
    assert [seconds for number, seconds, _ in told if number == 0] == sorted(seconds for number, seconds, _ in told if number == 0)


def test_a_model_that_gives_no_numbers_says_so(pair, sound):
    made = pair(seed=9)
    with torch.no_grad():
        made.decoder.norm.weight.fill_(torch.nan)
    with pytest.raises(DataError, match="not finite"):
        transcribed(made, sound(1))


def test_a_batch_holds_something(pair, sound):
    with pytest.raises(ConfigError, match="batch_size: 0"):
        transcribed(pair(), sound(1), batch_size=0)
