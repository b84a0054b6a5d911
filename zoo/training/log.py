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

    ``metrics.jsonl`` is identical for runs with equal seed and config; ``timing.jsonl`` holds speed and memory;
    ``skipped.json`` holds the counts of skipped items; ``events.jsonl`` tells each resume, with the settings that it changed.
    """

    def __init__(self, run_dir: Path) -> None:
        self.metrics, self.timing = run_dir / "metrics.jsonl", run_dir / "timing.jsonl"
        self.skipped, self.events = run_dir / SKIPPED_FILE, run_dir / EVENTS_FILE

    def truncate(self, step: int) -> None:
        """Remove lines of steps after ``step``, and an incomplete last line of a killed run."""
        for path in (self.metrics, self.timing):
            cut_lines(path, step)

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Append one line of metrics; "speed", which depends on the machine (``zoo.training.meter``), goes to ``timing.jsonl``."""
        path, line = (self.timing, {"step": step}) if kind == "speed" else (self.metrics, {"step": step, "kind": kind})
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, **values}) + "\n")

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
