"""Base class of reward functions, which score generated answers."""

from collections.abc import Sequence

from zoo.types.head import SampledAnswer


class Reward:
    """A score of generated answers, for sampling objectives (GRPO, PPO) and best-of-n.

    A subclass must define ``__call__``.
    """

    def __call__(self, answers: Sequence[SampledAnswer], references: Sequence[Sequence[str]]) -> list[float]:
        """Return one score per answer; higher is better.

        Args:
            references: right answers to the question of each answer; empty if none is known.
        """
        raise NotImplementedError
