"""Tables: any separator, cells of any length, and messages for rows that do not fit."""

import csv

import pytest

from zoo.data.readers.table import read_table
from zoo.errors import ConfigError, DataError

ROWS = [["img/0.png", 'a photo, of digit "0"; or so'], ["img/1.png", "a | b"]]


def table(folder, separator, name="table.csv", header=("filepath", "title")):
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=separator).writerows([header, *ROWS])
    return folder / name


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_the_separator_is_found_by_the_keys(separator, tmp_path):
    rows = list(read_table(table(tmp_path, separator), ["filepath", "title"]))
    assert [list(row.values.values()) for row in rows] == ROWS and [row.number for row in rows] == [2, 3]


@pytest.mark.parametrize("separator", [",", "\t"])
def test_without_keys_the_most_frequent_separator_is_taken(separator, tmp_path):
    assert [list(row.values.values()) for row in read_table(table(tmp_path, separator, "t.tsv"), [])] == ROWS


def test_a_given_separator_is_obeyed(tmp_path):
    assert [list(row.values.values()) for row in read_table(table(tmp_path, "~"), ["title"], separator="~")] == ROWS
    with pytest.raises(DataError, match="no key 'title'; keys present: filepath~title"):
        list(read_table(table(tmp_path, "~"), ["title"]))
    with pytest.raises(ConfigError, match="separator: got 'tab'; allowed is one character"):
        list(read_table(table(tmp_path, "\t"), ["title"], separator="tab"))


def test_a_comma_in_the_name_of_a_column_is_no_separator(tmp_path):
    (tmp_path / "t.csv").write_text("path\tcaption, long\na.png\thello\n")
    assert [row.values for row in read_table(tmp_path / "t.csv", ["path", "caption, long"])] == [
        {"path": "a.png", "caption, long": "hello"}
    ]


def test_a_cell_may_be_longer_than_pythons_limit_which_stays(tmp_path):
    limit, text = csv.field_size_limit(), "word " * 60_000
    (tmp_path / "t.csv").write_text(f"path,caption\na.png,{text}\n")
    (row,) = read_table(tmp_path / "t.csv", ["path", "caption"])
    assert row.fault is None and row.values["caption"] == text and csv.field_size_limit() == limit


def test_a_row_with_other_cells_names_the_separator(tmp_path):
    (tmp_path / "t.csv").write_text("path;caption\na.png;b;c\n")
    (row,) = read_table(tmp_path / "t.csv", ["path", "caption"])
    assert row.fault == "3 cells where the header has 2; quote cells that hold semicolons"
