"""Tables on the terminal: they fit it, and titles and cards are read without a wide one."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from zoo.commands import late_bar
from zoo.commands.cli import main
from zoo.commands.display import Count, counting_progress, table
from zoo.errors import DataError
from zoo.storage.files import create_folder_of
from zoo.storage.progress import counted, displayed_by, progress
from zoo.storage.tensors import load_strictly
from zoo.storage.verified import verify, write_list


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


@pytest.fixture
def terminal(monkeypatch):
    """Standard error looks like a terminal."""
    monkeypatch.setattr(late_bar, "sys", SimpleNamespace(stderr=SimpleNamespace(isatty=lambda: True)))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.parametrize(("patience", "quiet", "shown"), [(-1.0, False, True), (60.0, False, False), (-1.0, True, False)])
def test_work_that_takes_long_gets_a_bar(terminal, monkeypatch, capsys, patience, quiet, shown):
    monkeypatch.setattr(late_bar, "PATIENCE", patience)
    with late_bar.late_bars(quiet=quiet):
        assert list(counted([1, 2, 3], "draw [b]pictures")) == [1, 2, 3]
        with progress("load weights", 2_000_000) as advance:
            advance(1_000_000)
    told = capsys.readouterr().err
    assert ("draw [b]pictures" in told and "1.0/2.0 MB" in told) == shown and (shown or not told)


def test_loading_and_verifying_count_all_bytes(tmp_path):
    seen = {}

    @contextmanager
    def display(label, total, in_bytes):
        seen[label] = [total, 0]

        def advance(amount):
            seen[label][1] += amount

        yield advance

    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "a").write_bytes(b"x" * 3000)
    write_list(tmp_path / "toy")
    with displayed_by(display):
        load_strictly(model, model.state_dict(), origin="runs/a")
        verify(tmp_path / "toy")
    assert seen == {"load a": [16 * 4 + 16 * 4 + 8, 16 * 4 + 16 * 4 + 8], "verify toy": [3000, 3000]}


def test_missing_folders_of_an_output_are_created(tmp_path):
    create_folder_of(tmp_path / "a" / "b" / "out.csv")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"--boxes: the folder .*file.* cannot be created \(.*\); give a file in another folder"):
        create_folder_of(tmp_path / "file" / "out.png", "--boxes")
