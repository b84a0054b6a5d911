"""Kahneman-Tversky optimisation (KTO): preference learning from single answers labelled desirable or undesirable, without pairs.

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
    reference_of,
    refuse_head,
)
from zoo.types import Batch, Encoded, HeadOutput, LanguageHead, Objective


@register("objective")
class Kto(Objective):
    """KTO objective on labelled answers (data=preferences).

    The reference is the teacher, or without a teacher the model as it was at the beginning of the run. The divergence from the reference
    (reference point) is estimated from mismatched pairs, each prompt with the answer of another prompt, in a third forward pass without
    gradients.

    Args:
        beta: strength of the penalty for moving away from the reference; large values stay near it.
        desirable_weight: loss weight of desirable answers. With n_D desirable and n_U undesirable answers, the paper recommends
            n_D * ``desirable_weight`` to be 1 to 4/3 times n_U * ``undesirable_weight``.
        undesirable_weight: loss weight of undesirable answers.

    Raises:
        ConfigError: a number is outside its range.
    """

    name = "kto"

    def __init__(self, *, beta: float = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0) -> None:
        for key, value in (("beta", beta), ("desirable_weight", desirable_weight), ("undesirable_weight", undesirable_weight)):
            if not value > 0:
                raise ConfigError(f"{key}: {value}; allowed is above 0")
        self.beta, self.weights = beta, (desirable_weight, undesirable_weight)

    def check(self, system: Any, batch_size: int) -> None:
        """Raise ConfigError unless the system has a language-model head and each process has at least two items per batch."""
        refuse_head(system, self.name)
        if batch_size < 2:
            raise ConfigError(
                f"training.batch_size: {batch_size} on each process; objective 'kto' needs at least 2, for mismatched answers"
            )

    def frozen_targets(self, head: LanguageHead, encoded: dict[str, Encoded], batch: Batch) -> dict[str, Tensor]:
        """Return the reference log-probabilities of the answers and of the mismatched answers."""
        return {
            REFERENCE: log_probabilities(head, encoded, batch),
            MISMATCHED: log_probabilities(head, encoded, mismatched(batch, _limit(head))),
        }

    def __call__(self, head: LanguageHead, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput:
        """Compute the mean loss over the answers.

        Metrics: mean rewards of desirable and of undesirable answers, and the reference point.

        Raises:
            DataError: the answers have no labels.
        """
        desirable = labels_of(batch, self.name)
        with torch.no_grad():
            moved = log_probabilities(head, encoded, mismatched(batch, _limit(head))) - reference_of(batch, MISMATCHED, self.name)
        point = kto_reference_point(moved)
        rewards = log_probabilities(head, encoded, batch) - reference_of(batch, REFERENCE, self.name)
        weight, other = self.weights
        losses = kto_loss(rewards, desirable, point, beta=self.beta, desirable_weight=weight, undesirable_weight=other)
        shown = rewards.detach()
        metrics = {"reference_point": point}
        for metric, selected in (("desirable_reward", desirable), ("undesirable_reward", ~desirable)):
            metrics[metric] = (shown * selected).sum() / selected.sum().clamp(min=1)
        return HeadOutput(losses.mean(), metrics)


def _limit(head: Any) -> int:
    return head.language.context_length
