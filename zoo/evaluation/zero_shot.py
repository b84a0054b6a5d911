"""Zero-shot classification: class names in, accuracy out.

Source: Radford et al. 2021 (arXiv 2103.00020), section 3.1.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.data.loader import ProcessedSplit, evaluation_loader
from zoo.errors import ConfigError, DataError
from zoo.evaluation._accuracy import AccuracyResult, checked_limits, labels_of, measure, refuse_model, refuse_source
from zoo.registry import register


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
        scores, labels = self._score(model, ProcessedSplit(source.split(split), model.processor), vectors, advance)
        return measure(scores, labels, source.class_names)

    def _score(
        self, system: Any, data: ProcessedSplit, vectors: Float[Tensor, "classes dim"], advance: Callable[[int], None]
    ) -> tuple[Float[Tensor, "n classes"], Int[Tensor, " n"]]:
        scores, labels = [], []
        for batch in evaluation_loader(data, batch_size=self.batch_size, limit=self.limit):
            modality = next(name for name in batch.inputs if name != "text")
            scores.append(system.embed(modality, batch.inputs[modality].to(system.device)) @ vectors.T)
            labels.append(labels_of(batch))
            advance(len(batch))
        if not scores:
            raise DataError("evaluation: the split is empty; choose another with data.test_split=...")
        return torch.cat(scores).cpu(), torch.cat(labels)
