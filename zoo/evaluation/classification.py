"""Classification by a trained head: accuracy of its logits."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.data.loader import ProcessedSplit
from zoo.errors import ConfigError
from zoo.evaluation.measures.requirements import checked_limits, over_split, refuse_model, refuse_source
from zoo.evaluation.results.accuracy import AccuracyResult, measure
from zoo.registry import register
from zoo.types import Batch, Evaluation


@register("evaluation")
class Classification(Evaluation):
    """Top-1, top-5 and mean per-class accuracy of a system whose head computes ``logits`` over the source's classes.

    Args:
        batch_size: number of items processed together.
        limit: maximum number of items, spread evenly over the split; None uses all.

    Raises:
        ConfigError: a number that is not positive.
    """

    shares_items = True

    def __init__(self, *, batch_size: int = 256, limit: int | None = None) -> None:
        checked_limits({"batch_size": batch_size, "limit": limit})
        self.batch_size, self.limit = batch_size, limit

    def check(self, model: Any, source: Any) -> None:
        """Raise ConfigError if the model has no logits or other classes than the source, DataError if the source has no classes."""
        refuse_model(model, ("logits",), "classification")
        refuse_source(source)
        columns_of(model.head.class_names, model.head.num_classes, source.class_names)

    @torch.inference_mode()
    def __call__(self, model: Any, source: Any, split: str, *, advance: Callable[[int], None] = lambda items: None) -> AccuracyResult:
        """Evaluate a system on one split.

        Args:
            advance: progress callback; receives the number of items just finished.

        Raises:
            ConfigError: the model has no logits, or other classes than the source.
            DataError: the source has no classes, or an item cannot be used.
        """
        self.check(model, source)
        columns = columns_of(model.head.class_names, model.head.num_classes, source.class_names)

        def logits(batch: Batch) -> Tensor:
            return model(batch.to(model.device)).outputs["logits"]

        data = ProcessedSplit(source.split(split), model.processor)
        scores, labels = over_split(data, logits, batch_size=self.batch_size, limit=self.limit, advance=advance)
        return measure(scores[:, columns], labels, source.class_names)


def columns_of(known: Sequence[str] | None, num_classes: int, asked: Sequence[str]) -> list[int]:
    """Return for each class of the data its column in the logits of the head.

    Example: the head has ``[cat, dog]`` and the data ``[dog, cat]``: ``[1, 0]``. If the head has no class names, only the number of
    classes is compared and the order is assumed to be the same.

    Args:
        known: class names of the head; None if it has none.
        num_classes: number of classes of the head.
        asked: class names of the data.

    Raises:
        ConfigError: the classes differ.
    """
    if known is None and num_classes == len(asked):
        return list(range(num_classes))
    if known is None or set(known) != set(asked):
        missing = sorted(set(asked) - set(known or ()))
        example = f" (the head has no class {missing[0]!r})" if known is not None and missing else ""
        raise ConfigError(
            f"evaluation: the head has {num_classes} classes, which differ from the {len(asked)} classes of the data{example}; "
            "choose the data that the head was trained on, or evaluation=linear_probe or knn_probe"
        )
    return [list(known).index(name) for name in asked]
