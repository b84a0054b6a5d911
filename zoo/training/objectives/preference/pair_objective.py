"""What the objectives on pairs of answers share."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from zoo.errors import ConfigError
from zoo.training.objectives.preference.log_probabilities import REFERENCE, log_probabilities, pairs, refuse_head
from zoo.types import Batch, Encoded, HeadOutput, TalkingHead


class PairObjective:
    """A loss of the rewards of chosen and rejected answers; a subclass says which, in ``loss``.

    Args:
        beta: see the loss.
        per_token: rewards are means over an answer's tokens, so that long answers do not weigh more.

    Raises:
        ConfigError: a number out of its range.
    """

    name = ""

    def __init__(self, *, beta: float, per_token: bool) -> None:
        if not beta > 0:
            raise ConfigError(f"beta: {beta}; allowed is above 0")
        self.beta, self.per_token = beta, per_token

    def loss(self, chosen: Float[Tensor, " pairs"], rejected: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
        """The loss of each pair's rewards."""
        raise NotImplementedError

    def check(self, system: Any, batch_size: int) -> None:
        """Raise ConfigError for a head that does not talk, or a batch that cannot hold whole pairs."""
        refuse_head(system, self.name)
        if batch_size % 2:
            raise ConfigError(f"training.batch_size: {batch_size} on each process; objective {self.name!r} needs an even number, for pairs")

    def frozen_targets(self, head: TalkingHead, encoded: dict[str, Encoded], batch: Batch) -> dict[str, Tensor]:
        """The log-probabilities that rewards are counted from."""
        return {REFERENCE: log_probabilities(head, encoded, batch, per_token=self.per_token)}

    def __call__(self, head: TalkingHead, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput:
        """Mean loss over the pairs; the share of them whose chosen answer has the higher reward, and by how much on average.

        Raises:
            DataError: an answer without its counterpart.
        """
        chosen, rejected = pairs(batch, self.name)
        rewards = log_probabilities(head, encoded, batch, per_token=self.per_token) - batch.targets[REFERENCE]
        better, worse = rewards[chosen], rewards[rejected]
        margin = (better - worse).detach()
        metrics = {"reward_accuracy": (margin > 0).float().mean(), "reward_margin": margin.mean(), "chosen_reward": better.detach().mean()}
        return HeadOutput(self.loss(better, worse).mean(), metrics)
