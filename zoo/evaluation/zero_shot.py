"""Zero-shot classification: class names in, accuracy out.

Source: Radford et al. 2021 (arXiv 2103.00020), section 3.1.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.data.loader import ProcessedSplit
from zoo.errors import ConfigError
from zoo.evaluation._accuracy import AccuracyResult, checked_limits, measure, over_split, refuse_model, refuse_source
from zoo.registry import register
from zoo.types import Batch


@register("evaluation")
class ZeroShot:
    """Top-1, top-5 and mean per-class accuracy of a system with the verbs ``embed`` and ``class_vectors``.

    Args:
        templates: prompts with ``{}`` for the class name; None takes the source's own.
        batch_size: items at once.
        limit: only so many items, spread evenly over the split; None takes all.

    Raises:
        ConfigError: a number that is not positive.
    """

    def __init__(self, *, templates: Sequence[str] | None = None, batch_size: int = 256, limit: int | None = None) -> None:
        checked_limits({"batch_size": batch_size, "limit": limit})
        self.templates, self.batch_size, self.limit = templates, batch_size, limit

    def check(self, model: Any, source: Any) -> None:
        """Raise ConfigError for a model without the verbs, DataError for a source without classes."""
        refuse_model(model, ("embed", "class_vectors"), "zero_shot")
        if "text" not in model.encoders:
            raise ConfigError("evaluation: 'zero_shot' needs a text encoder, which the system does not have; choose evaluation=knn_probe")
        refuse_source(source)

    @torch.inference_mode()
    def __call__(self, model: Any, source: Any, split: str, *, advance: Callable[[int], None] = lambda items: None) -> AccuracyResult:
        """Evaluate a system on one split.

        Args:
            advance: told how many more items are done.

        Raises:
            ConfigError: the model cannot classify so.
            DataError: the source has no classes, or an item cannot be used.
        """
        self.check(model, source)
        vectors = model.class_vectors(source.class_names, self.templates or source.templates)

        def similarities(batch: Batch) -> Tensor:
            modality = next(name for name in batch.inputs if name != "text")
            return model.embed(modality, batch.inputs[modality].to(model.device)) @ vectors.T

        data = ProcessedSplit(source.split(split), model.processor)
        scores, labels = over_split(data, similarities, batch_size=self.batch_size, limit=self.limit, advance=advance)
        return measure(scores, labels, source.class_names)
