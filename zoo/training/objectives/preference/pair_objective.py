"""Base class of objectives on pairs of chosen and rejected answers (DPO, IPO)."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from zoo.errors import ConfigError
from zoo.training.objectives.preference.log_probabilities import REFERENCE, log_probabilities, pairs, reference_of, refuse_head
from zoo.types import Batch, Encoded, HeadOutput, LanguageHead, Objective


class PairObjective(Objective):
    """Base class of losses on the rewards of chosen and rejected answers; a subclass defines ``loss``.

    The reward of an answer is its log-probability minus that of the reference model.

    Args:
        beta: strength of the penalty for moving away from the reference; see the loss.
        per_token: use mean instead of summed log-probabilities per answer, so that long answers do not weigh more.

    Raises:
        ConfigError: a number is outside its range.
    """

    name = ""

    def __init__(self, *, beta: float, per_token: bool) -> None:
        if not beta > 0:
            raise ConfigError(f"beta: {beta}; allowed is above 0")
        self.beta, self.per_token = beta, per_token

    def loss(self, chosen: Float[Tensor, " pairs"], rejected: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
        """Return the loss of each pair, given the rewards of its answers."""
        raise NotImplementedError

    def check(self, system: Any, batch_size: int) -> None:
        """Raise ConfigError unless the system has a language-model head and the batch size per process is even."""
        refuse_head(system, self.name)
        if batch_size % 2:
            raise ConfigError(
                f"training.batch_size: {batch_size} on each process; objective {self.name!r} needs an even number, to hold pairs of answers"
            )

    def frozen_targets(self, head: LanguageHead, encoded: dict[str, Encoded], batch: Batch) -> dict[str, Tensor]:
        """Return the reference log-probabilities, which are subtracted to get rewards."""
        return {REFERENCE: log_probabilities(head, encoded, batch, per_token=self.per_token)}

    def __call__(self, head: LanguageHead, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput:
        """Compute the mean loss over the pairs.

        Metrics: ``reward_accuracy`` (share of pairs whose chosen answer has the higher reward), ``reward_margin`` (mean difference of the
        rewards) and ``chosen_reward`` (mean reward of chosen answers).

        Raises:
            DataError: the batch contains an answer without its counterpart.
        """
        chosen, rejected = pairs(batch, self.name)
        rewards = log_probabilities(head, encoded, batch, per_token=self.per_token) - reference_of(batch, REFERENCE, self.name)
        better, worse = rewards[chosen], rewards[rejected]
        margin = (better - worse).detach()
        metrics = {"reward_accuracy": (margin > 0).float().mean(), "reward_margin": margin.mean(), "chosen_reward": better.detach().mean()}
        return HeadOutput(self.loss(better, worse).mean(), metrics)
