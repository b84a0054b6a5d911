"""Verification cards are written by the test run and read by ``zoo info`` and the guide."""

import json
from pathlib import Path

import zoo
from zoo.evaluation.results.cards import CAPABILITIES, STATUSES, cards_directory, cards_table, lines_of, read_card, write_lines

PAGE = Path(__file__).parents[1] / "assets" / "guide" / "cards.md"


def test_the_table_is_made_from_the_cards():
    assert cards_table() in PAGE.read_text(encoding="utf-8"), "run: python scripts/update_readme.py"


def test_every_card_is_of_a_system_and_has_every_capability():
    for path in cards_directory().glob("*.json"):
        card = json.loads(path.read_text(encoding="utf-8"))
        assert card["name"] == path.stem and path.stem in zoo.list_models(kind="system")
        assert list(card["capabilities"]) == list(CAPABILITIES)
        assert all(line["status"] in STATUSES for line in card["capabilities"].values())


def test_one_failure_among_several_tests_fails_the_line():
    outcomes = [["trains", "passed", "99 %", "tests/a.py::one[x]"], ["trains", "failed", "", "tests/a.py::two"]]
    assert lines_of(outcomes) == {"trains": {"status": "failed", "figure": "99 %", "command": "pytest tests/a.py::one tests/a.py::two"}}


def test_lines_are_added_and_the_others_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.evaluation.results.cards.cards_directory", lambda: tmp_path / "cards")
    for capability in ("trains", "speed"):
        write_lines("clip_vit_nano", {capability: {"status": "verified", "figure": "x", "command": "y"}})
    found = {word: line["status"] for word, line in read_card("clip_vit_nano")["capabilities"].items()}
    assert found == {**dict.fromkeys(CAPABILITIES, "not verified"), "trains": "verified", "speed": "verified"}


def test_a_system_without_a_card_has_none():
    assert read_card("no_such_system") is None
