"""Names, labels and answers from outside are shown as text: no terminal, no rich markup, no spreadsheet and no browser obeys them."""

import csv
import io
import json

import pytest
from PIL import Image

from zoo.commands.classify_report import Prediction, write_predictions
from zoo.commands.cli import main
from zoo.commands.display import print_json, table
from zoo.commands.index.search_report import Hit, write_hits
from zoo.commands.plain import say
from zoo.storage.cells import cell
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
