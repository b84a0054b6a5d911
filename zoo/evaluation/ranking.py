"""Ranking: share of pairs of answers to one prompt that a reward model orders as the data do.

Source: Stiennon et al. 2020 (arXiv 2009.01325), section 4.3; Lambert et al. 2024 (RewardBench, arXiv 2403.13787). Ties count half.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from zoo.data.system_processor import conversation_of
from zoo.errors import ConfigError, DataError
from zoo.evaluation.measures.requirements import checked_limits, refuse_model
from zoo.evaluation.measures.split_reader import Reading, Row
from zoo.registry import register
from zoo.types import Evaluation, Result


@dataclass
class RankingResult(Result):
    """Accuracy of pairs, and the mean difference of their scores."""

    metrics: dict[str, float]
    num_items: int
    details: dict[str, Any] = field(default_factory=dict)
    numbers = frozenset(("reward_margin",))

    @property
    def title(self) -> str:
        """A short description of the evaluated data."""
        return f"{self.num_items} answers, {self.details['pairs']} pairs"

    def draw(self, folder: Path) -> str:
        """Draw nothing and return an empty file name; the metrics need no picture."""
        return ""


@register("evaluation")
class Ranking(Evaluation):
    """Share of pairs of answers that a model with head ``reward`` orders as the data do (data=preferences).

    Args:
        batch_size: number of answers processed together.
        limit: maximum number of answers, spread over the split; null uses all.

    Raises:
        ConfigError: a number that is not positive.
    """

    shares_items = True
    monitor = "pair_accuracy"

    def __init__(self, *, batch_size: int = 16, limit: int | None = None) -> None:
        checked_limits({"batch_size": batch_size, "limit": limit})
        self.batch_size, self.limit = batch_size, limit

    def check(self, model: Any, source: Any) -> None:
        """Raise ConfigError if the model has no reward head, or if the source has no conversations."""
        refuse_model(model, ("reward",), "ranking")
        if "conversation" not in source.modalities:
            raise ConfigError(f"evaluation: 'ranking' needs answers with labels; {type(source).__name__} has none; choose data=preferences")

    def __call__(self, model: Any, source: Any, split: str, *, advance: Callable[[int], None] = lambda items: None) -> RankingResult:
        """Evaluate a reward model on one split.

        Raises:
            DataError: an item has no label, or no two answers belong to one prompt.
        """
        self.check(model, source)

        def scored(rows: list[Row]) -> list[tuple[int, int, float]]:
            asked = [conversation_of(sample) for _, sample in rows]
            scores = model.reward([each.question() for each in asked], [each.answer for each in asked], batch_size=self.batch_size)
            return [(_group(sample), _label(sample), score) for (_, sample), score in zip(rows, scores.tolist(), strict=True)]

        reading = Reading(source.split(split), limit=self.limit, batch_size=self.batch_size, advance=advance)
        found = [row for rows in reading(scored) for row in rows]
        groups, labels, scores = (torch.tensor(column) for column in zip(*found, strict=True))
        better, worse = ((groups[:, None] == groups) & (labels[:, None] > labels)).nonzero(as_tuple=True)
        if not len(better):
            raise DataError("evaluation: no two answers of the split belong to one prompt; give pairs or ranked answers")
        difference = scores[better] - scores[worse]
        right = (difference > 0).float() + 0.5 * (difference == 0)
        metrics = {"pair_accuracy": float(right.mean()), "reward_margin": float(difference.mean())}
        return RankingResult(metrics, reading.items, {"pairs": len(better)} | reading.details)


def _label(sample: Any) -> int:
    if sample.label is None:
        raise DataError(f"item {sample.id}: has no label; choose data=preferences")
    return sample.label


def _group(sample: Any) -> int:
    if sample.group is None:
        raise DataError(f"item {sample.id}: has no group; choose data=preferences")
    return sample.group
