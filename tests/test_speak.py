"""``zoo speak`` from the command line, with an untrained voice."""

import json
from pathlib import Path

import pytest
import soundfile

import zoo
from zoo.commands.cli import main
from zoo.processors.media.read_aloud import SYMBOLS


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    import torch

    torch.manual_seed(0)
    return str(zoo.save(zoo.create_system("tacotron2_nano"), tmp_path_factory.mktemp("voice") / "model"))


def test_sentences_become_one_recording_with_plots(voice, tmp_path, capsys):
    output = tmp_path / "out.wav"
    words = ["speak", "Dr. Lee has 2 cats. They cost $3!", "-o", str(output), "--model", voice, "--max-seconds", "0.4", "--json"]
    status = main([*words, "--plots", str(tmp_path / "plots")])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in lines] == ["Dr. Lee has 2 cats.", "They cost $3!"]
    assert status == int(any(line["faults"] for line in lines))
    sound, rate = soundfile.read(output)
    assert rate == 16000 and len(sound) / rate == pytest.approx(sum(line["seconds"] for line in lines) + 0.25, abs=0.01)
    assert [path.name for path in sorted((tmp_path / "plots").iterdir())] == ["001.png", "002.png"]


def test_failed_alignments_are_named_and_tell_in_the_status(voice, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("One sentence that nobody has learnt.\n\nAnother one.\n", encoding="utf-8")
    output = tmp_path / "out.flac"
    assert main(["speak", "--file", str(text), "-o", str(output), "--model", voice, "--max-seconds", "0.4"]) == 1
    out, err = capsys.readouterr()
    assert "failed alignment in 'One sentence that nobody has learnt.'" in err and "2 sentences" in out
    assert output.exists()


PAGE = """\ufeffThe price is $1.5m, or 27,50 \u20ac each.
\u56db\u5343\u4e09\u767e\u4e03
Read https://example.com/a on 3 May 2024; it is 10\u00b2 km away.\r
\u041f\u0440\u0438\u0432\u0435\u0442
I like \u65e5\u672c food.
It cost 123,456,789 dollars, then 987,654,321 dollars, then 555,444,333 dollars, then 222,111,999 dollars.
"""


def test_a_page_is_spoken_and_what_cannot_be_is_named_with_its_line(voice, tmp_path, capsys):
    text, output = tmp_path / "page.txt", tmp_path / "out.wav"
    text.write_bytes(PAGE.encode("utf-8"))
    assert main(["speak", "--file", str(text), "-o", str(output), "--model", voice, "--max-seconds", "0.2", "--json"]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    left_out = {row["line"]: row["left_out"] for row in rows if "left_out" in row}
    assert left_out == {2: "\u56db\u5343\u4e09\u767e\u4e03", 4: "\u041f\u0440\u0438\u0432\u0435\u0442", 5: "\u65e5\u672c"}
    spoken = [row["line"] for row in rows if "text" in row]
    assert set(spoken) == {1, 3, 5, 6} and spoken.count(6) > 1 and output.exists()


def test_sentences_that_cannot_be_spoken_are_told_on_the_terminal(voice, tmp_path, capsys):
    words = ["speak", "one two\n\u56db\u5343\nthree", "-o", str(tmp_path / "out.wav"), "--model", voice, "--max-seconds", "0.2"]
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert "line 2: '\u56db\u5343' cannot be spoken\n" in err and "2 sentences" in out and "1 not spoken" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "TEXT: give a text"),
        (["a", "--file", "b"], "but not both"),
        (["a", "-o", "out.doc"], "--output: out.doc is not an audio file"),
        (["a", "-o", "a_file/out.wav"], "a_file cannot be created"),
        (["--file", "missing.txt"], "--file: missing.txt: no such file"),
        (["?!"], "contains nothing that can be spoken"),
        (["a", "--vocoder", "hifi"], "vocoder: there is no 'hifi'"),
        (["a", "--speaker", "1"], "do not give a speaker"),
        (["a", "--max-seconds", "-1"], "max_seconds -1"),
        (["a", "--batch-size", "0"], "--batch-size: 0"),
    ],
)
def test_mistakes_get_one_clear_line(voice, tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").touch()
    assert main(["speak", *words, "--model", voice]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(Path(tmp_path).glob("*.wav"))


def test_a_model_that_does_not_speak_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = zoo.save(zoo.create_system("clip_vit_nano"), tmp_path / "clip")
    assert main(["speak", "hello", "--model", str(other)]) == 2
    assert "cannot synthesize speech" in capsys.readouterr().err


def test_a_voice_comes_back_from_its_files_and_says_the_same(voice):
    loaded = zoo.load(voice)
    assert loaded.processor["text"].tokenizer.get_vocab_size() == len(SYMBOLS["characters"])
    one, two = (loaded.synthesize(["seven"], max_seconds=0.3)[0] for _ in range(2))
    assert one.waveform.equal(two.waveform) and one.alignment.equal(two.alignment)


def test_the_bundled_voice_says_numbers_and_stops_by_itself(tmp_path, capsys):
    output = tmp_path / "new" / "folder" / "number.wav"
    assert main(["speak", "4307", "-o", str(output), "--json"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert "no --model given; using the bundled tacotron2_numbers: Says numbers" in err
    assert told["stop_reason"] == "stop token" and told["diagonality"] > 0.95 and 1 < told["seconds"] < 5
    sound, rate = soundfile.read(output)
    assert rate == 16000 and abs(sound).max() > 0.05
