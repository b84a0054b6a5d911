"""Evaluation of weighted means of models: the curve over the share of a fine-tuned model, and greedy model soups."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from zoo.assembly.compose import compose
from zoo.assembly.interpolation import mix, with_state
from zoo.errors import ConfigError
from zoo.registry import name_of, part_names
from zoo.runs.data_setup import make_source
from zoo.runs.evaluation_setup import make_evaluation

NOT_READ = ("checkpoint", "output", "device", "precision")  # keys of ``zoo evaluate`` that options of the command replace
Metrics = dict[str, float]
Score = Callable[[Sequence[float]], float]


class Measurement:
    """One evaluation on one data split, for models of one architecture.

    Args:
        words: overrides of the config of ``zoo evaluate``, for example ``["data=digits", "evaluation=zero_shot"]``.
        model: any of the models.

    Attributes:
        label: the overrides, by which results are named.
        metric: name of the metric that decides: the evaluation's ``monitor``, or the first one; None before the first call.

    Raises:
        ConfigError: no data or no evaluation, or the evaluation cannot use the model.
    """

    def __init__(self, words: Sequence[str], model: Any) -> None:
        self.label, self.metric = " ".join(words), None
        if unused := [word for word in words if word.split("=")[0].lstrip("+~") in NOT_READ]:
            raise ConfigError(f"--evaluate {unused[0]}: is not read here; give the options --device and --precision, MODEL and --output")
        config = compose("evaluate", ["checkpoint=given", *words])
        if not config.get("data"):
            raise ConfigError(f"--evaluate {self.label}: gives no data; add for example data=digits")
        self.evaluation = make_evaluation(config.get("evaluation"), model)
        if self.evaluation is None:
            known = ", ".join(part_names("evaluation"))
            raise ConfigError(f"--evaluate {self.label}: the models have no default evaluation; add evaluation=NAME, known: {known}")
        self.evaluation.connect(weights_change=True)
        self.source, self.split = make_source(config["data"]), config["data"]["test_split"]
        self.evaluation.check(model, self.source)

    def __call__(self, model: nn.Module) -> Metrics:
        """Return the metrics of a model, by name."""
        metrics = {name: float(value) for name, value in self.evaluation(model, self.source, self.split).metrics.items()}
        self.metric = self.evaluation.monitor or next(iter(metrics))
        return metrics

    def describe(self) -> dict[str, Any]:
        """Return the facts that name this measurement in a JSON file."""
        name = name_of("evaluation", type(self.evaluation))
        return {"evaluate": self.label, "evaluation": name, "split": self.split, "metric": self.metric}


@dataclass(frozen=True)
class Point:
    """Metrics of one mean: the share of each model, and the metrics of each measurement."""

    shares: list[float]
    metrics: list[Metrics]


def measure(model: nn.Module, states: Sequence[dict[str, Tensor]], shares: Sequence[float], measurements: Sequence[Measurement]) -> Point:
    """Measure the weighted mean of several states; ``model`` holds it afterwards."""
    with_state(model, mix(states, shares))
    return Point(list(shares), [measurement(model) for measurement in measurements])


def greedy_soup(score: Score, count: int) -> list[float]:
    """Return the shares of a greedy soup (Wortsman et al. 2022, algorithm 1): equal for the models that it keeps, 0 for the others.

    The models are tried from the best to the worst; one is kept if the mean with it scores at least as high as the mean without it.

    Example: single models score .8, .9 and .5; the mean of the first two .92, of all three .7. The shares are ``[.5, .5, 0]``.

    Args:
        score: of the mean with these shares; higher is better.
        count: number of models.
    """
    single = [score(_equal([number], count)) for number in range(count)]
    first, *others = sorted(range(count), key=lambda number: -single[number])  # of equal scores the first stays first
    kept, best = [first], single[first]
    for number in others:
        value = score(_equal([*kept, number], count))
        if value >= best:
            kept, best = [*kept, number], value
    return _equal(kept, count)


def _equal(kept: Sequence[int], count: int) -> list[float]:
    return [1 / len(kept) if number in kept else 0.0 for number in range(count)]
