"""Whole recordings, against openai-whisper with the same random weights."""

import numpy as np
import pytest
import torch
import whisper

from zoo.errors import ConfigError, DataError
from zoo.language.transcription import mels
from zoo.language.transcription import windows as windows_module
from zoo.language.transcription.clips import Clip, Section, cut_at_pauses, sections_of, spoken_clips
from zoo.language.transcription.windows import even_prompt, split_spans, transcribe_each
from zoo.processors.media.voice_activity import EnergyDetector, speech_spans

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__")  # of numpy 2, at openai-whisper's beams
OPEN = {"compression_ratio_threshold": None, "log_probability_threshold": None, "no_speech_threshold": None}
THEIRS = {"compression_ratio_threshold": None, "logprob_threshold": None, "no_speech_threshold": None, "temperature": (0.0,), "fp16": False}
NEAR = 0.021  # s: where one token of the recording is left in a window, openai-whisper divides by zero, and is a token early
T = 1000  # <|0.00|> of the examples


def transcribed(made, *sources, batch_size=1, **settings):
    recogniser = made.recogniser(**{"temperatures": (0.0,), **OPEN, **settings})
    found = dict(transcribe_each(recogniser, sources, batch_size=batch_size))
    return [found[number] for number in range(len(sources))]


def speech_spans_of(waveform):
    detector = EnergyDetector()
    detector.take(waveform)
    return speech_spans(detector.finish(), len(waveform) / 16000)


def same(reference, ours):
    """Return True if segments, and their words if they have any, are equal; only the reference has times beyond the end."""
    last = ours.duration_s
    assert len(reference["segments"]) == len(ours.segments) and reference["language"] == ours.language
    for theirs, segment in zip(reference["segments"], ours.segments, strict=True):
        assert (theirs["id"], theirs["tokens"], theirs["text"]) == (segment.id, segment.token_ids, segment.text)
        times = [min(theirs[key], last) for key in ("start", "end")]
        assert times == pytest.approx([segment.start, segment.end], abs=NEAR) and segment.end <= last
        words = [(word.text, word.start, word.end) for word in segment.words or ()]
        said = theirs.get("words", ())
        expected = [(word["word"], *(pytest.approx(min(word[end], last), abs=NEAR) for end in ("start", "end"))) for word in said]
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


@pytest.fixture(scope="module")
def spoken(bursts):
    """40 s of noise with pauses; the third one is long. At its end is silence."""
    return bursts(4, 0.5, 9, 0.3, 6, 4, 7, 0.2, 6, 3)


def clips_of(seconds, spans, longest=None):
    """Return the clips of a recording as openai-whisper's option, from spans in seconds."""
    clips = spoken_clips(spans, round(seconds * 100))
    clips = clips if longest is None else cut_at_pauses(clips, spans, longest=longest)
    return [place / 100 for clip in clips for place in (clip.start, clip.end)]


SPANS = [(0.0, 4.0), (4.5, 13.5), (13.8, 19.8), (23.8, 30.8), (31.0, 37.0)]


def test_long_pauses_are_left_out_as_by_clip_timestamps(pair, spoken):
    made = pair(seed=1)
    (ours,) = transcribed(made, spoken, new_detector=EnergyDetector)
    found = speech_spans_of(spoken)
    assert np.abs(np.array(found) - np.array(SPANS)).max() < 0.04  # a frame of the detector is 32 ms
    clips = clips_of(40, found)
    assert len(clips) == 4 and clips[1] < 20.3 and clips[2] > 23.3 and clips[3] < 37.5
    same(whisper.transcribe(made.reference, spoken, clip_timestamps=clips, **THEIRS), ours)


def test_fixed_windows_are_sections_each_sought_through(pair, spoken, monkeypatch):
    monkeypatch.setattr(windows_module, "SECTION_FRAMES", 1500)
    made = pair(seed=1)
    settings = {"new_detector": EnergyDetector, "windows": "fixed", "condition_on_previous_text": False}
    (ours,) = transcribed(made, spoken, batch_size=3, **settings)
    pieces = cut_at_pauses(spoken_clips(speech_spans_of(spoken), 4000), speech_spans_of(spoken), longest=3000)
    sections = sections_of(pieces, longest=1500)
    assert len(sections) > 1
    whole = {"segments": [], "language": "en"}
    for section in sections:
        times = [frame / 100 for clip in section.clips for frame in (clip.start, clip.end)]
        theirs = whisper.transcribe(made.reference, spoken, clip_timestamps=times, condition_on_previous_text=False, **THEIRS)
        whole["segments"] += theirs["segments"]
    for number, segment in enumerate(whole["segments"]):
        segment["id"] = number
    same(whole, ours)


def test_a_recording_of_one_section_is_sought_through(pair, spoken):
    made = pair(seed=1)
    fixed, seek = (transcribed(made, spoken, new_detector=EnergyDetector, windows=windows)[0] for windows in ("fixed", "seek"))
    assert fixed == seek and len(fixed.segments) > 1


def test_sections_know_the_piece_before_them():
    pieces = [Clip(0, 20), Clip(20, 50), Clip(60, 90), Clip(90, 100), Clip(100, 300), Clip(300, 310)]
    assert sections_of(pieces, longest=100) == [
        Section([], [Clip(0, 50), Clip(60, 100)]),
        Section([Clip(90, 100)], [Clip(100, 300)]),
        Section([Clip(100, 300)], [Clip(300, 310)]),
    ]
    assert sections_of([], longest=100) == []


def test_prompts_beside_other_sections_have_few_lengths():
    assert [len(even_prompt(list(range(length)))) for length in (0, 40, 56, 100, 112, 150)] == [0, 40, 56, 56, 112, 112]
    assert even_prompt(list(range(150)))[-1] == 149


def test_the_piece_before_a_section_is_its_prompt_whatever_the_batch_size(pair, bursts, monkeypatch):
    monkeypatch.setattr(windows_module, "SECTION_FRAMES", 3000)
    made, waveform = pair(seed=1), bursts(*[7, 0.4] * 14)
    spans = speech_spans_of(waveform)
    sections = sections_of(cut_at_pauses([Clip(0, 10360)], spans, longest=3000), longest=3000)
    for batch_size in (1, 3):
        recogniser = made.recogniser(EnergyDetector, temperatures=(0.0,), windows="fixed", **OPEN)
        asked, decode = [], recogniser.decode

        def note(windows, asked=asked, decode=decode):
            asked += [(window.start, len(window.previous)) for window in windows]
            return decode(windows)

        recogniser.decode = note
        (_, transcript), *_ = transcribe_each(recogniser, [waveform], batch_size=batch_size)
        starts = [section.clips[0].start for section in sections]
        # Without a prompt only the first section, and each section as the piece before the next one.
        assert [asked.count((start, 0)) for start in starts] == [2, 1, 1, 0]
        assert all([tokens for place, tokens in asked if place == start and tokens] for start in starts[1:])
        assert [s.start for s in transcript.segments] == sorted(s.start for s in transcript.segments)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_fixed_windows_are_equal_for_any_batch_size(pair, bursts, batch_size, monkeypatch):
    monkeypatch.setattr(windows_module, "SECTION_FRAMES", 1500)
    made, waveform = pair(seed=1), bursts(*[7, 0.4] * 9)
    (ours,) = transcribed(made, waveform, new_detector=EnergyDetector, windows="fixed", batch_size=batch_size, word_timestamps=True)
    assert all(segment.words for segment in ours.segments if segment.text)
    (alone,) = transcribed(made, waveform, new_detector=EnergyDetector, windows="fixed", batch_size=4, word_timestamps=True)
    assert [s.token_ids for s in ours.segments] == [s.token_ids for s in alone.segments]
    assert [s.start for s in ours.segments] == sorted(s.start for s in ours.segments) and ours.segments[-1].start > 50


def test_a_text_that_repeats_itself_is_decoded_sentence_by_sentence(pair, bursts):
    made, waveform = pair(seed=1), bursts(*[2.5, 0.4] * 6)
    recogniser = made.recogniser(EnergyDetector, temperatures=(0.0, 1.0), **{**OPEN, "compression_ratio_threshold": 0.0})
    asked = []
    decode = recogniser.decode
    recogniser.decode = lambda windows: (asked.extend(windows), decode(windows))[1]
    list(transcribe_each(recogniser, [waveform]))
    lengths = [window.mels.shape[1] for window in asked]
    # The whole, in which everything counts as repeated; the first piece of at most 6 s; then its halves, which cannot be cut further.
    assert lengths[0] == 1740 and 300 < lengths[1] <= 600 and lengths[2] <= 300
    assert [window.can_split for window in asked[:3]] == [True, True, False] and not asked[2].previous


def test_without_speech_there_is_no_text(pair, sound):
    (ours,) = transcribed(pair(seed=1), np.full(16000 * 3, 0.01, dtype=np.float32), new_detector=EnergyDetector)
    assert (ours.text, ours.segments, ours.duration_s) == ("", [], 3.0)


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
