"""Real weights and real recordings: Whisper tiny.en on telephone prompts, against openai-whisper with the same weights."""

import json

import numpy as np
import pytest
import torch
import whisper

import zoo
from zoo.evaluation.measures.wer import WordErrorCounter
from zoo.interop.base.rules import from_zoo, under
from zoo.interop.whisper.names import OPENAI
from zoo.processors.media.audio_file import read_audio

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore:__array_wrap__")]


@pytest.fixture(scope="module")
def system(real):
    return zoo.load(real("whisper_tiny_en"))


@pytest.fixture(scope="module")
def reference(system):
    """openai-whisper's model with the weights that were fetched."""
    encoder, decoder = system.encoders["audio"].state_dict(), system.head.decoder.state_dict()
    state = from_zoo(encoder, under("encoder.", "", OPENAI.encoder_rules), origin=OPENAI.name)
    state |= from_zoo(decoder, under("decoder.", "", OPENAI.decoder_rules), origin=OPENAI.name)
    model = whisper.model.Whisper(whisper.model.ModelDimensions(80, 1500, 384, 6, 4, 51864, 448, 384, 6, 4)).eval()
    model.load_state_dict(state)
    model.set_alignment_heads(whisper._ALIGNMENT_HEADS["tiny.en"])
    return model.float()


@pytest.fixture(scope="module")
def recordings(real):
    """Paths of every fortieth prompt, the longer ones first."""
    folder = real("asterisk_sounds")
    rows = [json.loads(line) for line in (folder / "table.jsonl").read_text(encoding="utf-8").splitlines()]
    rows.sort(key=lambda row: -row["seconds"])
    return [(folder / row["path"], row["text"]) for row in rows[8:400:40]]


@pytest.mark.parametrize("num_beams", [None, 5])
def test_texts_and_times_are_those_of_openai_whisper(system, reference, recordings, num_beams):
    for path, _ in recordings[1:4]:
        ours = system.transcribe(str(path), num_beams=num_beams, temperatures=0.0)
        theirs = whisper.transcribe(reference, read_audio(path)[0], beam_size=num_beams, temperature=0.0, fp16=False)
        assert ours.text == theirs["text"]
        times = [(s["start"], min(s["end"], ours.duration_s)) for s in theirs["segments"]]  # theirs may end after the recording
        assert [(s.start, s.end) for s in ours.segments] == [pytest.approx(pair, abs=0.1) for pair in times]


def test_words_and_long_recordings_are_those_of_openai_whisper(system, reference, recordings):
    pause = np.zeros(8000, dtype=np.float32)
    waveform = np.concatenate([part for path, _ in recordings[:5] for part in (read_audio(path)[0], pause)])
    ours = system.transcribe(waveform, word_timestamps=True, windows="seek", vad_filter="none")
    theirs = whisper.transcribe(reference, waveform, word_timestamps=True, fp16=False)
    assert len(waveform) > 30 * 16000 and ours.text == theirs["text"]
    words = [(word["word"], word["start"], word["end"]) for segment in theirs["segments"] for word in segment["words"]]
    found = [word for segment in ours.segments for word in segment.words]
    assert [word.text for word in found] == [word for word, _, _ in words]
    assert [(word.start, word.end) for word in found] == [pytest.approx(times, abs=0.1) for _, *times in words]


def test_batches_and_fixed_windows_hear_what_is_said(system, recordings):
    paths = [str(path) for path, _ in recordings[2:8]]
    together = system.transcribe(paths, batch_size=4)
    alone = [system.transcribe(path) for path in paths]
    assert [heard.text for heard in together] == [heard.text for heard in alone]
    fixed = system.transcribe(paths[0], windows="fixed", batch_size=2)
    assert fixed.text == alone[0].text  # it is shorter than a window
    said = [{word.strip(".,?!").lower() for word in text.split()} for _, text in recordings[2:8]]
    heard = [{word.strip(".,?!").lower() for word in one.text.split()} for one in together]
    assert sum(len(a & b) for a, b in zip(said, heard, strict=True)) > 0.7 * sum(len(a) for a in said)


SECONDS = np.arange(16000 * 60) / 16000
CHORDS = sum(np.sin(2 * np.pi * 220 * 2 ** (key / 12) * (1 + SECONDS // 1 % 2 / 3) * SECONDS) for key in (0, 4, 7, 12))
NO_SPEECH = {
    "zeros": np.zeros(len(SECONDS)),
    "noise": 0.1 * np.random.default_rng(0).standard_normal(len(SECONDS)),
    "hum": 0.3 * sum(np.sin(2 * np.pi * 50 * k * SECONDS) / k for k in (1, 2, 3, 5)),
    "music": 0.1 * CHORDS * np.exp(-2 * (SECONDS % 1)),
}


@pytest.mark.parametrize("sound", NO_SPEECH)
def test_a_minute_without_speech_gives_no_text(system, sound):
    heard = system.transcribe(NO_SPEECH[sound].astype(np.float32))
    assert (heard.text, heard.segments) == ("", [])
    assert torch.get_num_threads() == 1


def test_a_tenth_of_a_second_gives_no_text_and_no_time_beyond_it(system, recordings):
    samples = read_audio(recordings[1][0])[0][16000:17600]
    assert system.transcribe(samples).text == ""
    forced = system.transcribe(samples, vad_filter=False, temperatures=0.0, no_speech_threshold=None)
    assert all(segment.end <= 0.1 for segment in forced.segments)


@pytest.mark.parametrize("windows", ["seek", "fixed"])
def test_a_sentence_said_twelve_times_is_written_twelve_times(system, recordings, windows):
    path, text = recordings[4]
    once = np.concatenate([read_audio(path)[0], np.zeros(8000, dtype=np.float32)])
    heard = system.transcribe(np.tile(once, 12), windows=windows, batch_size=8).text
    assert WordErrorCounter()(" ".join([text] * 12), heard).words.rate <= 0.05


def test_fixed_windows_lose_no_words_and_are_equal_for_any_batch_size(system, recordings):
    pause = np.zeros(8000, dtype=np.float32)
    waveform = np.concatenate([part for path, _ in recordings for part in (read_audio(path)[0], pause)])
    said = " ".join(text for _, text in recordings)
    found = {size: system.transcribe(waveform, windows="fixed", batch_size=size) for size in (1, 8)}
    assert [s.token_ids for s in found[1].segments] == [s.token_ids for s in found[8].segments]
    sought = system.transcribe(waveform, windows="seek")
    deleted = [WordErrorCounter()(said, heard.text).words.deletions for heard in (found[8], sought)]
    assert deleted[0] <= deleted[1] + 1
