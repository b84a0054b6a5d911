"""Base class of objectives, which replace a head's own loss in a training run."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from zoo.types.batch import Batch, Encoded, HeadOutput
from zoo.types.head import Head, SampledAnswer
from zoo.types.reward import Reward


class Objective:
    """A loss that a run computes in place of the head's own.

    A subclass must define ``check``, ``frozen_targets`` and ``__call__``.

    Attributes:
        needs_teacher: True if the run must name a teacher (``teacher=DIR``); if False, the frozen model is a copy of the run's first
            weights.
    """

    needs_teacher: ClassVar[bool] = False

    def check(self, system: Any, batch_size: int) -> None:
        """Raise ConfigError if the system cannot be trained with this objective, or not with this batch size per process."""
        raise NotImplementedError

    def check_teacher(self, system: Any, teacher: Any) -> None:
        """Raise ConfigError if the teacher does not fit the system; by default every teacher does."""

    def frozen_targets(self, head: Head, encoded: dict[str, Encoded], batch: Batch) -> dict[str, Tensor]:
        """Return targets by name that the frozen model (teacher or reference) computes for a batch."""
        raise NotImplementedError

    def __call__(self, head: Head, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput:
        """Return the loss of a batch that contains the targets of ``frozen_targets``."""
        raise NotImplementedError


class SamplingObjective(Objective):
    """An objective on answers that the trained model samples itself (GRPO, PPO).

    Attributes:
        answers_per_prompt: number of answers that are sampled for each prompt.
        max_new_tokens: maximum length of an answer in tokens.
        num_iterations: number of optimizer steps on each sampled batch.
        steps_per_sampling: number of batches that are sampled at once, with the same weights.
        needs_reference: False if the loss does not use the frozen model.
        rewards: weight and reward function by name.
    """

    answers_per_prompt: int
    max_new_tokens: int
    num_iterations: int
    steps_per_sampling: int
    needs_reference: bool
    rewards: Mapping[str, tuple[float, Reward]]

    def attach(self, system: Any) -> None:
        """Add modules to the system that only training needs; nothing by default."""

    def score(
        self, answers: Sequence[SampledAnswer], references: Sequence[Sequence[str]], batch: Batch | None = None
    ) -> dict[str, list[float]]:
        """Return the scores of each reward function by its name, and their weighted sum under "reward".

        Args:
            references: right answers to the question of each answer.
            batch: the whole conversations, with the images and audio of each.
        """
        raise NotImplementedError

    def policy_targets(self, head: Head, encoded: dict[str, Encoded], batch: Batch) -> dict[str, Tensor]:
        """Return targets by name that the sampling weights compute for a sampled batch, for example its log-probabilities."""
        raise NotImplementedError

    def finish(self, batches: Sequence[Batch]) -> list[Batch]:
        """Return the batches that were sampled at once, with the targets that depend on all of them (advantages)."""
        raise NotImplementedError

    def state(self) -> dict[str, float]:
        """Return values that change during training and that a resumed run needs; none by default."""
        return {}

    def restore(self, state: dict[str, float]) -> None:
        """Take the values of ``state`` from a saved run."""
