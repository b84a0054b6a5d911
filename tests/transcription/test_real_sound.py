"""Real weights and speech in the forms that bug reports of peers name; the text of the plain file is the right one each time."""

import json
import struct
import subprocess
import sys

import numpy as np
import pytest
import soundfile

import zoo
from zoo.processors.media.audio_file import Track
from zoo.processors.media.sound_faults import say_once

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore:__array_wrap__")]


@pytest.fixture(scope="module")
def system(real):
    return zoo.load(real("whisper_tiny_en"))


@pytest.fixture(scope="module")
def speech(real, tmp_path_factory):
    """A clean sentence of about seven seconds as base.wav."""
    folder = real("asterisk_sounds")
    rows = [json.loads(line) for line in (folder / "table.jsonl").read_text(encoding="utf-8").splitlines()]
    row = min(rows, key=lambda row: abs(row["seconds"] - 7))
    samples, rate = soundfile.read(folder / row["path"], dtype="float32")
    path = tmp_path_factory.mktemp("speech") / "base.wav"
    soundfile.write(path, samples, rate)
    return path, samples


@pytest.fixture(scope="module")
def sentence(system, speech):
    text = system.transcribe(speech[0], temperatures=0.0).text
    assert len(text.split()) > 8
    return text


def forms(path, samples, folder):
    """Write the cases of make_sound.py and their kind; returns their paths by name."""
    whole = path.read_bytes()
    place = whole.index(b"data")
    for name, riff, data in (("placeholder", 2_000_000_036, 2_000_000_000), ("zero", 0, 0), ("all_ones", 2**32 - 1, 2**32 - 1)):
        stated = whole[:4] + struct.pack("<I", riff) + whole[8 : place + 4] + struct.pack("<I", data) + whole[place + 8 :]
        (folder / f"{name}.wav").write_bytes(stated)
    soundfile.write(folder / "antiphase.wav", np.stack([samples, -samples], 1), 16000)
    (folder / "unnamed").write_bytes(whole)
    return {file.stem: file for file in folder.iterdir()}


def test_sloppy_headers_and_cancelling_channels_give_the_sentence(system, speech, sentence, tmp_path, caplog):
    say_once.cache_clear()
    for name, file in forms(*speech, tmp_path).items():
        caplog.clear()
        assert system.transcribe(file, temperatures=0.0).text == sentence, name
        assert len(caplog.messages) == (name != "unnamed"), name


def test_a_recording_that_is_half_as_long_as_it_says_stays_refused(system, speech, tmp_path):
    whole = speech[0].read_bytes()
    (tmp_path / "half.wav").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(zoo.DataError, match="cut short"):
        system.transcribe(tmp_path / "half.wav")


def test_joined_mp3s_give_the_sentence_twice(system, speech, sentence, tmp_path):
    soundfile.write(tmp_path / "a.mp3", speech[1], 16000)
    (tmp_path / "b.mp3").write_bytes((tmp_path / "a.mp3").read_bytes() * 2)
    once, twice = (system.transcribe(tmp_path / name, temperatures=0.0) for name in ("a.mp3", "b.mp3"))
    assert twice.duration_s == pytest.approx(2 * once.duration_s)
    assert len(twice.text.split()) >= 2 * len(once.text.split()) - 2


def test_the_second_track_of_a_film_gives_the_sentence(system, speech, sentence, tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "film.mkv"), "w", format="matroska") as container:
        streams = [container.add_stream("pcm_s16le", rate=16000, layout="mono") for _ in range(2)]
        for stream, samples in zip(streams, (0 * speech[1], speech[1]), strict=True):
            frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16000, 0
            container.mux(stream.encode(frame))
    found = system.transcribe(Track(tmp_path / "film.mkv", 2), temperatures=0.0).text
    assert found.split()[:8] == sentence.split()[:8]
    assert system.transcribe(tmp_path / "film.mkv", temperatures=0.0).text == ""


def test_a_pipe_gives_the_sentence(real, speech, sentence):
    model = str(real("whisper_tiny_en"))
    command = [sys.executable, "-m", "zoo.commands.cli", "transcribe", "/dev/stdin", "--json", "--temperatures", "0", "--model", model]
    with subprocess.Popen(["cat", str(speech[0])], stdout=subprocess.PIPE) as cat:
        done = subprocess.run(command, stdin=cat.stdout, capture_output=True, check=True)
    assert json.loads(done.stdout)["text"] == sentence


def test_no_time_is_beyond_the_end_of_a_tenth_of_a_second(system, speech):
    heard = system.transcribe(speech[1][16000:17600], word_timestamps=True)
    assert all(time <= 0.1 for segment in heard.segments for time in (segment.start, segment.end))
    assert all(word.end <= 0.1 for segment in heard.segments for word in segment.words or [])


def test_a_minute_of_silence_has_no_text(system):
    assert system.transcribe(np.zeros(60 * 16000, dtype=np.float32)).text.strip() == ""
