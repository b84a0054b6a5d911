"""Stored figures of speed beside outside libraries, and the table of ``assets/guide/speed.md`` made from them. No torch."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from zoo.storage.places import packaged_directory

START, END = "<!-- speed: written by scripts/bench.py --peers --write -->", "<!-- end of speed -->"
HEADER = ("job", "library", "precision", "CPU s", "wall s", "ratio (range)", "pages kept", "quality", "extra MB")
LEGEND = """\
Ratio: CPU seconds of the first line of a job by those of this line, median of the rounds; above 1 is faster than the first line. Pages
kept: the same ratio in a second process whose allocator returns no memory to the system. Quality: the figure that the job names. Extra MB:
peak that one call adds to the memory in use (none if a library reserves it beforehand). A dash is a figure that was not measured."""


def speed_file() -> Path:
    """Return the file of the stored figures."""
    return packaged_directory("assets") / "speed.json"


def stored_rows() -> list[dict[str, Any]]:
    """Return the stored rows; empty before the first run."""
    path = speed_file()
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def merged(before: Iterable[dict[str, Any]], rows: Iterable[dict[str, Any]], order: Sequence[str]) -> list[dict[str, Any]]:
    """Return all rows in an order of names; of rows with the same name the later."""
    found = {row["name"]: row for row in (*before, *rows)}
    return [found[name] for name in order if name in found]


def with_speed(text: str) -> str:
    """Replace the text between the two marker comments by the table of the stored figures."""
    before, _, rest = text.partition(START)
    return f"{before}{START}\n{speed_table(stored_rows())}\n{END}{rest.partition(END)[2]}"


def speed_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as Markdown: the table, its legend, machines and versions, and what was left out."""
    lines = ["| " + " | ".join(HEADER) + " |", "|---" * len(HEADER) + "|"]
    for row in rows:
        for number, each in enumerate(row["results"]):
            lines.append("| " + " | ".join(_cells(row, each, first=number == 0)) + " |")
    runs: dict[tuple[str, str, str, int], list[str]] = {}
    for row in rows:
        runs.setdefault((row["date"], row["commit"], row["machine"], row["threads"]), []).append(row["name"])
    notes = [
        f"* {date}, commit {commit}, {machine}, {threads} thread{'s' * (threads > 1)}: {', '.join(f'`{name}`' for name in names)}."
        for (date, commit, machine, threads), names in runs.items()
    ]
    notes += [f"* Left out of `{row['name']}`: {text}." for row in rows for text in row["left_out"]]
    versions = {name: version for row in rows for name, version in row["versions"].items()}
    notes += ["* Versions: " + ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) + "."] if versions else []
    return "\n".join([*lines, "", LEGEND, "", *notes])


def _cells(row: dict[str, Any], each: dict[str, Any], *, first: bool) -> list[str]:
    job = f"{row['title']} (`{row['name']}`, {row['rounds']} rounds{'; ' + row['measure'] if row['measure'] else ''})" if first else ""
    library = each["library"] + (f", {each['optimizer']}" if each["optimizer"] else "")
    ratio = f"x{each['ratio']:.2f} ({each['smallest_ratio']:.2f}-{each['largest_ratio']:.2f})" if not first else "1"
    kept = each.get("ratio_kept")
    seconds = (f"{each[key]:.3f}" for key in ("cpu_seconds", "wall_seconds"))
    memory = "-" if each["megabytes"] is None else f"{each['megabytes']:.0f}"
    return [job, library, each["precision"], *seconds, ratio, "-" if kept is None else f"x{kept:.2f}", _quality(row, each), memory]


def _quality(row: dict[str, Any], each: dict[str, Any]) -> str:
    return "-" if each["quality"] is None else row["shown"].format(each["quality"])
