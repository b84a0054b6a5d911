"""Verification cards: what the test run found of each system. Written by the test run, never by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.registry import packaged_directory

CAPABILITIES = ("equals its reference", "goes back", "resumes exactly", "batch-invariant", "trains", "speed")
STATUSES = ("verified", "failed", "not verified", "not supported")


def cards_directory() -> Path:
    """Where cards lie: one JSON file per system."""
    return packaged_directory("assets") / "cards"


def read_card(name: str) -> dict[str, Any] | None:
    """The card of a system, or None where no test run has written one."""
    path = cards_directory() / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def blank_card(name: str) -> dict[str, Any]:
    """A card on which nothing is verified yet."""
    return {"name": name, "commit": "", "date": "", "capabilities": {word: {"status": "not verified"} for word in CAPABILITIES}}


def updated_card(card: dict[str, Any], outcomes: Sequence[Sequence[str]], *, commit: str, date: str) -> dict[str, Any]:
    """Write what tests found into a card.

    Args:
        outcomes: capability, pytest's outcome, figure and test id of each test. A line that several tests decide is verified
            when all of them passed.
    """
    lines = dict(card["capabilities"])
    for capability in {outcome[0] for outcome in outcomes}:
        assert capability in CAPABILITIES, f"no such capability: {capability!r}"
        mine = [outcome for outcome in outcomes if outcome[0] == capability]
        worst = next((word for word in ("failed", "skipped") if any(outcome[1] == word for outcome in mine)), "passed")
        lines[capability] = {
            "status": {"passed": "verified", "skipped": "not verified", "failed": "failed"}[worst],
            "figure": "; ".join(outcome[2] for outcome in mine if outcome[2]),
            "command": "pytest " + " ".join(sorted({outcome[3].partition("[")[0] for outcome in mine})),
        }
    return {**card, "commit": commit, "date": date, "capabilities": lines}


def cards_table() -> str:
    """All cards as a Markdown table: one row per system, one column per capability."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(cards_directory().glob("*.json"))]
    lines = ["| system | " + " | ".join(CAPABILITIES) + " |", "|---" * (len(CAPABILITIES) + 1) + "|"]
    for card in found:
        cells = [card["capabilities"][word]["status"] for word in CAPABILITIES]
        lines.append(f"| `{card['name']}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)
