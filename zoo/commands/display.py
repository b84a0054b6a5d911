"""Terminal output: tables and progress bars with rich, or JSON lines."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from zoo.commands.plain import KEEP, json_line, say
from zoo.evaluation.results.cards import read_card
from zoo.storage.outside import printable

BORDER = 3  # characters of a table's lines and spaces for each column
SHORTEST_CELL = 10  # characters


def table(title: str, columns: list[str], rows: list[list[str]], *, num_texts: int = 1, cut: bool = False) -> None:
    """Print a table of plain texts under its title, at most as wide as the terminal.

    Args:
        title: one line above the table; it is as long as the terminal is wide, however narrow the table is.
        num_texts: number of first columns that are left-aligned; the others are right-aligned.
        cut: long cells of the last column end in an ellipsis; otherwise they are folded.
    """
    console = Console()
    rows = _with_short_ends(columns, rows, console.width) if cut else rows
    made = Table(header_style="bold", show_header=any(columns))
    for i, column in enumerate(columns):
        made.add_column(_plain(column), justify="left" if i < num_texts else "right", overflow="fold")
    for row in rows:
        made.add_row(*map(_plain, row))
    console.print(_plain(title), style="italic")
    console.print(made)


def _with_short_ends(columns: list[str], rows: list[list[str]], width: int) -> list[list[str]]:
    """Return the rows with their last cells cut, so that no line is folded; rich would narrow the other columns."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    room = max(SHORTEST_CELL, width - sum(widths[:-1]) - BORDER * len(columns) - 1)
    return [[*row[:-1], row[-1] if len(row[-1]) <= room else row[-1][: room - 1] + "\u2026"] for row in rows]


def _plain(text: str) -> Text:
    """Return a text that rich shows as it is: square brackets are no markup, and control characters are escaped."""
    return Text(printable(str(text), KEEP))


def print_json(value: Any) -> None:
    """Print one JSON line."""
    print(json_line(value))


def readable(number: float, unit: str = "") -> str:
    """Format a number with an SI prefix: 1234567 -> 1.23 M."""
    for scale, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= scale:
            return f"{number / scale:.3g} {letter}{unit}"
    return f"{number:g} {unit}".strip()


def readable_share(share: float) -> str:
    """Format a fraction as a percentage: 0.1234 -> 12.3 %."""
    return f"{100 * share:.1f} %"


def show_info(name: str, summary: Any, *, as_json: bool, verbose: bool = False) -> None:
    """Print the parameters, memory, tokens and multiply-adds (GMAC) of a model, and the test results of its family's card.

    Args:
        verbose: show the whole figures, and the commands that verify them.
    """
    card = read_card(name)
    if as_json:
        print_json({"name": name, **vars(summary), "card": card})
        return
    rows = [[part, f"{count:,}"] for part, count in summary.parts.items()]
    rows += [["parameters", f"{summary.parameters:,}"], ["trainable", f"{summary.trainable:,}"]]
    rows += [["weight memory", readable(float(summary.memory_bytes), "B")]]
    rows += [[f"tokens, {m}", f"{n}"] for m, n in summary.tokens.items()]
    rows += [[f"GMAC, {part}", f"{flops / 2e9:.4g}"] for part, flops in summary.flops.items()]
    rows += [["precisions", ", ".join(summary.precisions)]]
    table(name, ["", ""], rows)
    if card is not None:
        (_show_whole_card if verbose else _show_card)(card)


def _show_card(card: Mapping[str, Any]) -> None:
    rows = [[word, line["status"], line.get("figure") or line.get("reason") or ""] for word, line in card["capabilities"].items()]
    title = f"Verification card of the family {card['name']} ({card['date'] or 'not written yet'}); all of it with --verbose"
    table(title, ["capability", "status", "figure or reason"], rows, num_texts=3, cut=True)


def _show_whole_card(card: Mapping[str, Any]) -> None:
    say(f"Verification card of the family {card['name']}")
    for word, line in card["capabilities"].items():
        say(f"\n{word}: {line['status']}")
        for text in (line.get("figure") or line.get("reason") or "").split("; "):
            say(f"    {text}")
        if line.get("command"):
            say(f"    {line['command']}\n    {line['date']}, commit {line['commit'][:12]}")


def show_check(report: Any, planned: Any = None, *, as_json: bool) -> None:
    """Print the data flow of a validated config, one row per tensor that a part passes to another, and the plan of its training.

    Args:
        planned: a ``zoo.runs.planning.plan.Plan``; None prints none.
    """
    if as_json:
        content = {"edges": [vars(edge) for edge in report.edges], "parameters": report.parameters, "trainable": report.trainable}
        print_json(content | ({} if planned is None else {"plan": {**vars(planned), "total_bytes": planned.total_bytes}}))
        return
    table("Valid config: data flow of a training step", ["from", "to", "carries"], [[e.source, e.target, e.carries] for e in report.edges])
    say(f"{report.parameters:,} parameters, {report.trainable:,} trainable; no weights were allocated")
    if planned is not None:
        _show_plan(planned)


def _show_plan(planned: Any) -> None:
    rows = [[f"memory, {name}", readable(float(count), "B")] for name, count in planned.memory.items() if count]
    rows += [["memory, sum", readable(float(planned.total_bytes), "B")]]
    rows += [["items per batch of a process", f"{planned.items:,}"]]
    rows += [[f"tokens per step, {name}", f"{count:,}"] for name, count in planned.tokens.items()]
    rows += [
        ["FLOPs per step", readable(float(planned.flops))],
        ["FLOPs per step and process", readable(planned.flops / planned.world_size)],
    ]
    rows += [[f"communication per step, {name}", readable(float(count), "B")] for name, count in planned.communication.items()]
    table(f"Each of {planned.world_size} processes, parallel={planned.parallel}", ["", ""], rows)


class TrainingProgress:
    """Progress of a training run: a bar with the loss, or about 20 printed lines if the output is not a terminal.

    Args:
        total: number of training steps.
        bar: the progress bar; None prints lines.
        as_json: print a JSON line per step instead.
    """

    def __init__(self, total: int, bar: Progress | None, as_json: bool) -> None:
        self.total, self.bar, self.as_json = total, bar, as_json
        self.task = bar.add_task("train", total=total, loss="") if bar is not None else None
        self.every = max(1, total // 20)
        self.before: dict[str, Any] = {}
        self.printed: dict[str, int] = {}  # by preparation: last printed twentieth

    def prepare(self, done: int, total: int, what: str = "frozen encoders") -> None:
        """Show the progress of preparation before the first step, for example encoding the data with frozen encoders."""
        if self.bar is not None:
            if what not in self.before:
                self.before[what] = self.bar.add_task(what, total=total, loss="")
            self.bar.update(self.before[what], completed=done)
        elif not self.as_json and done * 20 // total > self.printed.get(what, 0):
            self.printed[what] = done * 20 // total
            say(f"{what}: {done}/{total} items", flush=True)

    def say(self, facts: Mapping[str, Any]) -> None:
        """Show facts about the data: number of items, and how many were left out and why."""
        if self.as_json:
            print_json({"data": facts})
            return
        for name, figures in facts.items():
            line = f"data, {name}: {_readable_figures(figures)}"
            say(line, flush=True) if self.bar is None else self.bar.console.print(_plain(line))

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Show the metrics of a step."""
        if self.as_json:
            print_json({"step": step, **values})
        elif self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=step, loss=f"loss {values['loss']:.4f}")
        elif step % self.every == 0 or step == self.total:
            say(f"step {step}/{self.total}  loss {values['loss']:.4f}", flush=True)


def _readable_figures(figures: Mapping[str, Any]) -> str:
    """Format nested counts: ``{"documents": {"kept": 3, "too small": 1}, "packs": 2}`` -> ``documents (kept 3, too small 1), packs 2``."""
    return ", ".join(
        f"{name} ({_readable_figures(value)})" if isinstance(value, Mapping) else f"{name} {value:,}"
        for name, value in figures.items()
        if not isinstance(value, Mapping) or value
    )


@contextmanager
def training_progress(config: Mapping[str, Any], *, as_json: bool) -> Iterator[TrainingProgress]:
    """Show the progress of a training run, as a bar, lines or JSON lines."""
    total = config["training"]["max_steps"]
    if as_json or not sys.stdout.isatty():
        yield TrainingProgress(total, None, as_json)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as bar:
        yield TrainingProgress(total, bar, False)


class Count:
    """Progress callback: call it with the number of newly completed items.

    Args:
        bar: the progress bar; None shows nothing.
        task: of the bar.
    """

    def __init__(self, bar: Progress | None = None, task: TaskID | None = None) -> None:
        self.bar, self.task, self.total = bar, task, 0

    def __call__(self, items: int) -> None:
        if self.bar is not None and self.task is not None:
            self.bar.advance(self.task, items)

    def expect(self, items: int) -> None:
        """Add items to the total, from which the remaining time is estimated."""
        self.total += items
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, total=self.total)


@contextmanager
def counting_progress(label: str, total: int | None, *, as_json: bool) -> Iterator[Count]:
    """Show the number of completed items and the remaining time on standard error; yields the callback.

    Args:
        total: number of items; None if the callback's ``expect`` tells it later, or nothing does.
    """
    if as_json or not sys.stderr.isatty():
        yield Count()
        return
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total)
        yield Count(bar, task)


def show_trained(result: Any, *, as_json: bool) -> None:
    """Print the paths of a training run's results and its final metrics."""
    if as_json:
        skipped = {"skipped": result.skipped} if any(result.skipped.values()) else {}
        early = {"stopped_early": result.stopped_early} if result.stopped_early is not None else {}
        print_json({"run_dir": str(result.run_dir), "model": str(result.model), "metrics": result.metrics, **early, **skipped})
        return
    say(f"trained: {result.run_dir} (loss {result.metrics['loss']:.4f})" if result.metrics else f"already trained: {result.run_dir}")
    if result.stopped_early is not None:
        say(result.stopped_early)
    say(f"model:   {result.model}\ncurves:  {result.run_dir / 'curves.png'}")
    _show_skipped(result.skipped, result.run_dir / "skipped.json")


def _show_skipped(skipped: Mapping[str, Any], written: Path) -> None:
    """Print which data were skipped and why, if any."""
    if left_out := skipped["left_out"]:
        say(f"left out: {len(left_out)} entries of the data source, the first: {left_out[0]}")
    if reasons := skipped.get("skipped"):
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items(), key=lambda pair: -pair[1]))
        say(f"skipped: {sum(reasons.values())} of {skipped['items']} items ({counts}); examples in {written}")


def show_evaluation(result: Any, output: Path, *, as_json: bool) -> None:
    """Print the metrics of an evaluation; its name is read from ``metrics.json`` in the output folder."""
    name = json.loads((output / "metrics.json").read_text(encoding="utf-8"))["evaluation"]
    if as_json:
        print_json({"evaluation": name, **result.metrics, "items": result.num_items, **result.details, "output": str(output)})
        return
    for title, columns, cells in result.tables:
        table(title, columns, cells)
    numbers = result.numbers  # metrics that are not fractions, so they are not printed as percentages
    rows = [[metric, f"{value:.4g}" if metric in numbers else f"{100 * value:.2f} %"] for metric, value in result.metrics.items()]
    rows += [[name, f"{value:.4g}" if isinstance(value, float) else str(value)] for name, value in result.details.items()]
    table(f"{name}: {result.title}", ["metric", "value"], rows)
    say("written: " + ", ".join(str(path) for path in sorted(output.iterdir(), key=lambda path: path.suffix)))
