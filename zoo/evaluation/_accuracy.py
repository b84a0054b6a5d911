"""What every evaluation by classes shares: the result, its figures and its picture, and what a model must bring."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.data.loader import ProcessedSplit, evaluation_loader
from zoo.errors import ConfigError, DataError
from zoo.types import Batch

TOP = (1, 5)


@dataclass
class AccuracyResult:
    """Figures and what they were computed from.

    Attributes:
        metrics: shares from 0 to 1: ``top1``, ``top5`` and ``mean_per_class``.
        confusion: row: true class, column: predicted class.
        details: what else a reader of the figures wants to know, by name.
    """

    metrics: dict[str, float]
    confusion: Int[Tensor, "classes classes"]
    class_names: list[str]
    num_items: int
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What was evaluated on, in a few words."""
        return f"{self.num_items} items, {len(self.class_names)} classes"

    @property
    def facts(self) -> dict[str, Any]:
        """What ``metrics.json`` holds beside figures and details."""
        return {"class_names": self.class_names, "confusion": self.confusion.tolist()}

    def draw(self, folder: Path) -> str:
        """Draw the confusion matrix; returns the picture's name."""
        draw_confusion(self, folder / "confusion.png")
        return "confusion.png"


def measure(
    scores: Float[Tensor, "n classes"], labels: Int[Tensor, " n"], class_names: Sequence[str], details: Mapping[str, Any] | None = None
) -> AccuracyResult:
    """Accuracies of scores: higher is likelier, minus infinity is no guess at all.

    With scores ``[.1 .7 .2]`` and label 2, one score is higher: top-1 misses, top-2 hits. Of equal scores the first class
    counts as the higher. A class that no item has takes no part in the mean over classes.

    Raises:
        DataError: a score is not a number.
    """
    if scores.isnan().any():
        raise DataError("evaluation: the model's scores are not numbers (NaN); look at its weights")
    classes = len(class_names)
    own = scores.gather(1, labels[:, None])  # [n, 1]
    before = torch.arange(classes) < labels[:, None]  # [n, classes]
    rank = ((scores > own) | ((scores == own) & before)).sum(1)
    hits = {k: (rank < k) & (own[:, 0] > -torch.inf) for k in TOP}
    guesses = scores.argmax(1)
    confusion = torch.bincount(labels * classes + guesses, minlength=classes**2).view(classes, classes)
    present = labels.unique()
    recall = confusion.diagonal()[present] / confusion.sum(1)[present]
    metrics = {f"top{k}": float(hit.float().mean()) for k, hit in hits.items()} | {"mean_per_class": float(recall.mean())}
    return AccuracyResult(metrics, confusion, list(class_names), len(labels), dict(details or {}))


def over_split(
    data: ProcessedSplit, answer: Callable[[Batch], Tensor], *, batch_size: int, limit: int | None, advance: Callable[[int], None]
) -> tuple[Float[Tensor, "n columns"], Int[Tensor, " n"]]:
    """What ``answer`` gives for each item of a split (or ``limit`` items spread evenly over it), on the CPU, and the labels.

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
    """The class numbers of a batch.

    Raises:
        DataError: an item has none.
    """
    if "labels" not in batch.targets:
        shown = ", ".join(batch.ids[:3])
        raise DataError(f"evaluation: not every item of the batch {shown}, ... has a label; label all, or leave those without out")
    return batch.targets["labels"]


def refuse_source(source: Any) -> None:
    """Raise DataError for a source without classes."""
    if not source.class_names:
        raise DataError(
            "evaluation: the source has no classes to tell apart; give it labels, choose another evaluation, or train without "
            "(training.evaluate_every=0)"
        )


def refuse_model(model: Any, verbs: Sequence[str], name: str) -> None:
    """Raise ConfigError for a model whose head lacks a verb that the evaluation asks for."""
    known = getattr(getattr(model, "head", None), "verbs", ())
    missing = [verb for verb in verbs if verb not in known]
    if missing:
        what = f"{type(model.head).__name__} has {', '.join(known)}" if known else f"{type(model).__name__} has no head"
        own = getattr(getattr(model, "head", None), "evaluation", None)
        choose = f"choose evaluation={own}, knn_probe or linear_probe" if own else "choose evaluation=knn_probe or linear_probe"
        raise ConfigError(f"evaluation: {name!r} needs a head with the verbs {', '.join(verbs)}; {what}: {choose}")


def checked_limits(limits: Mapping[str, int | None]) -> None:
    """Raise ConfigError for numbers of items that are not positive."""
    for key, value in limits.items():
        if value is not None and value < 1:
            raise ConfigError(f"{key}: {value}; allowed is 1 or more")


def draw_confusion(result: AccuracyResult, output: Any) -> None:
    """Draw the confusion matrix, rows normalised; numbers stand in the cells where there are at most 20 classes."""
    from matplotlib.figure import Figure

    matrix = result.confusion.numpy()
    rows = matrix.sum(1, keepdims=True)
    shares = matrix / rows.clip(min=1)
    classes = len(result.class_names)
    side = min(14.0, 2.5 + 0.45 * classes) if classes <= 20 else 9.0
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true", title=f"top-1 {100 * result.metrics['top1']:.1f} % of {result.num_items}")
    if classes <= 20:
        axes.set_xticks(range(classes), result.class_names, rotation=90)
        axes.set_yticks(range(classes), result.class_names)
        for row, column in zip(*matrix.nonzero(), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=8, color=colour)
    figure.savefig(output, dpi=110)
