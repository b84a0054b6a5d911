"""Losses that learn from what people prefer, as pure functions of log-probabilities of whole answers.

Papers: Rafailov et al. 2023 (DPO, arXiv 2305.18290), eq. 7, with the label smoothing of Mitchell 2023 ("conservative DPO"); Azar et al.
2023 (IPO, arXiv 2310.12036), eq. 17; Ethayarajh et al. 2024 (KTO, arXiv 2402.01306), eq. 8. Reference: TRL's ``DPOTrainer`` and
``KTOTrainer``.

A log-probability here is that of an answer given its prompt, summed over the answer's tokens; "reward" is the change that training made to
it, ``policy - reference``. Each function gives one loss for each row; the mean over a batch is the caller's.

Where we differ: TRL's IPO takes the mean over an answer's tokens, the paper the sum; here it is whatever the caller gives.
"""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from zoo.losses.distributed import sum_over_ranks, world_size


def dpo_loss(
    chosen: Float[Tensor, " pairs"], rejected: Float[Tensor, " pairs"], *, beta: float = 0.1, label_smoothing: float = 0.0
) -> Float[Tensor, " pairs"]:
    """``-log sigmoid(beta (chosen - rejected))``.

    Args:
        chosen: rewards of the answers that were preferred.
        rejected: rewards of those that were not.
        beta: how dearly a move away from the reference is bought; large values stay near it.
        label_smoothing: the share of pairs that are believed to be the wrong way round.
    """
    margin = beta * (chosen - rejected)
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)


def ipo_loss(chosen: Float[Tensor, " pairs"], rejected: Float[Tensor, " pairs"], *, beta: float = 0.1) -> Float[Tensor, " pairs"]:
    """``(chosen - rejected - 1 / (2 beta))^2``: the margin is drawn to a number, and not ever further.

    Args:
        beta: the paper's tau.
    """
    return (chosen - rejected - 1 / (2 * beta)) ** 2


def kto_loss(
    rewards: Float[Tensor, " batch"],
    desirable: Bool[Tensor, " batch"],
    reference_point: Float[Tensor, ""],
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Float[Tensor, " batch"]:
    """Weight times ``1 - sigmoid(beta (reward - z))`` for desirable answers, ``1 - sigmoid(beta (z - reward))`` for the others.

    Args:
        reference_point: z of ``kto_reference_point``; no gradient goes through it.
        desirable_weight: the paper's lambda_D. With n_D desirable and n_U others, ``lambda_D n_D`` should be 1 to 4/3 times
            ``lambda_U n_U`` (section 4.2).
        undesirable_weight: the paper's lambda_U.
    """
    gain = beta * (rewards - reference_point.detach())
    weight = desirable * desirable_weight + ~desirable * undesirable_weight
    return weight * (1 - (desirable * gain - ~desirable * gain).sigmoid())


def kto_reference_point(mismatched: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """How far the policy has moved from the reference at all: the mean reward of answers to other prompts, not below 0.

    The mean is over the batches of all processes.

    Args:
        mismatched: rewards of answers to prompts that they do not belong to.
    """
    return (sum_over_ranks(mismatched.detach().mean()) / world_size()).clamp(min=0)
