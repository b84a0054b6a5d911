"""Names, labels and answers from outside are shown as text: no terminal, no rich markup, no spreadsheet and no browser obeys them."""

import csv
import io
import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

import zoo
from zoo.commands.classify_report import Prediction, write_predictions
from zoo.commands.cli import main
from zoo.commands.display import print_json, table
from zoo.commands.index.search_report import Hit, write_hits
from zoo.commands.plain import say
from zoo.data.readers.recordings import text_lines
from zoo.data.zero_shot_prompts import read_labels, read_templates
from zoo.evaluation.choice import read_descriptions
from zoo.evaluation.measures.wer import WordErrorCounter
from zoo.evaluation.results.accuracy import AccuracyResult
from zoo.evaluation.results.answers import Answer, AnswersResult
from zoo.evaluation.results.asr_result import AsrResult, Recognition
from zoo.processors.chat.messages import Conversation
from zoo.processors.media.cells import cell
from zoo.storage.outside import printable

NASTY = ["\x1b[31mred", "a\rb", "\x07", "\x9b31m", "\u202egpj.exe", "\udcff", "\u2028"]


@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_control_characters_are_escaped_in_tables_lines_and_json(capsys, text):
    table(text, [text, "b"], [[text, text]])
    say(text)
    print_json({"a": text})
    said = capsys.readouterr().out
    assert not any(letter in said for letter in text if printable(letter) != letter)
    assert json.loads(said.splitlines()[-1])["a"] == text


@pytest.mark.parametrize("text", ["[/nope]", "[red]b", "[link=http://a]b[/link]", ":smile:", "[[]"])
def test_markup_in_cells_and_titles_is_shown_as_written(capsys, text):
    table(text, ["a", text], [[text, "1"]])
    assert capsys.readouterr().out.count(text) == 3


def test_a_plain_text_stays_as_it_is():
    for text in ("Grüße, 四千 \u00e9", "tab\tbreak\n", "emoji \U0001f600"):
        assert printable(text, "\n\t") == text


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "=cmd|' /C calc'!A0", " =1", "\t=1", "'=1"])
def test_a_text_that_a_spreadsheet_would_run_gets_a_quote(text):
    assert cell(text) == "'" + text


def test_numbers_and_other_texts_stay_in_cells():
    assert [cell(value) for value in ("-0.25", "+1e-3", "a=b", "cat", "", 3)] == ["-0.25", "+1e-3", "a=b", "cat", "", 3]


def test_csv_reports_hold_no_formula(tmp_path):
    write_predictions([Prediction("=a.png", ["=1+1", "@b"], [0.5, 0.5], None)], tmp_path / "c.csv", model="m", all_labels=["=1+1"])
    write_hits([Hit("+x", -0.5)], tmp_path / "s.csv", query="q", image=None, searched="i")
    rows = [row for name in ("c.csv", "s.csv") for row in csv.reader(io.StringIO((tmp_path / name).read_text()))]
    assert not any(text.startswith(("=", "+", "@")) for row in rows for text in row)
    assert ["'+x", "-0.500000"] in rows


def test_pages_escape_names_labels_and_the_query(tmp_path):
    evil = "<script>alert(1)</script>"
    write_hits([Hit(evil, 0.5, False)], tmp_path / "s.html", query=evil, image=None, searched=evil)
    Image.new("RGB", (4, 4)).save(tmp_path / "<b>.png")
    found = [Prediction(str(tmp_path / "<b>.png"), [evil], [1.0]), Prediction(evil, [], [], evil)]
    write_predictions(found, tmp_path / "c.html", model=evil, all_labels=[evil])
    assert not any(word in (tmp_path / name).read_text() for name in ("s.html", "c.html") for word in ("<script>", "<b>.png"))


@pytest.mark.parametrize("labels", ["a,[/nope]", "[red]b,c", "\x1b[31mx,y"])
def test_classify_shows_labels_as_text(tmp_path, capsys, labels):
    Image.new("RGB", (32, 32)).save(tmp_path / "x.png")
    assert main(["classify", str(tmp_path / "x.png"), "--model", "clip_vit_nano", "--labels", labels]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and printable(labels.split(",")[0]) in said


EVIL = "<script>alert(1)</script>"


def test_pages_of_evaluations_escape_everything_from_outside(tmp_path):
    asked = Conversation.parse({"messages": [{"role": "user", "content": EVIL}, {"role": "assistant", "content": "a"}]})
    answer = Answer(EVIL, EVIL, EVIL, EVIL, [EVIL], {"exact_match": 0.0}, EVIL, EVIL, asked)
    heard = Recognition(EVIL, EVIL, f"/nowhere/{EVIL}.wav", 1.0, EVIL, WordErrorCounter("none")(EVIL, f"b {EVIL}"))
    for result in (AnswersResult({"exact_match": 0.0}, [answer]), AsrResult({"wer": 1.0}, [heard])):
        page = (tmp_path / result.draw(tmp_path)).read_text()
        assert "<script" not in page and "&lt;script" in page


@pytest.mark.parametrize("name", ["$x^{$", r"\frac{", "$", "[red]b", "%"])
def test_a_plot_shows_the_name_of_a_class_as_written(tmp_path, name):
    result = AccuracyResult({"top1": 1.0, "top5": 1.0}, torch.eye(2, dtype=torch.int64), [name, "b"], 2)
    assert (tmp_path / result.draw(tmp_path)).stat().st_size > 1000


@pytest.mark.parametrize(
    ("read", "place"), [(read_labels, "labels: "), (read_templates, "templates: "), (read_descriptions, "descriptions: "), (text_lines, "")]
)
def test_lists_that_are_pipes_or_devices_are_told_at_once(tmp_path, read, place):
    os.mkfifo(tmp_path / "a.txt")
    for path in (tmp_path / "a.txt", Path("/dev/zero")):
        with pytest.raises(zoo.ZooError, match=f"^{place}.* cannot be opened, it is a (named pipe|device)"):
            read(str(path) if read is read_descriptions else path)
