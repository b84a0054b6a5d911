"""Proximal policy optimisation (PPO) of language models: policy gradient with a value function of every token.

Papers: Schulman et al. 2017 (arXiv 1707.06347); Ouyang et al. 2022 (InstructGPT, arXiv 2203.02155), section 3.5; Ziegler et al. 2019 (arXiv
1909.08593), section 2.2, for the adaptive KL penalty. Reference: TRL 0.11.4 (``PPOTrainer``), for which this file has the same rows. Where
we differ: advantages are whitened over all answers that are sampled at once; the value function is a linear layer on the hidden states of
the policy, which only training has: a saved model does not contain it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.losses.distributed import mean_over_ranks, share_of_mean, world_size
from zoo.losses.policy import (
    adapted_beta,
    advantages_and_returns,
    clipped_policy_loss,
    clipped_value_loss,
    kl_estimates,
    whitened,
)
from zoo.registry import register
from zoo.training.objectives.policy.sampling import PolicyObjective
from zoo.training.objectives.policy.token_log_probabilities import (
    ADVANTAGES,
    REFERENCE,
    REMEDY,
    REWARD,
    SAMPLED,
    answer_metrics,
    entropy_of,
    need_per_token,
    predict_tokens,
)
from zoo.types import SUPERVISED, Batch, Encoded, HeadOutput, LanguageHead

VALUES, RETURNS = "sampled_values", "returns"  # [tokens]
VALUE_STD = 0.02  # small, so that the first values do not outweigh the rewards


@register("objective")
class Ppo(PolicyObjective):
    """PPO objective on sampled answers, with a KL penalty in the reward of each token.

    Args:
        rewards: see ``PolicyObjective``.
        beta: weight of the KL penalty (estimator k1) in the rewards.
        kl_target: adapt ``beta`` so that the KL of an answer stays near this number of nats; null keeps ``beta`` fixed.
        kl_horizon: number of answers over which ``beta`` adapts.
        clip: probability ratios of tokens are cut to 1 +- ``clip``.
        value_clip: values are cut to within this distance of the values at sampling time.
        value_weight: weight of the value loss.
        discount: gamma of GAE.
        decay: lambda of GAE.
        answers_per_prompt: see ``PolicyObjective``; so are the arguments that follow.

    Raises:
        ConfigError: a number is outside its range.
    """

    name = "ppo"

    def __init__(
        self,
        *,
        rewards: Mapping[str, Any] = {"exact": 1.0},  # noqa: B006  # never changed
        beta: float = 0.05,
        kl_target: float | None = None,
        kl_horizon: float = 10_000.0,
        clip: float = 0.2,
        value_clip: float = 0.2,
        value_weight: float = 0.1,
        discount: float = 1.0,
        decay: float = 0.95,
        answers_per_prompt: int = 1,
        max_new_tokens: int = 32,
        num_iterations: int = 4,
        steps_per_sampling: int = 1,
        unfinished_penalty: float = 0.0,
    ) -> None:
        super().__init__(
            rewards=rewards,
            beta=beta,
            answers_per_prompt=answers_per_prompt,
            max_new_tokens=max_new_tokens,
            num_iterations=num_iterations,
            steps_per_sampling=steps_per_sampling,
            unfinished_penalty=unfinished_penalty,
        )
        if not beta > 0:
            raise ConfigError(f"beta: {beta}; allowed is above 0")
        for key, value in (("clip", clip), ("discount", discount), ("decay", decay)):
            if not 0 < value <= 1:
                raise ConfigError(f"{key}: {value}; allowed is above 0 to 1")
        for key, value in (
            ("kl_target", kl_target),
            ("kl_horizon", kl_horizon),
            ("value_clip", value_clip),
            ("value_weight", value_weight),
        ):
            if value is not None and not value > 0:
                raise ConfigError(f"{key}: {value}; allowed is above 0")
        self.kl_target, self.kl_horizon, self.clip, self.discount, self.decay = kl_target, kl_horizon, clip, discount, decay
        self.value_clip, self.value_weight = value_clip, value_weight
        self.value: nn.Linear | None = None

    def attach(self, system: Any) -> None:
        """Add the value function to the system, as its module ``training_only``."""
        language = system.head.language
        self.value = nn.Linear(language.dim, 1)
        nn.init.normal_(self.value.weight, std=VALUE_STD)
        nn.init.zeros_(self.value.bias)
        system.training_only = self.value

    def _values(self, hidden: Tensor) -> Tensor:
        if self.value is None:
            raise ConfigError("objective 'ppo' has no value function; call attach(system) before the first batch")
        return self.value(hidden)[:, 0].float()  # [tokens]

    @torch.no_grad()
    def policy_targets(self, head: LanguageHead, encoded: dict[str, Encoded], batch: Batch) -> dict[str, Tensor]:
        """Return the log-probability and the value of each sampled token under the sampling weights."""
        found, log_probabilities = predict_tokens(head, encoded, batch)
        return {SAMPLED: log_probabilities, VALUES: self._values(found.hidden)}

    def finish(self, batches: Sequence[Batch]) -> list[Batch]:
        """Return the batches with whitened advantages and returns of each token; adapts ``beta`` for the next ones."""
        estimated = [self._estimate(batch) for batch in batches]
        white = whitened(torch.cat([advantages for advantages, _ in estimated])).split([len(each) for each, _ in estimated])
        made = [
            replace(batch, targets={**batch.targets, ADVANTAGES: advantages, RETURNS: returns})
            for batch, advantages, (_, returns) in zip(batches, white, estimated, strict=True)
        ]
        if self.kl_target is not None:
            moved = torch.cat([batch.targets[SAMPLED] - batch.targets[REFERENCE] for batch in batches])
            answers = sum(len(batch.inputs["text"]) for batch in batches)
            kl = float(mean_over_ranks(moved.sum() / answers))
            keywords = {"target": self.kl_target, "horizon": self.kl_horizon}
            self.beta = adapted_beta(self.beta, kl, **keywords, answers=answers * world_size())
        return made

    def _estimate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return advantages and returns of the tokens of a batch: the penalty at each token, the score at the last one of an answer."""
        rows, places, mask = _token_places(batch)
        per_token = batch.targets[VALUES].new_zeros(mask.shape)
        values = per_token.index_put((rows, places), batch.targets[VALUES])
        rewards = per_token.index_put((rows, places), -self.beta * (batch.targets[SAMPLED] - batch.targets[REFERENCE]))
        ends = torch.arange(len(mask), device=mask.device), mask.sum(1) - 1
        rewards = rewards.index_put(ends, batch.targets[REWARD].to(rewards.dtype), accumulate=True)
        found = advantages_and_returns(rewards, values, mask, discount=self.discount, decay=self.decay)
        return found[0][rows, places], found[1][rows, places]

    def __call__(self, head: LanguageHead, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput:
        """Compute policy loss plus weighted value loss, each a mean over the tokens of all answers.

        Metrics: those of answers, both losses, KL per token against the reference (k1) and to the sampling weights (k2), entropy, share of
        clipped tokens, and ``beta``.

        Raises:
            DataError: the batch lacks a target of the sampling.
        """
        found, new = predict_tokens(head, encoded, batch)
        names = (SAMPLED, ADVANTAGES, VALUES, RETURNS, REFERENCE)
        old, advantages, values, returns, reference = (need_per_token(batch, name, self.name, len(new)) for name in names)
        moved = new - old
        policy = clipped_policy_loss(moved, advantages, low=self.clip, high=self.clip).mean()
        value = clipped_value_loss(self._values(found.hidden), values, returns, clip=self.value_clip).mean()
        metrics = {
            **answer_metrics(batch),
            "policy_loss": policy.detach(),
            "value_loss": value.detach(),
            "kl": kl_estimates(reference - new)[0].detach().mean(),
            "step_kl": kl_estimates(-moved)[1].detach().mean(),
            "entropy": entropy_of(found.logits),
            "clipped": ((moved.detach().exp() - 1).abs() > self.clip).float().mean(),
            "beta": policy.new_tensor(self.beta).detach(),
        }
        return HeadOutput(share_of_mean(policy + self.value_weight * value, len(new)), metrics)

    def state(self) -> dict[str, float]:
        """Return the adapted weight of the KL penalty."""
        return {"beta": self.beta}

    def restore(self, state: dict[str, float]) -> None:
        """Take the weight of the KL penalty from a saved run."""
        self.beta = state.get("beta", self.beta)


def _token_places(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Return row and place of each sampled token in a table [answers, longest], and its mask, True at tokens.

    Answers of 2 and 3 tokens have the rows ``0 0 1 1 1`` and the places ``0 1 0 1 2``.
    """
    lengths = batch.need(SUPERVISED, "objective 'ppo'", REMEDY).sum(1)
    mask = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
    rows, places = mask.nonzero(as_tuple=True)
    return rows, places, mask
