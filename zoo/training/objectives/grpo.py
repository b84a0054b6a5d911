"""Group relative policy optimisation (GRPO): policy gradient on several sampled answers per prompt, without a value network.

Papers: Shao et al. 2024 (arXiv 2402.03300), section 4.1; Ahmadian et al. 2024 (RLOO, arXiv 2402.14740); Yu et al. 2025 (DAPO, arXiv
2503.14476); Liu et al. 2025 (Dr. GRPO, arXiv 2503.20783). Reference: TRL 1.16 (``GRPOTrainer``). Where we differ from TRL: a batch of a run
counts prompts, not answers; the KL penalty is on by default (0.04, as in the paper); truncated answers count like all others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from zoo.errors import ConfigError, name_choices
from zoo.losses.distributed import share_of_mean
from zoo.losses.policy import ADVANTAGES as KINDS
from zoo.losses.policy import LOSSES, clipped_policy_loss, group_advantages, kl_estimates, mean_of_tokens
from zoo.registry import register
from zoo.training.objectives.policy.sampling import PolicyObjective
from zoo.training.objectives.policy.token_log_probabilities import (
    ADVANTAGES,
    REFERENCE,
    REMEDY,
    REWARD,
    SAMPLED,
    STEP_TOKENS,
    answer_metrics,
    entropy_of,
    need_per_token,
    predict_tokens,
)
from zoo.types import Batch, Encoded, HeadOutput, LanguageHead


@register("objective")
class Grpo(PolicyObjective):
    """GRPO objective: sampled answers that are rewarded above the others to the same prompt become more probable.

    Args:
        rewards: see ``PolicyObjective``.
        advantage: "grpo" (reward minus the mean of the group) or "rloo" (minus the mean of the other answers).
        scale_rewards: divide the advantage by the standard deviation of the group; false with loss "dr_grpo".
        loss: mean over tokens, see ``zoo.losses.policy.mean_of_tokens``: "grpo", "bnpo", "dapo" or "dr_grpo".
        clip: probability ratios of tokens are cut below 1 - ``clip``.
        clip_high: and above 1 + ``clip_high``; null takes ``clip``.
        beta: weight of the KL penalty (estimator k3) against the reference model; 0 needs no reference.
        correct_kl: multiply the KL penalty by the probability ratio, so that its gradient is unbiased (TRL's default).
        answers_per_prompt: G in the paper.
        max_new_tokens: see ``PolicyObjective``; so are ``num_iterations``, ``steps_per_sampling`` and ``unfinished_penalty``.

    Raises:
        ConfigError: a number is outside its range, or a name is unknown.
    """

    name = "grpo"

    def __init__(
        self,
        *,
        rewards: Mapping[str, Any] = {"exact": 1.0},  # noqa: B006  # never changed
        advantage: str = "grpo",
        scale_rewards: bool = True,
        loss: str = "dapo",
        clip: float = 0.2,
        clip_high: float | None = None,
        beta: float = 0.04,
        correct_kl: bool = True,
        answers_per_prompt: int = 8,
        max_new_tokens: int = 32,
        num_iterations: int = 1,
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
        if answers_per_prompt < 2:
            raise ConfigError(f"answers_per_prompt: {answers_per_prompt}; allowed is 2 or more, to compare answers to the same prompt")
        high = clip if clip_high is None else clip_high
        if not 0 < clip < 1 or not high > 0:
            raise ConfigError(f"clip: {clip}, clip_high: {clip_high}; allowed is a clip between 0 and 1 and a clip_high above 0")
        for key, value, known in (("advantage", advantage, KINDS), ("loss", loss, LOSSES)):
            if value not in known:
                raise ConfigError(f"{key}: there is no {value!r}; {name_choices(value, known)}")
        if loss == "dr_grpo" and scale_rewards:
            raise ConfigError("scale_rewards: true, but loss 'dr_grpo' leaves out all division by spread; set scale_rewards=false")
        self.advantage, self.scaled, self.loss = advantage, scale_rewards, loss
        self.low, self.high, self.correct_kl = clip, high, correct_kl

    def finish(self, batches: Sequence[Batch]) -> list[Batch]:
        """Return the batches with the advantage of each answer."""
        return [replace(batch, targets={**batch.targets, ADVANTAGES: self._advantages(batch)}) for batch in batches]

    def _advantages(self, batch: Batch) -> Tensor:
        rewards = batch.need(REWARD, f"objective {self.name!r}", REMEDY)
        return group_advantages(rewards, group_size=self.answers_per_prompt, kind=self.advantage, scaled=self.scaled)

    def __call__(self, head: LanguageHead, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput:
        """Compute the loss of sampled answers.

        Metrics: mean reward, that of each reward function, length and share of finished answers, KL per token (k3), entropy per token,
        share of clipped tokens, and share of prompts whose answers all have the same reward.

        Raises:
            DataError: the batch lacks advantages or the log-probabilities of an older or frozen model.
        """
        found, new = predict_tokens(head, encoded, batch)
        tokens = len(new)
        old = need_per_token(batch, SAMPLED, self.name, tokens) if self.leaves_policy else new.detach()
        advantages = batch.need(ADVANTAGES, f"objective {self.name!r}", REMEDY)[found.rows]
        moved = new - old
        losses, metrics = clipped_policy_loss(moved, advantages, low=self.low, high=self.high), answer_metrics(batch)
        if self.beta:
            penalty = kl_estimates(need_per_token(batch, REFERENCE, self.name, tokens) - new)[2]
            losses = losses + self.beta * (penalty * moved.exp() if self.correct_kl else penalty)
            metrics["kl"] = penalty.detach().mean()
        ratio = moved.detach().exp()
        is_clipped = ((advantages < 0) & (ratio < 1 - self.low)) | ((advantages > 0) & (ratio > 1 + self.high))
        metrics |= {"entropy": entropy_of(found.logits), "clipped": is_clipped.float().mean()}
        if REWARD in batch.targets:
            groups = batch.targets[REWARD].view(-1, self.answers_per_prompt)
            metrics["equal_rewards"] = (groups.amax(1) == groups.amin(1)).float().mean()
        return HeadOutput(self._mean(losses, found.rows, batch), metrics)

    def _mean(self, losses: Tensor, rows: Tensor, batch: Batch) -> Tensor:
        loss = mean_of_tokens(
            losses,
            rows,
            kind=self.loss,
            num_answers=len(batch.inputs["text"]),
            max_length=self.max_new_tokens,
            num_tokens=batch.targets.get(STEP_TOKENS),
        )
        return share_of_mean(loss, len(losses)) if self.loss == "bnpo" else loss
