"""Size, training data and loss of finished runs, to which scaling laws are fitted."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.assembly.build import build_system
from zoo.assembly.summary import count
from zoo.data.readers.table import SUFFIXES, read_table
from zoo.errors import ConfigError, DataError
from zoo.evaluation.measures.scaling_laws import Points
from zoo.layers.meta import meta_device
from zoo.runs.data_setup import complete_config
from zoo.runs.run_directory import read_run_config
from zoo.training.log import read_lines

METRICS = "metrics.jsonl"
COLUMNS = ("parameters", "tokens", "loss")
LOSSES = ("auto", "evaluation", "training")
LAST_SHARE = 0.1  # of the logged steps, over which the training loss of a run without perplexity is averaged
TABLES = ("embedding.weight", "positions")  # ends of the names of parameters that Kaplan's law does not count


@dataclass(frozen=True)
class RunPoint:
    """One finished run.

    Attributes:
        name: of its directory, or of the row of a table.
        parameters: number of all parameters.
        without_tables: number of parameters without the tables of words and positions.
        tokens: number of tokens that it was trained on, or of items if its head does not count tokens.
        loss: in nats per token.
        unit: "tokens" or "items".
    """

    name: str
    parameters: int
    without_tables: int
    tokens: float
    loss: float
    unit: str = "tokens"


def read_points(sources: Sequence[str], *, loss: str = "auto") -> list[RunPoint]:
    """Read runs and tables of runs.

    Args:
        sources: directories of runs, and tables.
        loss: "evaluation" is the logarithm of a run's last perplexity, "training" the mean of its last training losses, "auto" the first if
            there is one. Training losses serve if no item was seen twice.

    Raises:
        ConfigError: a source is neither a run nor a table, or runs count different things.
        DataError: a run has no logged steps, or a row of a table is faulty.
    """
    found: list[RunPoint] = []
    for source in sources:
        path = Path(source)
        found += _read_rows(path) if path.suffix.lower() in SUFFIXES and path.is_file() else [_read_run(path, loss)]
    units = {point.unit: point.name for point in found}
    if len(units) > 1:
        raise ConfigError(f"runs: {units['tokens']} counts tokens, but {units['items']} items; give runs of one kind")
    return found


def as_points(runs: Sequence[RunPoint], *, without_tables: bool) -> Points:
    """Return the arrays to which a law is fitted.

    Args:
        without_tables: count sizes without the tables of words and positions (Kaplan).
    """
    sizes = [run.without_tables if without_tables else run.parameters for run in runs]
    tokens, losses = [run.tokens for run in runs], [run.loss for run in runs]
    return Points(np.array(sizes, dtype=float), np.array(tokens, dtype=float), np.array(losses, dtype=float))


def _read_rows(path: Path) -> list[RunPoint]:
    found = []
    for row in read_table(path, COLUMNS):
        if row.fault is not None:
            raise DataError(f"{path}, row {row.number}: {row.fault}")
        numbers = {}
        for key in (*COLUMNS, "without_tables"):
            value = row.values.get(key, row.values.get("parameters"))
            try:
                numbers[key] = float(value)  # type: ignore[arg-type]
            except (TypeError, ValueError):
                raise DataError(f"{path}, row {row.number}: {key}: got {str(value)[:40]!r}; allowed is a number above 0") from None
        sizes = int(numbers["parameters"]), int(numbers["without_tables"])
        found.append(RunPoint(f"{path.name}:{row.number}", *sizes, numbers["tokens"], numbers["loss"]))
    return found


def _read_run(path: Path, loss: str) -> RunPoint:
    config = read_run_config(path)
    metrics = path / METRICS
    lines = read_lines(metrics) if metrics.is_file() else []
    steps = [line for line in lines if line.get("kind") == "train"]
    if not steps:
        raise DataError(f"{path}: {METRICS} holds no training step; give the directory of a finished zoo train")
    sizes = _sizes(config)
    last, training = steps[-1]["step"], config["training"]
    batches = last * training.get("accumulate", 1)
    per_batch = [line["predicted_tokens"] for line in steps if "predicted_tokens" in line]
    # The log holds some steps only; their mean stands for the others.
    tokens = batches * (sum(per_batch) / len(per_batch) if per_batch else training["batch_size"])
    return RunPoint(path.name, *sizes, tokens, _loss(path, lines, steps, loss), "tokens" if per_batch else "items")


def _sizes(config: Mapping[str, Any]) -> tuple[int, int]:
    with meta_device():
        system = build_system(complete_config(config)["system"])
    tables = sum(p.numel() for name, p in system.named_parameters() if name.endswith(TABLES))
    return count(system), count(system) - tables


def _loss(path: Path, lines: Sequence[Mapping[str, Any]], steps: Sequence[Mapping[str, Any]], loss: str) -> float:
    """Return the logarithm of the last perplexity on held-out data, or the mean training loss of the last steps. See ``read_points``."""
    evaluated = [line["perplexity"] for line in lines if line.get("kind") == "evaluation" and "perplexity" in line]
    if evaluated and loss != "training":
        return math.log(evaluated[-1])
    if loss == "evaluation":
        raise DataError(f"{path}: {METRICS} holds no perplexity; set evaluation=perplexity and training.evaluate_every in its training")
    losses = [line["loss"] for line in steps if "loss" in line]
    some = losses[-max(1, round(LAST_SHARE * len(losses))) :]
    if not some:
        raise DataError(f"{path}: {METRICS} holds no loss; give the directory of a finished zoo train")
    return sum(some) / len(some)
