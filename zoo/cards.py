"""Verification cards: what the test run found of each system. Written by the test run, never by hand."""

import json
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
