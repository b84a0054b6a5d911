"""``zoo interpolate``: the weighted mean of models, with the curve of their metrics over the share of the fine-tuned one."""

import copy
import io
import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from zoo.assembly.interpolation import checked_shares, load_models, mix, state_of, with_state
from zoo.assembly.save_load import save
from zoo.commands.display import counting_progress, print_json, table
from zoo.commands.model_options import placement
from zoo.commands.plain import say
from zoo.errors import ConfigError, name_choices
from zoo.layers.low_precision.modes import precision_of, set_precision
from zoo.runs.interpolation import Measurement, Point, greedy_soup, measure
from zoo.storage.files import write_text_atomically, write_whole
from zoo.training.settings import MONITOR_MODES

FACTS, PICTURE = "interpolation.json", "interpolation.png"
FEWEST_POINTS = 2  # of a curve: both ends
LEGEND_WIDTH = 80  # characters of a line


def interpolate_command(options: Namespace) -> int:
    """Run the command.

    Raises:
        ConfigError: an option is out of range, or an evaluation cannot be built.
        WeightsError: the models differ in architecture or preprocessing.
    """
    shares, output, place = _checked(options), Path(options.output), placement(options)
    models = load_models(options.models)
    states, model = [state_of(each) for each in models], models[0]
    used = _placed(model, **place) if options.evaluate else model  # only evaluations run a model; means are taken and saved in float32
    measurements = [Measurement(words, used) for words in options.evaluate]
    tried: list[Point] = []
    grid = _grid(options.curve)
    num_means = (2 * len(models) - 1 if options.greedy else 0) + len(grid) + 1
    with counting_progress("measure means", num_means, as_json=options.json) as advance:

        def measured(shares: Sequence[float], by: Sequence[Measurement]) -> Point:
            point = measure(used, states, shares, by)
            advance(1)
            return point

        def score(shares: Sequence[float]) -> float:
            tried.append(measured(shares, measurements[:1]))
            return MONITOR_MODES[options.monitor_mode] * tried[-1].metrics[0][str(measurements[0].metric)]

        if options.greedy:
            shares = greedy_soup(score, len(models))
        curve = [measured([1 - share, share], measurements) for share in grid]
        chosen = measured(shares, measurements)
    save(with_state(model, mix(states, shares)), output)
    facts = {
        "models": options.models,
        "weights": shares,
        "metrics": chosen.metrics,
        "precision": precision_of(used),
        "measurements": [each.describe() for each in measurements],
        "curve": [vars(point) for point in curve],
        "greedy": [vars(point) for point in tried],
    }
    write_text_atomically(output / FACTS, json.dumps(facts, indent=2) + "\n")
    if curve:
        write_whole(output / PICTURE, _draw(curve, measurements))
    if options.json:
        print_json({**facts, "output": options.output, "picture": str(output / PICTURE) if curve else None})
        return 0
    _show(options.models, measurements, [*tried, *curve, chosen])
    say(f"model: {output} (weights {_words(shares)})")
    if curve:
        say(f"picture: {output / PICTURE}")
    return 0


def _placed(model: Any, *, device: Any, precision: Any) -> Any:
    """Return a copy of a model on the device and in the precision of its evaluations; the model itself if it has both."""
    if device.type == "cpu" and precision == precision_of(model):
        return model
    return set_precision(copy.deepcopy(model).to(device), precision)


def _checked(options: Namespace) -> list[float]:
    """Refuse options that do not fit together, and return the share of each model."""
    if options.monitor_mode not in MONITOR_MODES:
        raise ConfigError(f"--monitor-mode: there is no {options.monitor_mode!r}; {name_choices(options.monitor_mode, MONITOR_MODES)}")
    if (options.greedy or options.curve is not None) and not options.evaluate:
        needs = "--greedy" if options.greedy else "--curve"
        raise ConfigError(f"{needs}: needs an evaluation: add for example --evaluate data=digits evaluation=zero_shot")
    if options.curve is not None and (len(options.models) != 2 or options.curve < FEWEST_POINTS):
        got = f"got {options.curve} points and {len(options.models)} models"
        raise ConfigError(f"--curve: {got}; allowed are {FEWEST_POINTS} points or more and two models")
    output = Path(options.output)
    if output.exists() and not (output / FACTS).is_file():
        raise ConfigError(f"--output: {output} exists and holds no model of zoo interpolate; choose another directory")
    try:
        weights = None if options.weights is None else [float(word) for word in options.weights.split(",")]
    except ValueError as error:
        raise ConfigError(
            f"--weights: got {options.weights!r}; allowed are numbers with commas between them, for example 0.5,0.5"
        ) from error
    return checked_shares(weights, len(options.models))


def _grid(count: int | None) -> list[float]:
    return [] if count is None else [number / (count - 1) for number in range(count)]


def _words(shares: Sequence[float]) -> str:
    return ", ".join(f"{share:.4g}" for share in shares)


def _show(models: Sequence[str], measurements: Sequence[Measurement], points: Sequence[Point]) -> None:
    """Print a row for each mean, with the deciding metric of each measurement; the last row is the saved model."""
    if not measurements:
        return
    columns = [f"{each.metric}: {each.label}" for each in measurements]
    rows = [[_words(point.shares), *_deciding(point, measurements)] for point in points]
    table(f"weights of {', '.join(models)}; the last row is saved", ["weights", *columns], rows)


def _deciding(point: Point, measurements: Sequence[Measurement]) -> list[str]:
    pairs = zip(point.metrics, measurements, strict=False)  # greedy soups read the first measurement alone
    found = [f"{metrics[str(each.metric)]:.4f}" for metrics, each in pairs]
    return [*found, *[""] * (len(measurements) - len(found))]


def _draw(curve: Sequence[Point], measurements: Sequence[Measurement]) -> bytes:
    """Draw the deciding metric of each measurement over the share of the second model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axes: Any = figure.subplots()
    shares = [point.shares[1] for point in curve]
    for number, each in enumerate(measurements):
        values = [point.metrics[number][str(each.metric)] for point in curve]
        axes.plot(shares, values, "o-", markersize=4, label=fill(f"{each.metric}: {each.label}", LEGEND_WIDTH))
    axes.set(xlabel="weight of the second model", ylabel="metric", xlim=(0, 1))
    figure.legend(fontsize=7, loc="outside upper center")
    file = io.BytesIO()
    figure.savefig(file, dpi=130, format="png")
    return file.getvalue()
