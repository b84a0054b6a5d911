"""``zoo compare``: runs side by side as a table, a CSV, JSON or HTML file, or a picture of their curves."""

import io
import json
import os
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from zoo.commands.display import print_json, table
from zoo.evaluation.results.html_report import check_output, picture_of, table_of, write_page
from zoo.evaluation.results.plots import text_as_written
from zoo.processors.media.cells import write_rows
from zoo.runs.comparison import Comparison, RunRecord, compare_runs
from zoo.storage.files import write_whole

SUFFIXES = (".csv", ".json", ".html", ".png")
MOST_SHOWN = 6  # settings of a run in the table of the terminal
MOST_METRICS = 3  # of a kept result in the table of the terminal
MOST_NAMED = 12  # runs in the legend of a picture


def compare_command(options: Namespace) -> int:
    """Compare runs on the terminal, as JSON lines, or in a file."""
    output = None if options.output is None else Path(options.output)
    if output is not None:
        check_output(output, SUFFIXES)
    found = compare_runs(options.runs)
    if output is not None:
        write_comparison(found, output)
    if options.json:
        for run in found.runs:
            print_json(facts(found, run))
    elif output is None:
        show(found)
    else:
        print(f"written: {output}")
    return 0


def facts(found: Comparison, run: RunRecord) -> dict[str, Any]:
    """Return all that is compared of a run, as plain values."""
    metrics: dict[str, Any] = {}
    for kind, name in found.metrics():
        if (final := run.final(kind, name)) is not None:
            metrics[f"{kind}/{name}"] = {"final": final}
            if kind == "evaluation" and (best := run.best(name)) is not None:
                metrics[f"{kind}/{name}"] |= {"best": best[0], "best_step": best[1]}
    settings = found.settings_of(run)
    titles = found.kept()
    kept = {titles[each.key]: {**each.metrics, "items": each.items, "folder": str(each.folder)} for each in run.kept}
    told = {"run": run.name, "step": run.step, "max_steps": run.max_steps, "watched": run.watched, "differs": settings, "metrics": metrics}
    return {**told, "evaluations": kept}


def write_comparison(found: Comparison, output: Path) -> None:
    """Write a comparison as CSV, JSON, HTML or a picture, chosen by the file suffix; the file is written atomically.

    Raises:
        DataError: the file cannot be written.
    """
    if output.suffix.lower() == ".png":
        write_whole(output, draw(found))
        return
    writers: dict[str, Callable[[TextIO], object]] = {
        ".csv": lambda file: write_rows(file, rows(found)),
        ".json": lambda file: file.write(json.dumps([facts(found, run) for run in found.runs], indent=2, ensure_ascii=False) + "\n"),
        ".html": lambda file: _write_html(file, found),
    }
    write_whole(output, writers[output.suffix.lower()])


def rows(found: Comparison) -> list[list[Any]]:
    """Return the whole table: one line per run, after a line of titles."""
    titles: list[Any] = ["run", "step", "max_steps", *found.differing]
    lines: list[list[Any]] = [
        [run.name, run.step, run.max_steps, *(_text(run.settings[key]) if key in run.settings else "" for key in found.differing)]
        for run in found.runs
    ]
    for kind, name in found.metrics():
        titles.append(f"{kind}/{name}")
        for run, line in zip(found.runs, lines, strict=True):
            line.append(_empty(run.final(kind, name)))
        if kind == "evaluation":
            titles += [f"best {name}", f"step of best {name}"]
            for run, line in zip(found.runs, lines, strict=True):
                line.extend(run.best(name) or ("", ""))
    for key, title in found.kept().items():
        kept = [next((result.metrics for result in run.kept if result.key == key), {}) for run in found.runs]
        for name in dict.fromkeys(name for metrics in kept for name in metrics):
            titles.append(f"{title}: {name}")
            for metrics, line in zip(kept, lines, strict=True):
                line.append(_empty(metrics.get(name)))
    return [titles, *lines]


def _empty(value: float | None) -> float | str:
    return "" if value is None else value


def _text(value: Any) -> Any:
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else json.dumps(value, ensure_ascii=False)


def show(found: Comparison) -> None:
    """Print one line per run: settings that differ, last loss, final and best watched metric."""
    short = short_keys(found.differing)
    folder = common_folder(found)
    lines = []
    for run in found.runs:
        settings = [f"{short[key]}={_brief(value)}" for key, value in found.settings_of(run).items()]
        more = [f"... and {len(settings) - MOST_SHOWN} more"] if len(settings) > MOST_SHOWN else []
        best, final = run.best(), None if run.watched is None else run.final("evaluation", run.watched)
        lines.append(
            [
                os.path.relpath(run.name, folder or "."),
                "\n".join([*settings[:MOST_SHOWN], *more]),
                f"{run.step}/{run.max_steps}",
                _number(run.final("train", "loss")),
                _number(final),
                "" if best is None else f"{_number(best[0])} @{best[1]}",
            ]
        )
    watched = " or ".join(dict.fromkeys(run.watched for run in found.runs if run.watched)) or "metric"
    title = f"{len(found.runs)} runs" + (f" in {folder}" if folder else "")
    table(title, ["run", "differs in", "step", "loss", watched, f"best {watched}"], lines)
    titles = found.kept()
    kept = [
        [os.path.relpath(run.name, folder or "."), titles[each.key], f"{each.items:,}", ", ".join(_shown_metrics(each.metrics))]
        for run in found.runs
        for each in run.kept
    ]
    if kept:
        table("results of zoo evaluate", ["run", "evaluation", "items", "metrics"], kept, num_texts=2)


def _shown_metrics(metrics: dict[str, float]) -> list[str]:
    """Return the first metrics as text; all of them are in the written files."""
    shown = [f"{name} {_number(value)}" for name, value in metrics.items()]
    return [*shown[:MOST_METRICS], *(["..."] if len(shown) > MOST_METRICS else [])]


def common_folder(found: Comparison) -> str:
    """Return the directory that holds all runs, which the table names once; empty for a single run or if there is none."""
    names = [os.path.dirname(run.name) for run in found.runs]
    absolute = {os.path.isabs(name) for name in names}
    return os.path.commonpath(names) if len(names) > 1 and len(absolute) == 1 else ""


def short_keys(keys: list[str]) -> dict[str, str]:
    """Return a short name for each key: its last word, or as many of its last words as tell it from the others."""
    found = {}
    for key in keys:
        words = key.split(".")
        lengths = range(1, len(words) + 1)
        ends = (".".join(words[-length:]) for length in lengths)
        found[key] = next((end for end in ends if sum(other == end or other.endswith(f".{end}") for other in keys) == 1), key)
    return found


def _brief(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else _text(value)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


@text_as_written()
def draw(found: Comparison) -> bytes:
    """Draw the curves of the runs over each other, one panel per metric, and return the PNG file."""
    from matplotlib.figure import Figure

    metrics = [key for key in found.metrics() if any(len(run.curves.get(key, ())) for run in found.runs)]
    columns = min(3, max(1, len(metrics)))
    figure = Figure(figsize=(4.4 * columns, 3.1 * max(1, -(-len(metrics) // columns)) + 0.6), layout="constrained")
    labels = [_label(found, run) for run in found.runs]
    for place, (kind, name) in enumerate(metrics, 1):
        axes = figure.add_subplot(-(-len(metrics) // columns), columns, place)
        for number, (run, label) in enumerate(zip(found.runs, labels, strict=True)):
            points = run.curves.get((kind, name), [])
            if points:
                axes.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else "", color=f"C{number % 10}", label=label)
        axes.set_title(f"{kind} {name}", fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    if metrics:
        handles = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
        named = [label for label in dict.fromkeys(labels) if label in handles][:MOST_NAMED]
        figure.legend([handles[label] for label in named], named, loc="outside lower center", fontsize=8, ncols=2)
    packed = io.BytesIO()
    figure.savefig(packed, dpi=110, format="png")
    return packed.getvalue()


def _label(found: Comparison, run: RunRecord) -> str:
    short = short_keys(found.differing)
    settings = ", ".join(f"{short[key]}={_brief(value)}" for key, value in list(found.settings_of(run).items())[:2])
    name = os.path.relpath(run.name, common_folder(found) or ".")
    return f"{name}: {settings}"[:60] if settings else name[-60:]


def _write_html(file: TextIO, found: Comparison) -> None:
    """Write a self-contained page: the best run, the curves, and the whole table with filters by the kind of its columns."""
    lines = [f"{len(found.runs)} runs; settings that are equal in all of them are left out"]
    table, groups = rows(found), _column_kinds(found)
    filters = [(kind, kind) for kind in dict.fromkeys(groups) if kind]
    parts = [picture_of(draw(found), "curves of the runs"), table_of(table, groups)]
    write_page(file, "Comparison of runs", lines, parts, summary=_summary(found), filters=filters)


def _column_kinds(found: Comparison) -> list[str]:
    """Return what each column of ``rows`` is: settings, training, evaluation (during training) or results (of ``zoo evaluate``)."""
    titles, curves = rows(found)[0], {f"{kind}/{name}": kind for kind, name in found.metrics()}
    kinds = ["", "", "", *["settings"] * len(found.differing)]
    for title in titles[len(kinds) :]:
        own = {"train": "training"}.get(curves.get(title, ""), curves.get(title))
        kinds.append(own or ("evaluation" if title.startswith(("best ", "step of best ")) else "results"))
    return kinds


def _summary(found: Comparison) -> list[tuple[str, str]]:
    """Return the main figures: runs, finished runs, and the best value of the watched metric with its run."""
    best = [(run.best(), run) for run in found.runs]
    known = [(score[0], run) for score, run in best if score is not None]
    told = [("runs", str(len(found.runs))), ("finished", str(sum(0 < run.max_steps <= run.step for run in found.runs)))]
    if known:
        score, run = max(known, key=lambda pair: pair[0])
        told.append((f"best {run.watched}", f"{score:.4g} ({os.path.relpath(run.name, common_folder(found) or '.')})"))
    return told
