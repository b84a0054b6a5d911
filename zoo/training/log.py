"""Log files of a training run: reproducible metrics, and machine-dependent timing in a separate file."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.data.skips import Skips
from zoo.storage.files import sync_files, write_text_atomically

SKIPPED_FILE, EVENTS_FILE = "skipped.json", "events.jsonl"


class RunLog:
    """Writer of a run's log files.

    ``metrics.jsonl`` is identical for runs with equal seed and config; ``timing.jsonl`` holds seconds and items per second;
    ``skipped.json`` holds the counts of skipped items; ``events.jsonl`` tells each resume, with the settings that it changed.
    """

    def __init__(self, run_dir: Path) -> None:
        self.metrics, self.timing = run_dir / "metrics.jsonl", run_dir / "timing.jsonl"
        self.skipped, self.events = run_dir / SKIPPED_FILE, run_dir / EVENTS_FILE
        self._started, self._items = time.monotonic(), 0

    def truncate(self, step: int) -> None:
        """Remove lines of steps after ``step``, and an incomplete last line of a killed run."""
        for path in (self.metrics, self.timing):
            cut_lines(path, step)

    def write(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Append one line of metrics."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")

    def write_event(self, step: int, event: str, facts: Mapping[str, Any]) -> None:
        """Append one line about what happened to the run; unlike metrics, these lines differ after an interruption."""
        line = {"step": step, "event": event, "time": time.strftime("%Y-%m-%d %H:%M:%S"), **facts}
        with self.events.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def sync(self) -> None:
        """Flush the metrics to disk."""
        sync_files([self.metrics])

    def write_skipped(self, states: Sequence[Mapping[str, Any]], *, main: bool) -> None:
        """Write the numbers of skipped items by reason, with examples, summed over the processes."""
        if main:
            write_text_atomically(self.skipped, json.dumps(Skips().restore(*states).state(), indent=2, ensure_ascii=False) + "\n")

    def count(self, items: int) -> None:
        """Add to the items seen since the last line of timing."""
        self._items += items

    def write_timing(self, step: int) -> float:
        """Append the items per second since the last call to ``timing.jsonl`` and return them."""
        now = time.monotonic()
        rate = self._items / max(now - self._started, 1e-9)
        with self.timing.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "items_per_second": round(rate, 2), "seconds": round(now - self._started, 3)}) + "\n")
        self._started, self._items = now, 0
        return rate


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a JSON-lines file; an incomplete last line of a killed run is ignored."""
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:  # what no newline ends is incomplete
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def cut_lines(path: Path, step: int) -> None:
    """Remove the lines of later steps from a JSON-lines file; does nothing if the file does not exist."""
    if path.exists():
        kept = [line for line in read_lines(path) if line["step"] <= step]
        write_text_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))
