"""Shared parts of the classification evaluations: accuracies, their result, the confusion matrix, and checks of models and sources."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.errors import DataError
from zoo.evaluation.results.plots import text_as_written
from zoo.types import Result

TOP = (1, 5)  # values of k for which top-k accuracy is reported


@dataclass
class AccuracyResult(Result):
    """Accuracies and the confusion matrix of one split.

    Attributes:
        metrics: shares from 0 to 1: ``top1``, ``top5`` and ``mean_per_class``.
        confusion: counts of items by true class (row) and predicted class (column).
        details: further settings and numbers, by name.
    """

    metrics: dict[str, float]
    confusion: Int[Tensor, "classes classes"]
    class_names: list[str]
    num_items: int
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """A short description of the evaluated data."""
        return f"{self.num_items} items, {len(self.class_names)} classes"

    @property
    def facts(self) -> dict[str, Any]:
        """Further entries of ``metrics.json``, beside metrics and details."""
        return {"class_names": self.class_names, "confusion": self.confusion.tolist()}

    def draw(self, folder: Path) -> str:
        """Draw the confusion matrix into a PNG file in ``folder``; return the file name."""
        draw_confusion(self, folder / "confusion.png")
        return "confusion.png"


def measure(
    scores: Float[Tensor, "n classes"], labels: Int[Tensor, " n"], class_names: Sequence[str], details: Mapping[str, Any] | None = None
) -> AccuracyResult:
    """Compute accuracies from class scores.

    With scores ``[.1 .7 .2]`` and label 2, one score is higher: top-1 misses, top-2 hits. Of equal scores the first class
    counts as the higher. A class without items is left out of the mean over classes.

    Args:
        scores: higher is likelier; a class with minus infinity is never a hit.
        labels: true class numbers.
        details: further entries of the result's ``details``.

    Raises:
        DataError: a score is NaN.
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


@text_as_written()
def draw_confusion(result: AccuracyResult, output: Any) -> None:
    """Draw the confusion matrix with normalised rows; with at most 20 classes, the cells show the counts."""
    from matplotlib.figure import Figure

    matrix = result.confusion.numpy()
    rows = matrix.sum(1, keepdims=True)
    shares = matrix / rows.clip(min=1)  # a class without items has a row of zeros
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
