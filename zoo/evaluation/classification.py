"""Classification by a trained head: the accuracy of its logits."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.data.loader import ProcessedSplit
from zoo.errors import ConfigError
from zoo.evaluation.results.accuracy import AccuracyResult, checked_limits, measure, over_split, refuse_model, refuse_source
from zoo.registry import register
from zoo.types import Batch


@register("evaluation")
class Classification:
    """Top-1, top-5 and mean per-class accuracy of a system whose head gives ``logits`` over the source's classes.

    Args:
        batch_size: items at once.
        limit: only so many items, spread evenly over the split; None takes all.

    Raises:
        ConfigError: a number that is not positive.
    """

    def __init__(self, *, batch_size: int = 256, limit: int | None = None) -> None:
        checked_limits({"batch_size": batch_size, "limit": limit})
        self.batch_size, self.limit = batch_size, limit

    def check(self, model: Any, source: Any) -> None:
        """Raise ConfigError for a model without logits or of other classes, DataError for a source without classes."""
        refuse_model(model, ("logits",), "classification")
        refuse_source(source)
        columns_of(model.head.class_names, model.head.num_classes, source.class_names)

    @torch.inference_mode()
    def __call__(self, model: Any, source: Any, split: str, *, advance: Callable[[int], None] = lambda items: None) -> AccuracyResult:
        """Evaluate a system on one split.

        Args:
            advance: told how many more items are done.

        Raises:
            ConfigError: the model cannot classify so, or tells other classes apart.
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
    """Where the classes of the data stand among those of the head.

    A head that knows ``[cat, dog]`` is asked for ``[dog, cat]``: ``[1, 0]``. One without names is trusted where the numbers agree.

    Raises:
        ConfigError: other classes.
    """
    if known is None and num_classes == len(asked):
        return list(range(num_classes))
    if known is None or set(known) != set(asked):
        strange = sorted(set(asked) - set(known or ()))
        example = f"; {strange[0]!r} is not among them" if known is not None and strange else ""
        raise ConfigError(
            f"evaluation: the head tells {num_classes} classes apart, which are not the {len(asked)} of the data{example}; "
            "choose the data that it was trained on, or evaluation=linear_probe or knn_probe"
        )
    return [list(known).index(name) for name in asked]
