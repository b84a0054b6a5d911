"""Verification cards: test results per family of models, written by the test run and never by hand.

The tests that decide a line have the mark ``card(name, capability)``, in their file or by ``tests/support/card_tests.py``. This writes all:

    python -m pytest -m card --write-cards -n 2 --dist loadgroup && python scripts/update_readme.py

A run of some of these tests changes only the results of the tests that ran, so the cards can also be written in several runs.
"""

import datetime
import json
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo.evaluation.results.card_families import FAMILIES, family_of, members, reason_for
from zoo.storage.lock import alone
from zoo.storage.places import packaged_directory

CAPABILITIES = ("equals its reference", "goes back", "resumes exactly", "batch-invariant", "trains", "speed")
STATUSES = ("verified", "failed", "not verified", "does not apply")
SHORT = {"verified": "yes", "failed": "failed", "not verified": "open", "does not apply": "n/a"}
SHORT_CAPABILITIES = CAPABILITIES[:-1]  # without speed, which few families have a comparison for
PATIENCE = 60.0  # seconds to wait for another run that writes the same card; writing takes milliseconds
PAGE = "assets/guide/cards.md"
LEGEND = f"yes: a test verifies it; n/a: does not apply. Figures, commands and reasons: [{PAGE}]({PAGE})."


def cards_directory() -> Path:
    """Return the directory of the cards, which holds one JSON file per family."""
    return packaged_directory("assets") / "cards"


def read_card(name: str) -> dict[str, Any] | None:
    """Read the card of a row's family, with a reason in each line that no test verified.

    Args:
        name: of a family, or of an encoder, language model or system.

    Returns:
        The card: ``name``, the newest ``date`` and ``commit``, and ``capabilities``: by name, ``status`` and either ``figure``,
        ``command``, ``date`` and ``commit``, or ``reason``; ``tests`` holds the results of single tests. None if the row has no family.
    """
    family = family_of(name)
    if family is None:
        return None
    path = cards_directory() / f"{family}.json"
    written = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    lines = {word: _with_reason(family, word, written.get("capabilities", {}).get(word)) for word in CAPABILITIES}
    date, commit = max(((line.get("date", ""), line.get("commit", "")) for line in lines.values()), default=("", ""))
    return {"name": family, "commit": commit, "date": date, "capabilities": lines}


def _with_reason(family: str, capability: str, line: Mapping[str, Any] | None) -> dict[str, Any]:
    if line is not None and (line["status"] in ("verified", "failed") or line.get("reason")):
        return dict(line)
    status, reason = reason_for(family, capability) or ("not verified", "")
    return {"status": status, "reason": reason}


def results_of(outcomes: Iterable[Sequence[str]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Gather test outcomes by capability and test function; a test whose cases were all skipped has none.

    Args:
        outcomes: model, capability, pytest's outcome, figure and test id of each case.

    Returns:
        By capability and test: ``status`` (a test fails if one case does), ``cases`` and ``figures``.
    """
    cases: dict[str, dict[str, list[Sequence[str]]]] = {}
    for outcome in sorted(outcomes, key=lambda each: each[4]):  # whichever worker was first
        if outcome[2] != "skipped":
            cases.setdefault(outcome[1], {}).setdefault(outcome[4].partition("[")[0], []).append(outcome)
    return {capability: {test: _result(mine) for test, mine in tests.items()} for capability, tests in cases.items()}


def _result(cases: Sequence[Sequence[str]]) -> dict[str, Any]:
    status = "failed" if any(case[2] == "failed" for case in cases) else "verified"
    return {"status": status, "cases": len(cases), "figures": list(dict.fromkeys(f"{case[0]}: {case[3]}" for case in cases if case[3]))}


def line_of(tests: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the line of a capability from the results of its tests: it is verified if all of them passed."""
    figures = [figure for name in sorted(tests) for figure in tests[name]["figures"]]
    count = sum(result["cases"] for result in tests.values())
    date, commit = max((result["date"], result["commit"]) for result in tests.values())
    return {
        "status": "failed" if any(result["status"] == "failed" for result in tests.values()) else "verified",
        "figure": "; ".join(dict.fromkeys(figures)) or f"{count} case{'' if count == 1 else 's'}",
        "cases": count,
        "command": "pytest " + " ".join(sorted(tests)),
        "date": date,
        "commit": commit,
        "tests": dict(sorted(tests.items())),
    }


def write_results(name: str, outcomes: Iterable[Sequence[str]], *, collected: Collection[str] | None = None) -> None:
    """Merge the outcomes of a test run into a family's card; what the run did not decide is kept.

    A test that ran replaces its own earlier result only. It is kept if it was verified by more cases, as after a run of some of them.

    Args:
        name: of the family, or of a row of it.
        outcomes: see ``results_of``.
        collected: after a run of all marked tests, their names: results of other tests are removed, since those tests no longer exist.
    """
    new, stamp = results_of(outcomes), _stamp()
    with _open_card(name) as lines:
        for capability in CAPABILITIES:
            before = lines.get(capability, {}).get("tests", {})
            kept = {test: result for test, result in before.items() if collected is None or test in collected}
            for test, result in new.get(capability, {}).items():
                if not _is_kept(kept.get(test), result):
                    kept[test] = {**result, **stamp}
            if kept:
                lines[capability] = line_of(kept)
            elif before:
                del lines[capability]


def write_lines(name: str, lines: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace lines of a family's card that no test decides, each with today's date and the current git commit unless it has its own.

    Args:
        name: of the family, or of a row of it.
        lines: by capability.
    """
    assert set(lines) <= set(CAPABILITIES), f"unknown capability: {sorted(set(lines) - set(CAPABILITIES))}"
    stamp = _stamp()
    with _open_card(name) as card:
        card.update({word: {**stamp, **line} for word, line in lines.items()})


def _stamp() -> dict[str, str]:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {"date": datetime.date.today().isoformat(), "commit": commit}


@contextmanager
def _open_card(name: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of a card to change; they are written at the end. Runs that write the same card at once wait for each other."""
    from zoo.storage.files import write_text_atomically  # imports torch, which reading a card does not need

    family = family_of(name)
    assert family is not None, f"{name!r} is no row with a card; known families: {', '.join(FAMILIES)}"
    path = cards_directory() / f"{family}.json"
    path.parent.mkdir(exist_ok=True)
    with alone(path.with_suffix(".lock"), f"{path}: another run is writing this card", patience_s=PATIENCE):
        lines = json.loads(path.read_text(encoding="utf-8"))["capabilities"] if path.is_file() else {}
        yield lines
        card = {"name": family, "capabilities": {word: lines[word] for word in CAPABILITIES if word in lines}}
        write_text_atomically(path, json.dumps(card, indent=2) + "\n")


def _is_kept(before: Mapping[str, Any] | None, result: Mapping[str, Any]) -> bool:
    """Return True if a run of fewer cases of a test leaves its earlier result."""
    return before is not None and before["status"] == result["status"] == "verified" and before["cases"] > result["cases"]


def cards_table(short: bool = True) -> str:
    """Return all cards as Markdown: a table with one column per capability.

    Args:
        short: families with equal cells share a row, and the column "speed" is left out; otherwise each family has a row, and a section
            with figures, commands and reasons.
    """
    words = SHORT_CAPABILITIES if short else CAPABILITIES
    cells = {family: tuple(SHORT[_lines(family)[word]["status"]] for word in words) for family in FAMILIES}
    groups: dict[tuple[str, ...], list[str]] = {}
    for family, row in cells.items():
        groups.setdefault(row if short else (*row, family), []).append(family)
    lines = ["| family | " + " | ".join(words) + " |", "|---" * (len(words) + 1) + "|"]
    lines += [f"| {', '.join(f'`{each}`' for each in names)} | {' | '.join(cells[names[0]])} |" for names in groups.values()]
    table = "\n".join(lines)
    return f"{table}\n\n{LEGEND}" if short else "\n\n".join([table, *map(_section, FAMILIES)])


def _lines(family: str) -> dict[str, dict[str, Any]]:
    card = read_card(family)
    assert card is not None
    return card["capabilities"]


def _section(family: str) -> str:
    """Return one family's card: its models, and a list with status, figure or reason, and command of each capability."""
    told = [f"## {family}", f"Counts for: {', '.join(f'`{name}`' for name in members(family))}."]
    items = []
    for word, line in _lines(family).items():
        command = f" (`{line['command']}`, {line['date']})" if line.get("command") else ""
        figure = line.get("figure") or line.get("reason") or ""
        items.append(f"* **{word}**: {line['status']}{f'; {figure}' if figure else ''}{command}")
    return "\n\n".join([*told, "\n".join(items)])
