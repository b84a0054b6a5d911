"""Training curves: a figure of loss, learning rate, throughput and metrics over steps."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from zoo.storage.files import write_whole
from zoo.training.log import read_lines

Points = list[tuple[int, float | int]]
Panels = dict[tuple[str, str], Points]
SPEEDS = ("tokens_per_second", "items_per_second")  # the first that a run has is drawn
FIRST = ("loss", "learning_rate")  # the order of the panels of training; the others follow as they were logged
COLOURS = {"train": "tab:blue", "speed": "tab:green", "evaluation": "tab:orange"}
SMOOTHED = ("loss", "gradient_norm")
WINDOW_SHARE = 0.04  # share of a run over which the moving average of its loss looks back
# In inches: a panel, and its margins for tick labels and title. Measured labels (layout="constrained") would take as long as the drawing.
WIDTH, HEIGHT = 4.2, 2.9
LEFT, RIGHT, BOTTOM, TOP = 0.75, 0.15, 0.55, 0.35


def draw_curves(metrics: Path, output: Path, timing: Path | None = None) -> None:
    """Draw every logged value over steps, one panel per value: training first, then throughput, then evaluation.

    Loss and gradient norm are shown with a moving average, because single batches differ.

    Does nothing if nothing was logged yet.

    Args:
        metrics: ``metrics.jsonl`` of a run.
        output: file of the figure, for example ``curves.png``.
        timing: ``timing.jsonl`` of the run; None draws no throughput.
    """
    from matplotlib.figure import Figure

    panels = _panels(metrics, timing)
    if not panels:
        return
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    width, height = WIDTH * columns, HEIGHT * rows
    figure = Figure(figsize=(width, height))
    for place, ((kind, name), points) in enumerate(panels.items()):
        left, bottom = WIDTH * (place % columns) + LEFT, height - HEIGHT * (place // columns + 1) + BOTTOM
        inside = (WIDTH - LEFT - RIGHT, HEIGHT - BOTTOM - TOP)
        axes = figure.add_axes((left / width, bottom / height, inside[0] / width, inside[1] / height))
        _draw(axes, kind, name, points)
    file = io.BytesIO()
    figure.savefig(file, dpi=110, format=output.suffix[1:] or "png")
    write_whole(output, file.getvalue())


def _draw(axes: Any, kind: str, name: str, points: Points) -> None:
    steps, values = zip(*points, strict=True)
    marker, colour = "." if len(points) < 40 else "", COLOURS.get(kind, "tab:blue")
    average = smoothed(values, len(values) * WINDOW_SHARE) if name in SMOOTHED and kind == "train" else None
    if average is None:
        axes.plot(steps, values, marker=marker, color=colour)
    else:
        axes.plot(steps, values, marker=marker, color=colour, alpha=0.3, linewidth=0.8, label="each step")
        axes.plot(steps, average, color=colour, linewidth=1.6, label="moving average")
        axes.legend(fontsize=7)
    axes.set_title(f"{kind} {name.replace('_', ' ')}", fontsize=10)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)


def smoothed(values: Iterable[float], window: float) -> list[float]:
    """Return the exponential moving average of values, corrected for its start.

    Args:
        window: number of values after which the weight of an old one has fallen to 1/e; up to 1 smooths nothing.
    """
    keep = max(0.0, 1 - 1 / max(window, 1.0))
    total, weight, found = 0.0, 0.0, []
    for value in values:
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        found.append(total / weight)
    return found


def _panels(metrics: Path, timing: Path | None) -> Panels:
    """Return the points of each panel in the order in which they are drawn."""
    logged = _series(read_lines(metrics)) if metrics.exists() else {}
    speeds = _series({**line, "kind": "speed"} for line in read_lines(timing)) if timing is not None and timing.exists() else {}
    speed = next((("speed", name) for name in SPEEDS if ("speed", name) in speeds), None)
    train = {key: points for key, points in logged.items() if key[0] == "train"}
    order = [("train", name) for name in FIRST if ("train", name) in train]
    panels: Panels = {key: train[key] for key in [*order, *(key for key in train if key not in order)]}
    panels |= {} if speed is None else {speed: speeds[speed]}
    return panels | {key: points for key, points in logged.items() if key not in panels}


def _series(lines: Iterable[Mapping[str, Any]]) -> Panels:
    panels: Panels = {}
    for line in lines:
        for name, value in line.items():
            if name not in ("step", "kind") and isinstance(value, int | float):
                panels.setdefault((line["kind"], name), []).append((line["step"], value))
    return panels
