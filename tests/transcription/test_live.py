"""Transcription while the sound comes in: the bookkeeping with a stub that hears a number each half second, and streams of bytes."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

import zoo
from zoo.errors import DataError
from zoo.language.transcription import live
from zoo.language.transcription.decoding import Recogniser
from zoo.language.transcription.live import LiveTranscription
from zoo.language.transcription.settings import Settings
from zoo.processors.media.live_sound import gathered, stream_sound
from zoo.types import Segment, Transcript

RATE = 16000


class Stub(Recogniser):
    """Recogniser without a model."""

    def __init__(self):
        self.settings = Settings()


def spoken(first, last):
    """Return sound in which each half second has its number as its loudness."""
    return np.repeat(np.arange(first, last, dtype=np.float32) / 1000, RATE // 2)


@pytest.fixture(autouse=True)
def heard(monkeypatch, request):
    """Let ``transcribe_each`` hear the numbers, four in a segment; a number that is not complete is heard wrongly."""
    prompts = []

    def transcribe_each(recogniser, sources):
        prompts.append(recogniser.settings.initial_prompt)
        seconds = len(sources[0]) / RATE
        pieces = [sources[0][start : start + RATE // 2] for start in range(0, len(sources[0]), RATE // 2)]
        words = [f" {round(float(piece[0]) * 1000)}" if len(piece) == RATE // 2 else " what" for piece in pieces]
        words = [" " if word == " 0" else word for word in words]
        groups = [range(start, min(start + 4, len(words))) for start in range(0, len(words), 4)]
        segments = [
            Segment(n, group[0] / 2, min(group[-1] / 2 + 0.5, seconds), "".join(words[i] for i in group), [], 0.0, 0.0, 1.0, 0.0)
            for n, group in enumerate(groups)
        ]
        yield 0, Transcript("".join(words), segments, "en", seconds)

    if "real" not in request.fixturenames:
        monkeypatch.setattr(live, "transcribe_each", transcribe_each)
    return prompts


@pytest.mark.parametrize("piece", [1600, 4000, 16000, 40000])
def test_every_word_becomes_final_once_and_in_order_whatever_the_pieces_are(piece):
    sound, found = spoken(1, 100), LiveTranscription(Stub())
    for start in range(0, len(sound), piece):
        found.take(sound[start : start + piece])
    found.finish()
    text = found.transcript()
    assert text.text.split() == [str(number) for number in range(1, 100)] and text.duration_s == pytest.approx(49.5)
    for segment in text.segments:
        first, last = segment.text.split()[0], segment.text.split()[-1]
        assert (segment.start, segment.end) == (pytest.approx((int(first) - 1) / 2), pytest.approx(int(last) / 2))
    assert [segment.id for segment in text.segments] == list(range(len(text.segments)))


def test_words_are_stable_when_two_transcripts_agree_and_final_ones_are_the_prompt(heard):
    found = LiveTranscription(Stub())
    first = found.take(spoken(1, 4)[:-2000])
    assert (first.stable, first.open) == ("", "1 2 what")
    second = found.take(np.concatenate([spoken(1, 4)[-2000:], spoken(4, 6)]))
    assert (second.stable, second.open) == ("1 2", "3 4 5") and not second.final
    for number in range(6, 60):
        found.take(spoken(number, number + 1))
    assert heard[0] is None and "1 2 3 4" in heard[-1] and len(heard[-1]) <= live.PROMPT_LETTERS


def test_a_pause_makes_everything_final():
    found = LiveTranscription(Stub())
    assert not found.take(spoken(1, 13)).final
    text = found.take(np.zeros(RATE, dtype=np.float32))
    assert [segment.text.split() for segment in text.final][:3] == [[str(n) for n in range(k, k + 4)] for k in (1, 5, 9)]
    assert not len(found.waiting) and found.start_s == 7.0


def test_too_little_new_sound_waits_and_an_empty_stream_has_no_text():
    found = LiveTranscription(Stub())
    assert found.take(np.zeros(1000, dtype=np.float32)) is None
    assert LiveTranscription(Stub()).finish().final == ()


class Drops:
    """Stream that gives a few bytes at a time and cannot seek."""

    def __init__(self, data, size=999):
        self.data, self.size = io.BytesIO(data), size

    def read(self, count=-1):
        return self.data.read(min(self.size, count) if count >= 0 else self.size)


@pytest.mark.parametrize("size", [1, 7, 5000])
def test_raw_samples_come_as_they_are(size):
    samples = (np.sin(np.arange(3001)) * 20000).astype("<i2")
    found = np.concatenate(list(stream_sound(Drops(samples.tobytes(), size), "it")))
    np.testing.assert_array_equal(found, samples / np.float32(2**15))


@pytest.mark.parametrize(("kind", "rate"), [("WAV", 16000), ("OGG", 22050), ("FLAC", 8000), ("MP3", 44100)])
def test_containers_come_at_16_khz(kind, rate):
    pytest.importorskip("av")
    file, tone = io.BytesIO(), 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate)
    soundfile.write(file, np.stack([tone, tone], 1), rate, format=kind)
    found = np.concatenate(list(stream_sound(Drops(file.getvalue()), "it")))
    assert abs(len(found) - 2 * RATE) < 3000
    expected = np.abs(np.fft.rfft(found[4000 : 4000 + RATE]))
    assert expected.argmax() == 440 and np.abs(found[4000:-4000]).max() == pytest.approx(0.5, abs=0.03)


def test_a_container_that_breaks_off_at_once_is_told():
    pytest.importorskip("av")
    with pytest.raises(DataError, match="it: cannot be read as it comes"):
        list(stream_sound(Drops(b"\x1aE\xdf\xa3" + bytes(100)), "it"))


def test_all_that_has_come_is_joined_and_an_error_is_handed_on():
    def pieces():
        for number in range(50):
            yield np.full(3, number, dtype=np.float32)
        raise DataError("it broke")

    found = []
    with pytest.raises(DataError, match="it broke"):
        found += [list(piece) for piece in gathered(pieces())]
    assert list(gathered(iter([]))) == []


def test_a_microphone_needs_its_library(monkeypatch):
    from zoo.processors.media.live_sound import microphone_sound

    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(zoo.ConfigError, match=r"zoo install microphone"):
        next(microphone_sound())


@pytest.mark.heavy
def test_a_process_that_is_fed_a_recording_writes_the_text_of_the_file(real, tmp_path):
    from zoo.evaluation.measures.wer import WordErrorCounter
    from zoo.processors.media.audio_file import read_audio

    model, folder = real("whisper_tiny_en"), real("asterisk_sounds")
    rows = [json.loads(line) for line in (folder / "table.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = sorted(rows, key=lambda row: -row["seconds"])[8:200:32]
    pause = np.zeros(RATE // 2, dtype=np.float32)
    sound = np.concatenate([part for row in rows for part in (read_audio(folder / row["path"])[0], pause)])
    command = [sys.executable, "-m", "zoo.commands.cli", "transcribe", "--live", "-", "--json", "--model", str(model)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    data = (sound * 32767).astype("<i2").tobytes()
    process.stdin.write(data[: 3 * 2 * RATE])
    process.stdin.flush()
    first = json.loads(process.stdout.readline())  # before the rest has come
    assert first["open"] or first["stable"]
    rest, _ = process.communicate(data[3 * 2 * RATE :])
    final = " ".join(line["final"] for line in map(json.loads, rest.splitlines()) if "final" in line)
    expected = zoo.load(model).transcribe(sound).text
    words = WordErrorCounter("english")(expected, final).words
    assert process.returncode == 0 and words.units > 60
    assert words.substitutions + words.deletions + words.insertions <= 0.01 * words.units + 1
