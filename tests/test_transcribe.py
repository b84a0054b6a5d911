"""``zoo transcribe`` from the command line, with an untrained model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import zoo
from zoo.commands.cli import main

QUICK = ["--temperatures", "0", "--no-speech-threshold", "none", "--log-probability-threshold", "none"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    import torch

    torch.manual_seed(0)
    system = zoo.create_system("whisper_nano", ["system.head.context_length=24"])
    system.processor["transcript"].fit(["some words to learn letters from", "The End."])
    return str(zoo.save(system, tmp_path_factory.mktemp("whisper") / "model"))


@pytest.fixture
def sounds(tmp_path):
    folder = tmp_path / "sounds"
    (folder / "deep").mkdir(parents=True)
    for number, name in enumerate(("a.wav", "b.flac", "deep/c.wav")):
        noise = np.random.default_rng(number).standard_normal(8000 + number) * 0.1
        soundfile.write(folder / name, noise, 16000)
    return folder


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_recordings_are_printed_with_their_times(model, sounds, capsys):
    assert main(["transcribe", str(sounds / "a.wav"), str(sounds / "b.flac"), "--model", model, *QUICK]) == 0
    blocks = capsys.readouterr().out.split(str(sounds))
    assert [block.partition("\n")[0] for block in blocks] == ["", "/a.wav:", "/b.flac:"]
    assert all("[00:00.000 --> " in block or "(no speech)" in block for block in blocks[1:])


def test_json_lines_hold_path_and_transcript(model, sounds, capsys):
    assert main(["transcribe", str(sounds), "--model", model, "--json", "--batch-size", "2", "--word-timestamps", *QUICK]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(Path(line["path"]).name for line in lines) == ["a.wav", "b.flac", "c.wav"]
    assert all({"text", "segments", "language", "duration_s"} <= set(line) for line in lines)
    assert lines[0]["duration_s"] == pytest.approx(0.5, abs=1e-3)


def test_folders_become_files_in_the_same_folders(model, sounds, tmp_path, capsys):
    out = tmp_path / "texts"
    assert main(["transcribe", str(sounds), "-o", str(out), "--format", "all", "--model", model, *QUICK]) == 0
    expected = [f"{stem}.{format}" for stem in ("a", "b", "deep/c") for format in ("json", "srt", "tsv", "txt", "vtt")]
    assert files(out) == sorted([*expected, "transcribe.json"])
    read = json.loads((out / "a.json").read_text(encoding="utf-8"))
    assert (out / "a.txt").read_text(encoding="utf-8").split() == read["text"].split()
    assert "3 transcripts of 0.0 minutes" in capsys.readouterr().out


def test_a_job_goes_on_where_it_was_stopped(model, sounds, tmp_path, capsys):
    out, words = tmp_path / "texts", ["--model", model, *QUICK]
    assert main(["transcribe", str(sounds), "-o", str(out), *words]) == 0
    (out / "a.txt").unlink()
    (out / "b.txt").write_text("kept", encoding="utf-8")
    made = (out / "deep/c.txt").stat().st_mtime_ns
    os.utime(sounds / "deep/c.wav", ns=(made + 10**9, made + 10**9))  # changed since
    assert main(["transcribe", str(sounds), "-o", str(out), *words]) == 0
    assert "1 of 3 transcripts exist already" in capsys.readouterr().err
    assert (out / "a.txt").exists() and (out / "b.txt").read_text(encoding="utf-8") == "kept"
    assert (out / "deep/c.txt").stat().st_mtime_ns > made
    assert main(["transcribe", str(sounds), "-o", str(out), "--overwrite", *words]) == 0
    assert (out / "b.txt").read_text(encoding="utf-8") != "kept"


def test_another_setting_is_an_error_until_all_is_made_anew(model, sounds, tmp_path, capsys):
    out, words = tmp_path / "texts", ["--model", model, *QUICK]
    assert main(["transcribe", str(sounds), "-o", str(out), *words]) == 0
    assert main(["transcribe", str(sounds), "-o", str(out), "--num-beams", "2", *words]) == 2
    assert "num_beams None is now 2" in capsys.readouterr().err
    assert main(["transcribe", str(sounds), "-o", str(out), "--num-beams", "2", "--overwrite", *words]) == 0


def test_files_of_others_are_not_overwritten(model, sounds, capsys):
    (sounds / "a.txt").write_text("mine", encoding="utf-8")
    assert main(["transcribe", str(sounds / "a.wav"), "-o", str(sounds), "--model", model, *QUICK]) == 2
    assert "exists and was not written by zoo transcribe" in capsys.readouterr().err
    assert (sounds / "a.txt").read_text(encoding="utf-8") == "mine"


def test_one_bad_file_is_named_and_the_others_go_on(model, sounds, tmp_path, capsys):
    (sounds / "empty.wav").write_bytes(b"")
    whole = (sounds / "a.wav").read_bytes()
    (sounds / "short.wav").write_bytes(whole[: len(whole) // 2])
    soundfile.write(sounds / "nan.wav", np.full(800, np.nan, dtype=np.float32), 16000, subtype="FLOAT")
    assert main(["transcribe", str(sounds), "-o", str(tmp_path / "texts"), "--model", model, *QUICK]) == 1
    error = capsys.readouterr().err
    assert all(word in error for word in ("the file is empty", "cut short", "not finite", "3 of 6 recordings could not be read"))
    assert files(tmp_path / "texts") == ["a.txt", "b.txt", "deep/c.txt", "transcribe.json"]


def test_silence_is_left_out_unless_it_is_asked_for(model, tmp_path, capsys):
    soundfile.write(tmp_path / "silence.wav", np.zeros(16000 * 3), 16000)
    found = {}
    for vad in ("auto", "energy", "none"):
        assert main(["transcribe", str(tmp_path / "silence.wav"), "--model", model, "--json", "--vad", vad, *QUICK]) == 0
        found[vad] = json.loads(capsys.readouterr().out)
    assert found["auto"]["segments"] == found["energy"]["segments"] == [] and found["auto"]["duration_s"] == 3.0
    assert found["none"]["segments"]  # the untrained model writes something


def test_the_limits_of_subtitles_are_settings_of_the_transcripts(model, sounds, tmp_path, capsys):
    out, words = tmp_path / "out", ["--model", model, "--word-timestamps", "--format", "srt", *QUICK]
    assert main(["transcribe", str(sounds / "a.wav"), "-o", str(out), "--max-line-width", "12", *words]) == 0
    assert json.loads((out / "transcribe.json").read_text(encoding="utf-8"))["max_line_width"] == 12
    assert main(["transcribe", str(sounds / "a.wav"), "-o", str(out), "--max-line-width", "13", *words]) == 2
    assert "max_line_width 12 is now 13" in capsys.readouterr().err


def test_recordings_of_one_name_keep_their_suffix(model, sounds, tmp_path):
    soundfile.write(sounds / "a.flac", np.zeros(1600), 16000)
    assert main(["transcribe", str(sounds), "-o", str(tmp_path / "texts"), "--model", model, *QUICK]) == 0
    assert files(tmp_path / "texts")[:2] == ["a.flac.txt", "a.wav.txt"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.wav"], "nowhere.wav: no such file or folder"),
        (["."], "no recordings in this folder"),
        (["a.wav", "--format", "doc"], "--format: there is no 'doc'"),
        (["a.wav", "--task", "sing"], "task: there is no 'sing'"),
        (["a.wav", "--language", "german"], "only transcribes English"),
        (["a.wav", "--temperatures", "hot"], "--temperatures: 'hot' is not a number"),
        (["a.wav", "--batch-size", "0"], "--batch-size: 0"),
        (["a.wav", "--patience", "2"], "no effect without beams"),
        (["a.wav", "--device", "tpu9"], "--device: tpu9 cannot be used"),
        (["a.wav", "-o", "a.wav"], "--output: a.wav cannot be written"),
        (["a.wav", "--vad", "webrtc"], "vad_filter: there is no 'webrtc'"),
        (["a.wav", "--windows", "sought"], "windows: there is no 'sought'"),
        (["a.wav", "--max-line-width", "40"], "--max-line-width: needs the times of words"),
        (["a.wav", "--word-timestamps", "--max-line-count", "2"], "max_line_count: 2 has no effect without a line width"),
    ],
)
def test_mistakes_get_one_clear_line(model, tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    if words != ["."]:
        soundfile.write("a.wav", np.zeros(1600), 16000)
    assert main(["transcribe", *words, "--model", model]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_without_a_model_the_command_that_brings_one_is_told(sounds, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    assert main(["transcribe", str(sounds)]) == 2
    assert "get it with: zoo fetch whisper_tiny_en" in capsys.readouterr().err


def test_a_model_that_does_not_hear_words_is_refused(sounds, tmp_path, capsys):
    other = zoo.save(zoo.create_system("clip_vit_nano"), tmp_path / "clip")
    assert main(["transcribe", str(sounds), "--model", str(other)]) == 2
    assert "cannot transcribe" in capsys.readouterr().err


def piped(model, data, *words, **keywords):
    """Run the command in a process with bytes on its standard input."""
    command = [sys.executable, "-m", "zoo.commands.cli", "transcribe", *words, "--model", model, *QUICK]
    return subprocess.run(command, input=data, capture_output=True, check=False, **keywords)


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_standard_input_is_transcribed(model, sounds, tmp_path, name):
    done = piped(model, (sounds / "a.wav").read_bytes(), name, "-o", str(tmp_path / "texts"), "--json")
    line = json.loads(done.stdout)
    assert done.returncode == 0 and line["path"] == "standard input" and line["duration_s"] == pytest.approx(0.5, abs=1e-3)
    assert files(tmp_path / "texts") == ["stdin.txt", "transcribe.json"]


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "standard input: nothing came"), (b"no sound" * 99, "standard input: not a recording")]
)
def test_standard_input_without_a_recording_is_told(model, data, message):
    done = piped(model, data, "-")
    assert done.returncode in (1, 2) and message in done.stderr.decode() and "Traceback" not in done.stderr.decode()


def test_what_a_shell_substitutes_is_transcribed(model, sounds):
    command = f"{sys.executable} -m zoo.commands.cli transcribe <(cat {sounds / 'a.wav'}) --json --model {model} {' '.join(QUICK)}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    assert json.loads(done.stdout)["path"].startswith("/dev/fd/")


def test_a_named_pipe_is_never_waited_for(model, sounds, capsys):
    os.mkfifo(sounds / "pipe.wav")
    assert main(["transcribe", str(sounds), "--model", model, *QUICK]) == 1
    assert main(["transcribe", str(sounds / "pipe.wav"), "--model", model, *QUICK]) == 1
    assert capsys.readouterr().err.count("it is a named pipe") == 2


def test_files_that_are_left_out_are_counted_and_recordings_of_any_name_are_taken(model, sounds, capsys):
    (sounds / "speech").write_bytes((sounds / "a.wav").read_bytes())
    for name in ("notes.txt", "deep/more.txt", "cover.png", ".hidden"):
        (sounds / name).write_bytes(b"text")
    assert main(["transcribe", str(sounds), "--json", "--model", model, *QUICK]) == 0
    printed = capsys.readouterr()
    assert sorted(Path(json.loads(line)["path"]).name for line in printed.out.splitlines()) == ["a.wav", "b.flac", "c.wav", "speech"]
    assert "3 files are no recordings and were left out (2 .txt, 1 .png)" in printed.err


def test_a_track_that_is_not_there_is_told(model, sounds, capsys):
    assert main(["transcribe", str(sounds / "a.wav"), "--track", "2", "--model", model, *QUICK]) == 1
    assert "has no sound track 2; it has 1" in capsys.readouterr().err


def test_an_older_note_without_a_setting_of_today_is_taken(model, sounds, tmp_path, capsys):
    words = ["transcribe", str(sounds), "-o", str(tmp_path / "texts"), "--model", model, *QUICK]
    assert main(words) == 0
    note = tmp_path / "texts" / "transcribe.json"
    facts = json.loads(note.read_text())
    note.write_text(json.dumps({key: value for key, value in facts.items() if key not in ("track", "suppress_tokens")}))
    assert main(words) == 0 and "3 of 3 transcripts exist already" in capsys.readouterr().err
    assert main([*words, "--suppress-tokens", "3,5"]) == 2
    assert "suppress_tokens None is now [3, 5]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--live", "a.wav"], "--live: reads standard input alone"),
        (["--live"], "write: zoo transcribe --live -"),
        (["--microphone", "a.wav"], "a.wav was given as well"),
        (["--live", "-", "--track", "1"], "--track: has no effect"),
        (["a.wav", "--suppress-tokens", "x"], "--suppress-tokens: 'x'; allowed are token ids"),
        ([], "no recordings; give files, folders, or - for standard input"),
    ],
)
def test_options_of_sound_that_do_not_fit_get_one_clear_line(model, capsys, words, message):
    assert main(["transcribe", *words, "--model", model]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_sound_is_transcribed_while_it_comes(model, sounds):
    samples = soundfile.read(sounds / "a.wav", dtype="int16")[0].tobytes()
    done = piped(model, samples * 8, "-", "--live", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and all(set(line) in ({"final", "start", "end"}, {"stable", "open"}) for line in lines), done.stderr
    assert piped(model, b"", "-", "--live").returncode == 2
