"""Check of evaluations and their results."""

import math
import tempfile
from pathlib import Path
from typing import Any

from zoo.testing.rules.comparison import require
from zoo.testing.rules.parts import check_keywords
from zoo.types import Evaluation, Result

WORDS = ("metrics", "num_items", "details", "title")


def check_evaluation(evaluation: Any, model: Any, source: Any, split: str = "test", *, draw: bool = True) -> Any:
    """Check every rule of ``zoo.types.Evaluation`` and of its ``Result``, which is returned.

    Args:
        evaluation: any; with a small ``limit``.
        model: that it can evaluate.
        source: with the split.
        split: name of the split.
        draw: False leaves the figure out, which takes a second.

    Raises:
        ContractError: a rule is broken.
    """
    fits = isinstance(evaluation, Evaluation)
    require(fits, evaluation, "an evaluation is a subclass of zoo.types.Evaluation", "it is none", "Evaluation", "derive from it")
    check_keywords(type(evaluation))
    evaluation.check(model, source)
    done: list[int] = []
    result = evaluation(model, source, split, advance=done.append)
    require(
        isinstance(result, Result), evaluation, "a call gives a zoo.types.Result", f"it gives a {type(result).__name__}", "Result", "derive"
    )
    known = {name for base in type(result).__mro__ for name in vars(base)} | set(vars(result))
    missing = [word for word in WORDS if word not in known]
    require(
        not missing, evaluation, "a result must have metrics, num_items, details and title", f"it lacks {missing}", "all", "define them"
    )
    _check_metrics(evaluation, result)
    if draw:
        with tempfile.TemporaryDirectory() as folder:
            name = result.draw(Path(folder))
            drawn = not name or (Path(folder) / name).is_file()
            require(
                drawn, evaluation, "draw writes an image and gives its name", f"there is no {name!r}", "a file in the folder", "write it"
            )
    return result


def _check_metrics(evaluation: Evaluation, result: Any) -> None:
    metrics = dict(result.metrics)
    require(bool(metrics), evaluation, "a result has metrics", "there are none", "figures by name", "return some")
    for name, value in metrics.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
        require(number, evaluation, "metrics are numbers", f"{name} is {value!r}", "a float", "convert it, or leave it out")
        share = name in result.numbers or 0 <= value <= 1
        remedy = f"put {name!r} into numbers of the result if it is none"
        require(share, evaluation, "metrics are shares from 0 to 1", f"{name} is {value}", "0 to 1", remedy)
    monitor = evaluation.monitor
    fits = monitor is None or monitor in metrics
    require(fits, evaluation, "monitor is one of the metrics", f"there is no {monitor!r}", f"of {list(metrics)}", "correct monitor")
