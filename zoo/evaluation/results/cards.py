"""Verification cards: test results per family of models, written by the test run and never by hand.

The tests that decide a line have the mark ``card(name, capability)``, in their file or by ``tests/support/card_tests.py``. This writes all:

    python -m pytest -m card --write-cards && python scripts/update_readme.py
"""

import datetime
import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.evaluation.results.card_families import FAMILIES, family_of, members, reason_for
from zoo.storage.places import packaged_directory

CAPABILITIES = ("equals its reference", "goes back", "resumes exactly", "batch-invariant", "trains", "speed")
STATUSES = ("verified", "failed", "not verified", "does not apply")
SHORT = {"verified": "yes", "failed": "failed", "not verified": "open", "does not apply": "n/a"}
SHORT_CAPABILITIES = CAPABILITIES[:-1]  # without speed, which few families have a comparison for
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
        ``command``, ``date`` and ``commit``, or ``reason``. None if the row has no family.
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
    if line is not None and line["status"] in ("verified", "failed"):
        return dict(line)
    status, reason = reason_for(family, capability) or ("not verified", "")
    return {"status": status, "reason": reason}


def lines_of(outcomes: Iterable[Sequence[str]]) -> dict[str, dict[str, Any]]:
    """Convert test outcomes to lines of a card, by capability.

    A capability with several tests is verified if all of them passed; a skipped test decides nothing if others passed.

    Args:
        outcomes: model, capability, pytest's outcome, figure and test id of each test.
    """
    by_capability: dict[str, list[Sequence[str]]] = {}
    for outcome in outcomes:
        by_capability.setdefault(outcome[1], []).append(outcome)
    return {capability: _line(mine) for capability, mine in by_capability.items()}


def _line(outcomes: Sequence[Sequence[str]]) -> dict[str, Any]:
    found = {outcome[2] for outcome in outcomes}
    status = "failed" if "failed" in found else "verified" if "passed" in found else "not verified"
    counted = [outcome for outcome in outcomes if outcome[2] != "skipped"] or outcomes
    figures = list(dict.fromkeys(f"{outcome[0]}: {outcome[3]}" for outcome in counted if outcome[3]))
    cases = f"{len(counted)} case{'' if len(counted) == 1 else 's'}"
    return {
        "status": status,
        "figure": "; ".join(figures) or cases,
        "cases": len(counted),
        "command": "pytest " + " ".join(sorted({outcome[4].partition("[")[0] for outcome in counted})),
    }


def write_lines(name: str, lines: Mapping[str, Mapping[str, Any]], *, replace: Sequence[str] = ()) -> None:
    """Update lines of a family's card, each with today's date and the current git commit; other lines are kept.

    A verified line stays if the new one is verified by fewer tests, as after a run of some of them.

    Args:
        name: of the family, or of a row of it.
        replace: capabilities whose older lines go in any case, also if ``lines`` has no new one.
    """
    from zoo.storage.files import write_text_atomically  # imports torch, which reading a card does not need

    family = family_of(name)
    assert family is not None, f"{name!r} is no row with a card; known families: {', '.join(FAMILIES)}"
    assert set(lines) <= set(CAPABILITIES), f"unknown capability: {sorted(set(lines) - set(CAPABILITIES))}"
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    path = cards_directory() / f"{family}.json"
    before = json.loads(path.read_text(encoding="utf-8"))["capabilities"] if path.is_file() else {}
    new = {word: line for word, line in lines.items() if word in replace or not _is_kept(before.get(word), line)}
    dated = {word: {**line, "date": datetime.date.today().isoformat(), "commit": commit} for word, line in new.items()}
    merged = {**{word: line for word, line in before.items() if word not in replace}, **dated}
    card = {"name": family, "capabilities": {word: merged[word] for word in CAPABILITIES if word in merged}}
    cards_directory().mkdir(exist_ok=True)
    write_text_atomically(path, json.dumps(card, indent=2) + "\n")


def _is_kept(before: Mapping[str, Any] | None, line: Mapping[str, Any]) -> bool:
    """Return True if a run of fewer tests leaves an older line; lines of older versions, and those of benchmarks, have no count."""
    if before is None or "cases" not in line or {before["status"], line["status"]} != {"verified"}:
        return False
    return "cases" not in before or before["cases"] > line["cases"]


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
