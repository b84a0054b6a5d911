"""Requirements of evaluations on models and sources, and reading a split in batches."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.data.loader import ProcessedSplit, evaluation_loader, spread
from zoo.errors import ConfigError, DataError
from zoo.evaluation.measures.shares import of_all_ranks, own_part
from zoo.types import Batch, head_of, verbs_of

T = TypeVar("T")


def over_split(
    data: ProcessedSplit, answer: Callable[[Batch], Tensor], *, batch_size: int, limit: int | None, advance: Callable[[int], None]
) -> tuple[Float[Tensor, "n columns"], Int[Tensor, " n"]]:
    """Run ``answer`` on each item of a split, or on ``limit`` items spread evenly over it; return the rows and the labels, on the CPU.

    Raises:
        DataError: the split is empty, or an item has no label or cannot be used.
    """
    found = over_batches(
        data, lambda batch, before: (labels_of(batch), answer(batch).cpu()), batch_size=batch_size, limit=limit, advance=advance
    )
    if not found:
        raise DataError("evaluation: the split is empty; choose another with data.test_split=...")
    labels, rows = zip(*found, strict=True)
    return torch.cat(rows), torch.cat(labels)


def over_batches(
    data: ProcessedSplit, work: Callable[[Batch, int], T], *, batch_size: int, limit: int | None, advance: Callable[[int], None]
) -> list[T]:
    """Return the result of ``work`` for each batch of a split, in order; in ``shares.divided()`` each rank does a part of them.

    Args:
        work: function of a batch and of the number of items before it; its results are pickled, so tensors must be on the CPU.
        limit: maximum number of items, spread evenly over the split; None uses all.

    Raises:
        DataError: an item cannot be used.
    """
    part = own_part(len(spread(len(data), limit)), batch_size)

    def own() -> list[T]:
        found, before = [], part.start
        for batch in evaluation_loader(data, batch_size=batch_size, limit=limit, part=part):
            found.append(work(batch, before))
            before += len(batch)
            advance(len(batch))
        return found

    return of_all_ranks(own, skips=data.skips)


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
