"""Zero-shot classification: class names in, accuracy out.

Source: Radford et al. 2021 (arXiv 2103.00020), section 3.1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

from zoo.data.loader import ProcessedSplit, evaluation_loader
from zoo.errors import DataError
from zoo.registry import register


@dataclass
class ZeroShotResult:
    """Figures and what they were computed from."""

    metrics: dict[str, float]
    confusion: Int[Tensor, "classes classes"]  # row: true class, column: predicted class
    class_names: list[str]
    num_items: int


@register("evaluation")
class ZeroShot:
    """Top-1, top-5 and mean per-class accuracy of a system with the verbs ``embed`` and ``class_vectors``.

    Args:
        templates: prompts with ``{}`` for the class name; None takes the source's own.
        batch_size: items at once.
        limit: only the first so many items; None takes all.
    """

    def __init__(self, *, templates: Sequence[str] | None = None, batch_size: int = 256, limit: int | None = None) -> None:
        self.templates, self.batch_size, self.limit = templates, batch_size, limit

    @torch.inference_mode()
    def __call__(self, system: Any, source: Any, split: str, *, advance: Callable[[int], None] = lambda items: None) -> ZeroShotResult:
        """Evaluate on one split.

        Args:
            advance: told how many more items are done.

        Raises:
            DataError: the source has no classes.
        """
        if not source.class_names:
            raise DataError("evaluation: the source has no classes to tell apart; give it labels, or choose another evaluation")
        vectors = system.class_vectors(source.class_names, self.templates or source.templates)
        scores, labels = self._score(system, ProcessedSplit(source.split(split), system.processor), vectors, advance)
        return _result(scores, labels, list(source.class_names))

    def _score(
        self, system: Any, data: ProcessedSplit, vectors: Float[Tensor, "classes dim"], advance: Callable[[int], None]
    ) -> tuple[Float[Tensor, "n classes"], Int[Tensor, " n"]]:
        scores, labels, seen = [], [], 0
        for batch in evaluation_loader(data, batch_size=self.batch_size):
            modality = next(name for name in batch.inputs if name != "text")
            scores.append(system.embed(modality, batch.inputs[modality].to(system.device)) @ vectors.T)
            labels.append(batch.targets["labels"])
            advance(len(batch))
            seen += len(batch)
            if self.limit is not None and seen >= self.limit:
                break
        if not scores:
            raise DataError("evaluation: the split is empty; choose another with data.test_split=...")
        return torch.cat(scores).cpu(), torch.cat(labels)


def _result(scores: Tensor, labels: Tensor, class_names: list[str]) -> ZeroShotResult:
    classes = len(class_names)
    present = labels.unique()
    guesses = scores.argmax(1)
    confusion = multiclass_confusion_matrix(guesses, labels, num_classes=classes)
    recall = confusion.diagonal()[present] / confusion.sum(1)[present]  # classes without an item have no accuracy
    accuracy = {f"top{k}": multiclass_accuracy(scores, labels, num_classes=classes, average="micro", top_k=min(k, classes)) for k in (1, 5)}
    metrics = {**accuracy, "mean_per_class": recall.mean()}
    return ZeroShotResult({name: float(value) for name, value in metrics.items()}, confusion, class_names, len(labels))


def draw_confusion(result: ZeroShotResult, output: Any) -> None:
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
