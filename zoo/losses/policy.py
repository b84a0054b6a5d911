"""Policy-gradient losses on sampled answers (GRPO, RLOO, PPO), as pure functions of the log-probabilities of tokens.

Papers: Schulman et al. 2017 (PPO, arXiv 1707.06347), eq. 7; Schulman et al. 2015 (GAE, arXiv 1506.02438), eq. 16; Shao et al. 2024 (GRPO,
arXiv 2402.03300), eq. 3 and 4; Ahmadian et al. 2024 (RLOO, arXiv 2402.14740), eq. 8; Yu et al. 2025 (DAPO, arXiv 2503.14476), eq. 8 and
12; Liu et al. 2025 (Dr. GRPO, arXiv 2503.20783), section 3. References: TRL 1.16 (``GRPOTrainer``, ``RLOOTrainer``) and TRL 0.11.4
(``PPOTrainer``).

Tokens of all answers are one list: ``rows`` gives the answer of each token, in ascending order. Answers of one prompt are adjacent.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.errors import ConfigError, name_choices
from zoo.losses.distributed import sum_over_ranks

ADVANTAGES = ("grpo", "rloo")
LOSSES = ("grpo", "bnpo", "dapo", "dr_grpo")
STD_EPS = 1e-4  # TRL; the paper adds nothing
WHITEN_EPS = 1e-8  # TRL 0.11.4, added to the variance


def group_advantages(
    rewards: Float[Tensor, " answers"], *, group_size: int, kind: str = "grpo", scaled: bool = True
) -> Float[Tensor, " answers"]:
    """Return the advantage of each answer over the others to the same prompt.

    With two groups of two, rewards ``1 0 | 1 1`` give ``.707 -.707 | 0 0`` ("grpo", without epsilon) and ``1 -1 | 0 0`` ("rloo").

    Args:
        group_size: answers per prompt, at least 2.
        kind: "grpo" subtracts the mean of the group; "rloo" subtracts the mean of the other answers.
        scaled: divide by the standard deviation of the group (unbiased, as in TRL); has no effect on "rloo".
    """
    groups = rewards.view(-1, group_size)
    if kind == "rloo":
        others = (groups.sum(1, keepdim=True) - groups) / (group_size - 1)
        return (groups - others).flatten()
    if kind != "grpo":
        raise ConfigError(f"advantage: there is no {kind!r}; {name_choices(kind, ADVANTAGES)}")
    centred = groups - groups.mean(1, keepdim=True)
    return (centred / (groups.std(1, keepdim=True) + STD_EPS) if scaled else centred).flatten()


def kl_estimates(
    log_ratio: Float[Tensor, " tokens"],
) -> tuple[Float[Tensor, " tokens"], Float[Tensor, " tokens"], Float[Tensor, " tokens"]]:
    """Return the estimators k1, k2 and k3 of KL(policy, reference) at tokens that the policy sampled (Schulman 2020, "Approximating KL").

    Args:
        log_ratio: d = log-probability under the reference minus that under the policy; k1 is -d, k2 is d^2 / 2, k3 is e^d - 1 - d.
    """
    return -log_ratio, log_ratio.square() / 2, log_ratio.exp() - 1 - log_ratio


def clipped_policy_loss(
    log_ratio: Float[Tensor, " tokens"], advantages: Float[Tensor, " tokens"], *, low: float = 0.2, high: float = 0.2
) -> Float[Tensor, " tokens"]:
    """Return ``max(-A r, -A clip(r, 1 - low, 1 + high))`` of each token, where r is the exponential of ``log_ratio``.

    Args:
        log_ratio: log-probability under the trained policy minus that under the policy that sampled the token.
        advantages: A of each token.
    """
    ratio = log_ratio.exp()
    return (-advantages * ratio).maximum(-advantages * ratio.clamp(1 - low, 1 + high))


def mean_of_tokens(
    losses: Float[Tensor, " tokens"],
    rows: Int[Tensor, " tokens"],
    *,
    kind: str,
    num_answers: int,
    max_length: int,
    num_tokens: float | Tensor | None = None,
) -> Float[Tensor, ""]:
    """Return the loss of a batch from those of its tokens.

    Args:
        kind: "grpo": mean over the answers of the means over their tokens; "bnpo": mean over the tokens of this batch; "dapo": the sum
            divided by ``num_tokens``; "dr_grpo": the sum divided by ``num_answers * max_length``.
        num_answers: number of answers, those without a token included.
        max_length: maximum number of tokens of an answer.
        num_tokens: number of tokens of all batches of the optimizer step, only for "dapo"; None takes those of this batch.
    """
    total = losses.sum()
    if kind == "grpo":
        sums = losses.new_zeros(num_answers).index_add(0, rows, losses)
        return (sums / rows.bincount(minlength=num_answers).clamp(min=1)).mean()
    if kind == "dr_grpo":
        return total / (num_answers * max_length)
    if kind not in LOSSES:
        raise ConfigError(f"loss: there is no {kind!r}; {name_choices(kind, LOSSES)}")
    return total / max(len(losses), 1) if kind == "bnpo" or num_tokens is None else total / num_tokens


def advantages_and_returns(
    rewards: Float[Tensor, "answers length"],
    values: Float[Tensor, "answers length"],
    mask: Bool[Tensor, "answers length"],
    *,
    discount: float = 1.0,
    decay: float = 0.95,
) -> tuple[Float[Tensor, "answers length"], Float[Tensor, "answers length"]]:
    """Return generalised advantages (GAE) and returns of each token; padding on the right has zeros.

    ``delta_t = r_t + discount V_{t+1} - V_t`` with V = 0 after the end; ``A_t = delta_t + discount decay A_{t+1}``; the return is A + V.

    Args:
        discount: gamma in the paper.
        decay: lambda in the paper.
    """
    rewards, values = rewards * mask, values * mask
    found, after, later = rewards.clone(), values.new_zeros(len(values)), values.new_zeros(len(values))
    for step in reversed(range(values.shape[1])):
        later = rewards[:, step] + discount * after - values[:, step] + discount * decay * later
        found[:, step], after = later, values[:, step]
    return found * mask, (found + values) * mask


def whitened(values: Float[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
    """Return values with mean 0 and variance 1 over the tokens of all processes (unbiased variance)."""
    count = sum_over_ranks(values.new_tensor(float(len(values))))
    centred = values - sum_over_ranks(values.sum()) / count.clamp(min=1)
    variance = sum_over_ranks(centred.square().sum()) / (count - 1).clamp(min=1)
    return centred * (variance + WHITEN_EPS).rsqrt()


def clipped_value_loss(
    values: Float[Tensor, " tokens"], old: Float[Tensor, " tokens"], returns: Float[Tensor, " tokens"], *, clip: float = 0.2
) -> Float[Tensor, " tokens"]:
    """Return ``max((V - R)^2, (clip(V, V_old - clip, V_old + clip) - R)^2) / 2`` of each token."""
    near = old + (values - old).clamp(-clip, clip)
    return (values - returns).square().maximum((near - returns).square()) / 2


def adapted_beta(beta: float, kl: float, *, target: float, horizon: float, answers: int) -> float:
    """Return the next weight of the KL penalty (Ziegler et al. 2019, arXiv 1909.08593, section 2.2).

    A KL of 9 with target 6 exceeds the target by half, which is cut to 0.2: 0.2 becomes 0.2 * (1 + 0.2 * 256 / 10000) = 0.201024.

    Args:
        kl: mean over the answers of the sum over their tokens of log policy - log reference.
        answers: number of answers since the last change.
    """
    return beta * (1 + min(max(kl / target - 1, -0.2), 0.2) * answers / horizon)
