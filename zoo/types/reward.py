"""Base class of reward functions, which score generated answers."""

from collections.abc import Sequence
from typing import Any

from zoo.types.batch import Batch
from zoo.types.head import SampledAnswer


class Reward:
    """A score of generated answers, for sampling objectives (GRPO, PPO) and best-of-n.

    A subclass must define ``__call__``.

    Attributes:
        model_source: saved model that the reward reads; the run loads it and passes it to ``use``. None if it needs none.
    """

    model_source: str | None = None

    def use(self, model: Any) -> None:
        """Take the model of ``model_source``."""

    def __call__(self, answers: Sequence[SampledAnswer], references: Sequence[Sequence[str]], batch: Batch | None = None) -> list[float]:
        """Return one score per answer; higher is better.

        Args:
            references: right answers to the question of each answer; empty if none is known.
            batch: the whole conversations with their images and audio, for a reward that is a model; None if only texts are known.
        """
        raise NotImplementedError
