"""Base class of objectives on sampled answers: rewards, settings of the sampling, and the frozen model's log-probabilities."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ConfigError
from zoo.registry.construct import build_part
from zoo.training.objectives.policy.token_log_probabilities import REFERENCE, SAMPLED, predict_tokens
from zoo.training.objectives.preference.log_probabilities import refuse_head
from zoo.types import Batch, Encoded, LanguageHead, SampledAnswer, SamplingObjective

WEIGHT = "weight"


class PolicyObjective(SamplingObjective):
    """Base class of GRPO and PPO.

    Args:
        rewards: reward functions with their weights, or with their keywords: ``{exact: 1.0, length: {weight: 0.5, most: 8}}``.
        beta: weight of the KL penalty against the frozen reference model.
        answers_per_prompt: number of answers sampled for each prompt.
        max_new_tokens: maximum length of an answer in tokens.
        num_iterations: number of optimizer steps on each sampled batch.
        steps_per_sampling: number of batches that are sampled at once, with the same weights.
        unfinished_penalty: subtracted from the reward of an answer that was cut at ``max_new_tokens``.

    Raises:
        ConfigError: a number is outside its range, or a reward is unknown.
    """

    name = ""

    def __init__(
        self,
        *,
        rewards: Mapping[str, Any],
        beta: float,
        answers_per_prompt: int,
        max_new_tokens: int,
        num_iterations: int,
        steps_per_sampling: int,
        unfinished_penalty: float,
    ) -> None:
        counts = {"max_new_tokens": max_new_tokens, "num_iterations": num_iterations, "steps_per_sampling": steps_per_sampling}
        for key, value in ({"answers_per_prompt": answers_per_prompt} | counts).items():
            if value < 1:
                raise ConfigError(f"{key}: {value}; allowed is 1 or more")
        for key, number in (("beta", beta), ("unfinished_penalty", unfinished_penalty)):
            if not number >= 0:
                raise ConfigError(f"{key}: {number}; allowed is 0 or more")
        self.rewards = _rewards(rewards)
        self.beta, self.answers_per_prompt, self.max_new_tokens = beta, answers_per_prompt, max_new_tokens
        self.num_iterations, self.steps_per_sampling = num_iterations, steps_per_sampling
        self.unfinished_penalty = unfinished_penalty
        self.needs_reference = beta > 0

    @property
    def leaves_policy(self) -> bool:
        """True if optimizer steps are made on answers of older weights, so that their log-probabilities at the time must be kept."""
        return self.num_iterations * self.steps_per_sampling > 1

    def check(self, system: Any, batch_size: int) -> None:
        """Raise ConfigError unless the system has a language-model head."""
        refuse_head(system, self.name)

    def score(
        self, answers: Sequence[SampledAnswer], references: Sequence[Sequence[str]], batch: Batch | None = None
    ) -> dict[str, list[float]]:
        """Return the scores of each reward function by its name, and their weighted sum under "reward"."""
        parts = {name: reward(answers, references, batch) for name, (_, reward) in self.rewards.items()}
        weighted = [sum(self.rewards[name][0] * scores[row] for name, scores in parts.items()) for row in range(len(answers))]
        cut = [self.unfinished_penalty * (not answer.is_finished) for answer in answers]
        return {**parts, "reward": [score - penalty for score, penalty in zip(weighted, cut, strict=True)]}

    def frozen_targets(self, head: LanguageHead, encoded: dict[str, Encoded], batch: Batch) -> dict[str, Tensor]:
        """Return the reference model's log-probability of each sampled token."""
        return {REFERENCE: predict_tokens(head, encoded, batch)[1]}

    @torch.no_grad()
    def policy_targets(self, head: LanguageHead, encoded: dict[str, Encoded], batch: Batch) -> dict[str, Tensor]:
        """Return the sampling weights' log-probability of each sampled token, if the weights change before the loss is computed."""
        return {SAMPLED: predict_tokens(head, encoded, batch)[1]} if self.leaves_policy else {}


def _rewards(config: Mapping[str, Any]) -> dict[str, tuple[float, Any]]:
    """Build the reward functions; returns weight and function by name."""
    if not config:
        raise ConfigError("rewards: none is named; give at least one, for example rewards={exact: 1.0}")
    found = {}
    for name, settings in config.items():
        keywords = {WEIGHT: settings} if not isinstance(settings, Mapping) else dict(settings)
        weight = keywords.pop(WEIGHT, 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise ConfigError(f"rewards.{name}: {weight!r}; give a weight, or keywords of the reward with its weight")
        found[name] = float(weight), build_part("reward", {"name": name, **keywords}, f"rewards.{name}")
    return found
