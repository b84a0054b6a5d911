"""Verification cards are written by the test run, and read by ``zoo info``, the README and the guide."""

import importlib.util
import json
from pathlib import Path

import pytest
from card_tests import CARD_TESTS, cards_of

from zoo.evaluation.results.card_families import FAMILIES, KINDS, family_of, members, reason_for
from zoo.evaluation.results.cards import CAPABILITIES, STATUSES, cards_directory, cards_table, read_card, write_lines, write_results
from zoo.registry.rows import own_rows

ROOT = Path(__file__).parents[1]


def written():
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in cards_directory().glob("*.json")}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("update_readme", ROOT / "scripts" / "update_readme.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["README.md", "assets/guide/cards.md", "assets/guide/speed.md"])
def test_the_tables_of_pages_are_made_from_the_cards_and_the_figures_of_speed(script, page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert script.PAGES[page](text) == text, "run: python scripts/update_readme.py"


def test_every_model_has_a_family_and_every_family_a_model():
    alone = [name for kind in KINDS for name in own_rows(kind) if family_of(name) is None]
    assert not alone, f"add a pattern to FAMILIES in zoo/evaluation/results/card_families.py for: {alone}"
    assert not [family for family in FAMILIES if not members(family)]


def test_every_line_of_every_family_is_verified_or_says_why_not():
    lines = {(family, word): line for family in FAMILIES for word, line in read_card(family)["capabilities"].items()}
    assert all(line["status"] in STATUSES and line["status"] != "failed" for line in lines.values())
    without = [place for place, line in lines.items() if line["status"] != "verified" and not line["reason"]]
    assert not without, "mark a test (tests/support/card_tests.py), or give the reason in zoo/evaluation/results/card_families.py"


def test_every_card_is_of_a_family_and_its_tests_exist():
    for name, card in written().items():
        assert card["name"] == name and name in FAMILIES
        for line in card["capabilities"].values():
            for test in line["command"].removeprefix("pytest ").split() if line["command"].startswith("pytest ") else []:
                file, _, function = test.partition("::")
                assert f"def {function}(" in (ROOT / file).read_text(encoding="utf-8"), f"{test}: write the cards again (zoo/.../cards.py)"


def test_each_test_of_the_table_exists_and_names_families():
    for test, (capabilities, families) in CARD_TESTS.items():
        file, _, function = test.partition("::")
        assert f"def {function}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), test
        assert set(capabilities) <= set(CAPABILITIES) and set(families) - {""} <= set(FAMILIES)


def test_a_case_decides_the_cards_of_its_family_or_row():
    assert list(cards_of("tests/convert/test_seq2seq.py::test_written_tokens_equal_theirs[beams-t5 1.1]")) == [
        ("t5", "equals its reference")
    ]
    assert list(cards_of("tests/language/test_contract.py::test_each_language_model_keeps_the_contract[gpt2_nano]")) == [
        ("gpt2_nano", "batch-invariant")
    ]
    assert not list(cards_of("tests/test_cards.py::test_a_case"))


@pytest.fixture
def cards(tmp_path, monkeypatch):
    """The cards lie in a folder of the test."""
    monkeypatch.setattr("zoo.evaluation.results.cards.cards_directory", lambda: tmp_path / "cards")
    return tmp_path / "cards"


def outcome(test, status="passed", capability="trains", figure=""):
    return ["m", capability, status, figure, f"tests/a.py::{test}"]


def line(capability="trains"):
    return read_card("clip")["capabilities"][capability]


def test_one_failure_among_several_tests_fails_the_line(cards):
    write_results("clip", [outcome("one[x]", figure="99 %"), outcome("two", "failed")])
    found = line()
    assert (found["status"], found["figure"], found["cases"]) == ("failed", "m: 99 %", 2)
    assert found["command"] == "pytest tests/a.py::one tests/a.py::two"


def test_a_skipped_test_decides_nothing(cards):
    write_results("clip", [outcome("one", "skipped")])
    assert line()["status"] == "not verified"
    write_results("clip", [outcome("one", "skipped"), outcome("two")])
    assert (line()["status"], line()["figure"], line()["command"]) == ("verified", "1 case", "pytest tests/a.py::two")
    write_results("clip", [outcome("two", "skipped")], collected={"tests/a.py::two"})
    assert line()["status"] == "verified"


def test_lines_are_added_and_the_others_stay(cards):
    write_lines("clip_vit_nano", {"speed": {"status": "verified", "figure": "x", "command": "y", "date": "2026-01-02"}})
    write_results("clip_vit_nano", [outcome("one")])
    assert [word for word, each in read_card("clip_vit_b32")["capabilities"].items() if each["status"] == "verified"] == ["trains", "speed"]
    assert line("speed")["date"] == "2026-01-02" and not list(cards.glob("*.lock"))


def test_two_runs_of_some_tests_give_the_card_of_one_run(cards):
    write_results("clip", [outcome("one[a]"), outcome("one[b]"), outcome("two", figure="1e-7")])
    together = line()
    (cards / "clip.json").unlink()
    write_results("clip", [outcome("two", figure="1e-7")])
    write_results("clip", [outcome("one[b]"), outcome("one[a]")])
    assert line() == together and together["cases"] == 3


def test_a_run_of_fewer_cases_keeps_a_verified_test_and_a_failure_replaces_it(cards):
    write_results("clip", [outcome("one[a]"), outcome("one[b]"), outcome("two")])
    write_results("clip", [outcome("one[a]")])
    assert (line()["status"], line()["cases"]) == ("verified", 3)
    write_results("clip", [outcome("one[a]", "failed")])
    assert (line()["status"], line()["cases"]) == ("failed", 2)


def test_a_run_of_all_tests_removes_results_of_tests_that_are_gone(cards):
    write_results("clip", [outcome("one"), outcome("two", capability="goes back")])
    write_results("clip", [outcome("three")], collected={"tests/a.py::three"})
    assert line()["command"] == "pytest tests/a.py::three" and line("goes back")["status"] == "not verified"


def test_an_open_line_says_why_and_a_name_without_family_has_no_card(cards):
    found = read_card("tacotron_nano")["capabilities"]["goes back"]
    assert (found["status"], found["reason"]) == reason_for("tacotron", "goes back")
    assert read_card("no_such_system") is None


def test_the_short_table_names_every_family_once():
    table = cards_table(short=True)
    assert all(table.count(f"`{family}`") == 1 for family in FAMILIES)
    assert "| open |" not in table, "mark a test in tests/support/card_tests.py"
