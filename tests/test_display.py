"""Tables on the terminal: they fit it, and titles and cards are read without a wide one."""

import json

import pytest

from zoo.commands.cli import main
from zoo.commands.display import Count, counting_progress, table


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def test_a_title_is_one_line_however_narrow_the_table_is(capsys):
    table("a title that is much longer than the table below it is wide", ["", ""], [["x", "1"]])
    assert capsys.readouterr().out.splitlines()[0].strip() == "a title that is much longer than the table below it is wide"


def test_a_cut_cell_takes_one_line_and_a_folded_one_loses_nothing(capsys):
    table("t", ["a", "b"], [["x", "word " * 40]], cut=True)
    table("t", ["a", "b"], [["x", "w" * 150]])
    cut, folded = capsys.readouterr().out.split("t\n")[1:]
    assert len(cut.splitlines()) == 5 and "\u2026" in cut and folded.count("w") == 150


@pytest.mark.parametrize("name", ["clip_vit_b32", "tacotron_nano", "vit_nano"])
def test_info_fits_80_columns_and_shows_commands_on_request(name, capsys):
    assert main(["info", name]) == 0
    short = capsys.readouterr().out
    assert all(len(line) <= 80 for line in short.splitlines()) and "equals its reference" in short and "pytest " not in short
    assert main(["info", name, "--verbose"]) == 0
    assert "pytest " in capsys.readouterr().out
    assert main(["info", name, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["card"]) == {"name", "commit", "date", "capabilities"}


def test_a_count_without_a_terminal_takes_every_call(capsys):
    with counting_progress("x", None, as_json=True) as advance:
        advance.expect(3)
        advance(2)
    assert isinstance(advance, Count) and advance.total == 3 and not capsys.readouterr().err
