"""``zoo fit-scaling``: fit scaling laws to finished runs, show their numbers and the best size for a budget, and draw them."""

import io
import math
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo.commands.display import counting_progress, print_json, readable, table
from zoo.commands.plain import say
from zoo.errors import ConfigError, name_choices
from zoo.evaluation.measures.scaling_laws import LAWS, Fit, Kaplan, Law, fit_law, num_fits
from zoo.runs.scaling_points import LOSSES, RunPoint, as_points, read_points
from zoo.storage.files import create_folder_of, write_whole

SUFFIXES = (".png", ".pdf", ".svg")
BOTH = "both"


def fit_scaling_command(options: Namespace) -> int:
    """Run the command.

    Raises:
        ConfigError: an option is out of range, or a source is no run.
        DataError: the runs cannot tell a law.
    """
    _refuse(options)
    runs = read_points(options.runs, loss=options.loss)
    kinds = list(LAWS) if options.law == BOTH else [options.law]
    with counting_progress("fit", len(kinds) * num_fits(options.bootstrap), as_json=options.json) as advance:
        fits = {kind: _fit(LAWS[kind], runs, options, advance) for kind in kinds}
    found = [_figures(kind, fit, options.budget) for kind, fit in fits.items()]
    if options.output:
        _draw(runs, fits, options.budget, Path(options.output))
    if options.json:
        for each in found:
            print_json({**each, "runs": len(runs), "unit": runs[0].unit, "picture": options.output})
        return 0
    _show_runs(runs)
    for each in found:
        _show_law(each, runs[0].unit)
    if options.output:
        say(f"picture: {options.output}")
    return 0


def _refuse(options: Namespace) -> None:
    if options.law not in (*LAWS, BOTH):
        raise ConfigError(f"--law: there is no {options.law!r}; {name_choices(options.law, (*LAWS, BOTH))}")
    if options.loss not in LOSSES:
        raise ConfigError(f"--loss: there is no {options.loss!r}; {name_choices(options.loss, LOSSES)}")
    if options.budget is not None and not 0 < options.budget < math.inf:
        raise ConfigError(f"--budget: got {options.budget}; allowed is a number of operations above 0, for example 1e18")
    if options.bootstrap < 0:
        raise ConfigError(f"--bootstrap: got {options.bootstrap}; allowed is 0 or more")
    if options.output and Path(options.output).suffix not in SUFFIXES:
        raise ConfigError(f"--output: {options.output} ends in none of {' '.join(SUFFIXES)}")
    if options.output:
        create_folder_of(Path(options.output))


def _fit(law: type[Law], runs: Sequence[RunPoint], options: Namespace, advance: Callable[[int], None]) -> Fit:
    points = as_points(runs, without_tables=law is Kaplan)
    return fit_law(law, points, bootstrap=options.bootstrap, seed=options.seed, advance=advance)


def _figures(kind: str, fit: Fit, budget: float | None) -> dict[str, Any]:
    """Return the numbers of a law, their intervals and the optimum, as they are printed."""
    numbers = fit.law.numbers
    intervals = {name: fit.interval(lambda law, name=name: law.numbers[name]) for name in numbers}
    found = {"law": kind, "numbers": numbers, "intervals": intervals, "residual": fit.residual}
    if budget is None:
        return found
    size, tokens = fit.law.optimum(budget)
    values = {
        "parameters": (size, fit.interval(lambda law: law.optimum(budget)[0])),
        "tokens": (tokens, fit.interval(lambda law: law.optimum(budget)[1])),
        "loss": (fit.law.loss(size, tokens), fit.interval(lambda law: law.loss(*law.optimum(budget)))),
    }
    return found | {"budget": budget, "best": {name: {"value": value, "interval": near} for name, (value, near) in values.items()}}


def _show_runs(runs: Sequence[RunPoint]) -> None:
    rows = [[run.name, readable(float(run.parameters)), readable(run.tokens), f"{run.loss:.4f}"] for run in runs]
    table(f"{len(runs)} runs", ["run", "parameters", runs[0].unit, "loss"], rows)


def _show_law(found: dict[str, Any], unit: str) -> None:
    rows = [[name, f"{value:.5g}", _between(found["intervals"][name])] for name, value in found["numbers"].items()]
    rows.append(["relative error", f"{100 * found['residual']:.3g} %", ""])
    table(found["law"], ["number", "value", "95 % interval"], rows)
    if "best" in found:
        names = {"parameters": "parameters", "tokens": unit, "loss": "loss"}
        rows = [[names[name], f"{each['value']:.4g}", _between(each["interval"])] for name, each in found["best"].items()]
        table(f"best for {found['budget']:.3g} operations", ["", "value", "95 % interval"], rows)


def _between(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.4g} to {interval[1]:.4g}"


def _draw(runs: Sequence[RunPoint], fits: dict[str, Fit], budget: float | None, output: Path) -> None:
    """Draw loss over data with one curve for each size, and loss over size for the budget."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * (1 + (budget is not None)), 4.2), layout="constrained")
    axes = figure.subplots(1, 1 + (budget is not None), squeeze=False)[0]
    sizes = sorted({run.parameters for run in runs})
    tokens = np.geomspace(min(run.tokens for run in runs) / 2, max(run.tokens for run in runs) * 4, 60)
    for place, size in enumerate(sizes):
        color = colormaps["viridis"](place / max(len(sizes) - 1, 1))
        of_size = [run for run in runs if run.parameters == size]
        axes[0].plot([run.tokens for run in of_size], [run.loss for run in of_size], "o", color=color, label=readable(float(size)))
        for kind, fit in fits.items():
            counted = float(of_size[0].without_tables if isinstance(fit.law, Kaplan) else size)
            style = "--" if kind == Kaplan.name and len(fits) > 1 else "-"
            axes[0].plot(tokens, [fit.law.loss(counted, each) for each in tokens], style, color=color, linewidth=1)
    axes[0].set(xscale="log", xlabel=runs[0].unit, ylabel="loss (nats per token)")
    axes[0].legend(title="parameters", fontsize=8)
    if budget is not None:
        for fit in fits.values():
            _draw_budget(axes[1], fit.law, budget)
    file = io.BytesIO()
    figure.savefig(file, dpi=130, format=output.suffix[1:])
    write_whole(output, file.getvalue())


def _draw_budget(axes: Any, law: Law, budget: float) -> None:
    size, tokens = law.optimum(budget)
    around = np.geomspace(size / 30, size * 30, 60)
    axes.plot(around, [law.loss(each, size * tokens / each) for each in around], label=law.name)
    axes.plot([size], [law.loss(size, tokens)], "o", color="black")
    axes.set(xscale="log", xlabel="parameters", title=f"{budget:.3g} operations")
    axes.legend(fontsize=8)
