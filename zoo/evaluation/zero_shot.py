"""Zero-shot classification: accuracy of similarities between image (or audio) vectors and text vectors of the class names.

Source: Radford et al. 2021 (arXiv 2103.00020), section 3.1.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.data.loader import ProcessedSplit
from zoo.data.zero_shot_prompts import fill_templates, in_order, plain_labels, read_labels, read_templates
from zoo.errors import ConfigError, DataError
from zoo.evaluation.measures.classifier_weights import classifier_vectors
from zoo.evaluation.measures.requirements import checked_limits, over_split, refuse_model, refuse_source
from zoo.evaluation.results.accuracy import AccuracyResult, measure
from zoo.registry import register
from zoo.types import Batch, Evaluation


@register("evaluation")
class ZeroShot(Evaluation):
    """Top-1, top-5 and mean per-class accuracy of a system whose head has the verbs ``embed`` and ``prompt_vectors``.

    Args:
        templates: name of a set ("imagenet", "imagenet_7", "cifar", "simple"), a file with one template per line, or a list of templates
            with ``{}`` for the class name; None uses the source's templates.
        labels: a label file (see ``zoo.data.zero_shot_prompts``) with names or prompts for each of the source's classes; None uses the
            class names.
        batch_size: number of items processed together.
        limit: maximum number of items, spread evenly over the split; None uses all.
        cache: store the classifier's weights on disk and reuse them; evaluations during training never do.

    Raises:
        ConfigError: a number that is not positive.
        DataError: the templates or the labels cannot be read.
    """

    shares_items = True

    def __init__(
        self,
        *,
        templates: str | Sequence[str] | None = None,
        labels: str | None = None,
        batch_size: int = 256,
        limit: int | None = None,
        cache: bool = True,
    ) -> None:
        checked_limits({"batch_size": batch_size, "limit": limit})
        self.templates = None if templates is None else read_templates(templates, "evaluation.templates")
        self.labels = None if labels is None else read_labels(labels, "evaluation.labels")
        self.batch_size, self.limit, self.cache = batch_size, limit, cache

    def connect(self, *, asr_model: Any = None, weights_change: bool = False) -> None:
        """Turn the cache off if the weights change with every step."""
        self.cache = self.cache and not weights_change

    def check(self, model: Any, source: Any) -> None:
        """Raise ConfigError if the model cannot embed texts, DataError if the source has no classes or the label file lacks one."""
        refuse_model(model, ("embed", "prompt_vectors"), "zero_shot")
        if "text" not in model.encoders:
            raise ConfigError("evaluation: 'zero_shot' needs a text encoder, which the system does not have; choose evaluation=knn_probe")
        refuse_source(source)
        self.prompts(source)

    def prompts(self, source: Any) -> list[list[str]]:
        """Return the prompts of each class, in the source's order; raise DataError if the label file lacks a class."""
        labels = (
            plain_labels(source.class_names, repeated=True)
            if self.labels is None
            else in_order(self.labels, source.class_names, "evaluation.labels")
        )
        return fill_templates(labels, self.templates or source.templates)

    @torch.inference_mode()
    def __call__(self, model: Any, source: Any, split: str, *, advance: Callable[[int], None] = lambda items: None) -> AccuracyResult:
        """Evaluate a system on one split.

        Args:
            advance: progress callback; receives the number of items just finished.

        Raises:
            ConfigError: the model cannot embed texts.
            DataError: the source has no classes, or an item cannot be used.
        """
        self.check(model, source)
        prompts = self.prompts(source)
        vectors = classifier_vectors(model, prompts, cached=self.cache)

        modality = next((name for name in source.modalities if name != "text" and name in model.encoders), None)
        if modality is None:
            raise ConfigError(
                f"evaluation: the source holds {', '.join(source.modalities)}, of which the system encodes no image and no audio"
            )

        def similarities(batch: Batch) -> Tensor:
            if modality not in batch.inputs or batch.count(modality) != len(batch):
                raise DataError(
                    f"item {batch.ids[0]} or one of the {len(batch) - 1} after it has no {modality}; zero_shot needs it in each"
                )
            return model.embed(modality, batch.given(modality).to(model.device)) @ vectors.T

        data = ProcessedSplit(source.split(split), model.processor)
        scores, labels = over_split(data, similarities, batch_size=self.batch_size, limit=self.limit, advance=advance)
        return measure(scores, labels, source.class_names, {"prompts": sum(map(len, prompts))})
