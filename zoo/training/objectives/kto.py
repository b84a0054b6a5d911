"""Kahneman-Tversky optimisation: answers that are judged one by one, as desirable or not, without pairs.

Paper: Ethayarajh et al. 2024 (arXiv 2402.01306), eq. 8. Reference: TRL's ``KTOTrainer``.
"""

from typing import Any

import torch
from torch import Tensor

from zoo.errors import ConfigError
from zoo.losses.preference import kto_loss, kto_reference_point
from zoo.registry import register
from zoo.training.objectives.preference.log_probabilities import (
    MISMATCHED,
    REFERENCE,
    labels_of,
    log_probabilities,
    mismatched,
    refuse_head,
)
from zoo.types import Batch, Encoded, HeadOutput, TalkingHead


@register("objective")
class Kto:
    """Needs judged answers (data=preferences); the reference is the teacher, or the model as it was when the run began.

    How far the model has moved at all is estimated on each prompt with another prompt's answer, a third pass without gradients.

    Args:
        beta: large values stay near the reference.
        desirable_weight: of desirable answers; with n_D of them and n_U others, n_D times this should be 1 to 4/3 times n_U times the
            other weight.
        undesirable_weight: of the others.

    Raises:
        ConfigError: a number out of its range.
    """

    name = "kto"

    def __init__(self, *, beta: float = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0) -> None:
        for key, value in (("beta", beta), ("desirable_weight", desirable_weight), ("undesirable_weight", undesirable_weight)):
            if not value > 0:
                raise ConfigError(f"{key}: {value}; allowed is above 0")
        self.beta, self.weights = beta, (desirable_weight, undesirable_weight)

    def check(self, system: Any, batch_size: int) -> None:
        """Raise ConfigError for a head that does not talk, or a batch in which no answer has another prompt to go to."""
        refuse_head(system, self.name)
        if batch_size < 2:
            raise ConfigError(
                f"training.batch_size: {batch_size} on each process; objective 'kto' needs at least 2, for mismatched answers"
            )

    def frozen_targets(self, head: TalkingHead, encoded: dict[str, Encoded], batch: Batch) -> dict[str, Tensor]:
        """The log-probabilities that rewards are counted from, of the answers and of mismatched ones."""
        return {
            REFERENCE: log_probabilities(head, encoded, batch),
            MISMATCHED: log_probabilities(head, encoded, mismatched(batch, _limit(head))),
        }

    def __call__(self, head: TalkingHead, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput:
        """Mean loss over the answers; the mean rewards of either kind, and the reference point.

        Raises:
            DataError: answers that are not judged.
        """
        desirable = labels_of(batch, self.name)
        with torch.no_grad():
            moved = log_probabilities(head, encoded, mismatched(batch, _limit(head))) - batch.targets[MISMATCHED]
        point = kto_reference_point(moved)
        rewards = log_probabilities(head, encoded, batch) - batch.targets[REFERENCE]
        weight, other = self.weights
        losses = kto_loss(rewards, desirable, point, beta=self.beta, desirable_weight=weight, undesirable_weight=other)
        shown = rewards.detach()
        metrics = {"reference_point": point}
        for word, some in (("desirable_reward", desirable), ("undesirable_reward", ~desirable)):
            metrics[word] = (shown * some).sum() / some.sum().clamp(min=1)
        return HeadOutput(losses.mean(), metrics)


def _limit(head: Any) -> int:
    return head.language.context_length
