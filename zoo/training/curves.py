"""Training curves: a figure of loss and metrics over steps."""

import io
from pathlib import Path
from typing import Any

from zoo.storage.files import write_whole
from zoo.training.log import read_lines


def draw_curves(metrics: Path, output: Path) -> None:
    """Draw every logged value over steps, one panel per value, training first and evaluation after it.

    Does nothing if nothing was logged yet.

    Args:
        metrics: ``metrics.jsonl`` of a run.
        output: file of the figure, for example ``curves.png``.
    """
    from matplotlib.figure import Figure

    panels = _series(read_lines(metrics)) if metrics.exists() else {}
    if not panels:
        return
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.9 * rows), layout="constrained")
    for place, ((kind, name), points) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(rows, columns, place)
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else "", color="tab:blue" if kind == "train" else "tab:orange")
        axes.set_title(f"{kind} {name}", fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, dpi=110, format=output.suffix[1:] or "png")
    write_whole(output, file.getvalue())


def _series(lines: list[dict[str, Any]]) -> dict[tuple[str, str], list[tuple[int, float]]]:
    panels: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name not in ("step", "kind") and isinstance(value, int | float):
                panels.setdefault((line["kind"], name), []).append((line["step"], value))
    return dict(sorted(panels.items(), key=lambda item: item[0][0] != "train"))
