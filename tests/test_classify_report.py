"""The files that ``zoo classify`` writes."""

import csv
import html.parser
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from zoo.commands.classify_report import Prediction, check_output, write_predictions
from zoo.errors import DataError

NASTY = "a,\"b\"\r\n'c';<script>alert(1)</script>&amp;"


class Page(html.parser.HTMLParser):
    """Parser of a page: tags, attributes and text, as a browser sees them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def predictions(folder: Path) -> list[Prediction]:
    Image.new("RGB", (600, 300), "red").save(folder / "red.png")
    return [
        Prediction(str(folder / "red.png"), [NASTY, "dog"], [0.75, 0.25], None),
        Prediction(NASTY, [], [], f"not an image: {NASTY}"),
    ]


def written(folder: Path, name: str) -> str:
    write_predictions(predictions(folder), folder / name, model=NASTY, all_labels=[NASTY, "dog"])
    return (folder / name).read_bytes().decode("utf-8")


def test_csv_reads_back_whole(tmp_path: Path) -> None:
    written(tmp_path, "out.csv")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["path", "label_1", "probability_1", "label_2", "probability_2", "error"]
    assert rows[1] == [str(tmp_path / "red.png"), NASTY, "0.750000", "dog", "0.250000", ""]
    assert rows[2] == [NASTY, "", "", "", "", f"not an image: {NASTY}"]


def test_json_reads_back_whole(tmp_path: Path) -> None:
    found = json.loads(written(tmp_path, "out.JSON"))
    assert [Prediction(row["path"], row["labels"], row["probabilities"], row["error"]) for row in found] == predictions(tmp_path)
    assert found[0]["model"] == NASTY


def test_html_escapes_everything_and_needs_nothing_else(tmp_path: Path) -> None:
    raw = written(tmp_path, "out.html")
    page = Page(raw)
    assert "script" not in page.tags and "link" not in page.tags
    assert page.text.count("<script>alert(1)</script>&amp;") >= 5  # title, heading, labels, bar and the bad file
    sources = [value or "" for name, value in page.attributes if name in ("src", "href")]
    assert len(sources) == 1 and sources[0].startswith("data:image/jpeg;base64,") and len(sources[0]) < 20_000
    assert "75.0 %" in page.text and all(f"<dt>{name}</dt><dd>{n}</dd>" in raw for name, n in (("images", 2), ("not readable", 1)))
    assert raw.count('type="radio"') == 3 and 'class="card label_0"' in raw  # all, not readable, and one label


def test_a_picture_gone_since_leaves_its_bars(tmp_path: Path) -> None:
    write_predictions([Prediction("gone.png", ["cat"], [1.0])], tmp_path / "out.html", model="m", all_labels=["cat"])
    page = Page((tmp_path / "out.html").read_text(encoding="utf-8"))
    assert "no such file" in page.text and "100.0 %" in page.text


@pytest.mark.parametrize("name", ["out.csv", "out.json", "out.html"])
def test_no_predictions_and_names_that_are_not_utf8_can_be_written(name: str, tmp_path: Path) -> None:
    write_predictions([], tmp_path / name, model="m", all_labels=["cat"])
    bad = Prediction(os.fsdecode(b"\xff.png"), [], [], "gone")
    write_predictions([bad], tmp_path / name, model="m", all_labels=["cat"])
    text = (tmp_path / name).read_text(encoding="utf-8")
    assert "\\udcff.png" in text
    assert name != "out.json" or json.loads(text)[0]["path"] == bad.path


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("old")
    uneven = Prediction("x", ["cat"], [])
    with pytest.raises(ValueError, match="shorter"):
        write_predictions([uneven], tmp_path / "out.csv", model="m", all_labels=["cat"])
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    assert (tmp_path / "out.csv").read_text() == "old"


def test_outputs_that_cannot_be_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir(), (tmp_path / "file").touch()
    cases = {"out.txt": r"\.csv, \.json, \.html", "out": "no suffix", "folder.csv": "is a folder", "file/out.csv": "cannot be created"}
    for name, expected in cases.items():
        with pytest.raises(DataError, match=expected):
            check_output(tmp_path / name)
