"""Verification cards: test results per system, written by the test run and never by hand."""

import datetime
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.storage.places import packaged_directory

CAPABILITIES = ("equals its reference", "goes back", "resumes exactly", "batch-invariant", "trains", "speed")
STATUSES = ("verified", "failed", "not verified", "not supported")


def cards_directory() -> Path:
    """Return the directory of the cards, which holds one JSON file per system."""
    return packaged_directory("assets") / "cards"


def read_card(name: str) -> dict[str, Any] | None:
    """Read the card of a system; returns None if no test run has written one."""
    path = cards_directory() / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def blank_card(name: str) -> dict[str, Any]:
    """Return a card on which nothing is verified yet."""
    return {"name": name, "commit": "", "date": "", "capabilities": {word: {"status": "not verified"} for word in CAPABILITIES}}


def lines_of(outcomes: Sequence[Sequence[str]]) -> dict[str, dict[str, str]]:
    """Convert test outcomes to lines of a card, by capability.

    A capability with several tests is verified if all of them passed.

    Args:
        outcomes: capability, pytest's outcome, figure and test id of each test.
    """
    lines = {}
    for capability in {outcome[0] for outcome in outcomes}:
        mine = [outcome for outcome in outcomes if outcome[0] == capability]
        worst = next((word for word in ("failed", "skipped") if any(outcome[1] == word for outcome in mine)), "passed")
        lines[capability] = {
            "status": {"passed": "verified", "skipped": "not verified", "failed": "failed"}[worst],
            "figure": "; ".join(outcome[2] for outcome in mine if outcome[2]),
            "command": "pytest " + " ".join(sorted({outcome[3].partition("[")[0] for outcome in mine})),
        }
    return lines


def write_lines(name: str, lines: Mapping[str, Mapping[str, str]]) -> None:
    """Update lines of a system's card, with today's date and the current git commit; other lines are kept."""
    from zoo.storage.files import write_text_atomically  # imports torch, which reading a card does not need

    assert set(lines) <= set(CAPABILITIES), f"unknown capability: {sorted(set(lines) - set(CAPABILITIES))}"
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    card = read_card(name) or blank_card(name)
    card = {**card, "commit": commit, "date": datetime.date.today().isoformat(), "capabilities": {**card["capabilities"], **lines}}
    cards_directory().mkdir(exist_ok=True)
    write_text_atomically(cards_directory() / f"{name}.json", json.dumps(card, indent=2) + "\n")


def cards_table() -> str:
    """Return all cards as a Markdown table with one row per system and one column per capability."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(cards_directory().glob("*.json"))]
    lines = ["| system | " + " | ".join(CAPABILITIES) + " |", "|---" * (len(CAPABILITIES) + 1) + "|"]
    for card in found:
        cells = [card["capabilities"][word]["status"] for word in CAPABILITIES]
        lines.append(f"| `{card['name']}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)
