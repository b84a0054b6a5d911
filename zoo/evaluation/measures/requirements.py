"""Requirements of evaluations on models and sources, and reading a split in batches."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.data.loader import ProcessedSplit, evaluation_loader
from zoo.errors import ConfigError, DataError
from zoo.types import Batch, head_of, verbs_of


def over_split(
    data: ProcessedSplit, answer: Callable[[Batch], Tensor], *, batch_size: int, limit: int | None, advance: Callable[[int], None]
) -> tuple[Float[Tensor, "n columns"], Int[Tensor, " n"]]:
    """Run ``answer`` on each item of a split, or on ``limit`` items spread evenly over it; return the rows and the labels, on the CPU.

    Raises:
        DataError: the split is empty, or an item has no label or cannot be used.
    """
    rows, labels = [], []
    for batch in evaluation_loader(data, batch_size=batch_size, limit=limit):
        labels.append(labels_of(batch))
        rows.append(answer(batch).cpu())
        advance(len(batch))
    if not rows:
        raise DataError("evaluation: the split is empty; choose another with data.test_split=...")
    return torch.cat(rows), torch.cat(labels)


def labels_of(batch: Batch) -> Int[Tensor, " batch"]:
    """Return the class numbers of a batch.

    Raises:
        DataError: an item has no label.
    """
    if "labels" not in batch.targets:
        shown = ", ".join(batch.ids[:3])
        raise DataError(f"evaluation: not every item of the batch {shown}, ... has a label; label all items, or remove those without one")
    return batch.targets["labels"]


def refuse_source(source: Any) -> None:
    """Raise DataError for a source without classes."""
    if not source.class_names:
        raise DataError(
            "evaluation: the source has no classes (class_names is empty); give it labels, choose another evaluation, or train without "
            "evaluation (training.evaluate_every=0)"
        )


def refuse_model(model: Any, verbs: Sequence[str], name: str) -> None:
    """Raise ConfigError if the model's head lacks a verb (a method such as ``embed``) that the evaluation calls."""
    known = verbs_of(model)
    missing = [verb for verb in verbs if verb not in known]
    if missing:
        offered = f"{type(model.head).__name__} has {', '.join(known)}" if known else f"{type(model).__name__} has no head"
        default = None if (head := head_of(model)) is None else head.evaluation
        choose = f"choose evaluation={default}, knn_probe or linear_probe" if default else "choose evaluation=knn_probe or linear_probe"
        raise ConfigError(f"evaluation: {name!r} needs a head with the verbs {', '.join(verbs)}; {offered}: {choose}")


def checked_limits(limits: Mapping[str, int | None]) -> None:
    """Raise ConfigError if one of the numbers, by name of its option, is below 1; None means that there is no limit."""
    for key, value in limits.items():
        if value is not None and value < 1:
            raise ConfigError(f"{key}: {value}; allowed is 1 or more")
