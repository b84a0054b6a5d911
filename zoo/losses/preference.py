"""Preference losses (DPO, IPO, KTO), as pure functions of the log-probabilities of whole answers.

Papers: Rafailov et al. 2023 (DPO, arXiv 2305.18290), eq. 7, with the label smoothing of Mitchell 2023 ("conservative DPO"); Azar et al.
2023 (IPO, arXiv 2310.12036), eq. 17; Ethayarajh et al. 2024 (KTO, arXiv 2402.01306), eq. 8. Reference: TRL's ``DPOTrainer`` and
``KTOTrainer``.

A log-probability is that of an answer given its prompt, summed over the answer's tokens. A "reward" is the change of it by training:
log-probability under the policy minus that under the reference model. Each function returns one loss per row; the caller takes the mean.

Differences: for IPO, TRL uses the mean over an answer's tokens and the paper the sum; here the caller decides, by the rewards it passes.
"""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from zoo.losses.distributed import sum_over_ranks, world_size


def dpo_loss(
    chosen: Float[Tensor, " pairs"], rejected: Float[Tensor, " pairs"], *, beta: float = 0.1, label_smoothing: float = 0.0
) -> Float[Tensor, " pairs"]:
    """Return ``-log sigmoid(beta (chosen - rejected))`` of each pair.

    Args:
        chosen: rewards of the preferred answers.
        rejected: rewards of the other answers.
        beta: strength of the penalty for moving away from the reference model; larger values stay closer to it.
        label_smoothing: assumed share of pairs whose preference is labelled the wrong way round.
    """
    margin = beta * (chosen - rejected)
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)


def ipo_loss(chosen: Float[Tensor, " pairs"], rejected: Float[Tensor, " pairs"], *, beta: float = 0.1) -> Float[Tensor, " pairs"]:
    """Return ``(chosen - rejected - 1 / (2 beta))^2`` of each pair; unlike in DPO, the margin has a finite optimum, 1 / (2 beta).

    Args:
        chosen: rewards of the preferred answers.
        rejected: rewards of the other answers.
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
    """Return a weight times ``1 - sigmoid(beta (reward - z))`` for desirable answers, ``1 - sigmoid(beta (z - reward))`` for the others.

    Args:
        rewards: rewards of single answers.
        desirable: True at desirable answers.
        reference_point: z, from ``kto_reference_point``; no gradient goes through it.
        beta: strength of the penalty for moving away from the reference model.
        desirable_weight: the paper's lambda_D. With n_D desirable and n_U others, ``lambda_D n_D`` should be 1 to 4/3 times
            ``lambda_U n_U`` (section 4.2).
        undesirable_weight: the paper's lambda_U.
    """
    gain = beta * (rewards - reference_point.detach())
    # Sign: desirable answers should gain reward over z, the others lose it.
    weight = desirable * desirable_weight + ~desirable * undesirable_weight
    return weight * (1 - (desirable * gain - ~desirable * gain).sigmoid())


def kto_reference_point(mismatched: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Return z of the KTO loss: the mean reward of mismatched answers over the batches of all processes, but at least 0.

    It estimates the KL divergence between the policy and the reference model.

    Args:
        mismatched: rewards of answers paired with prompts of other answers.
    """
    return (sum_over_ranks(mismatched.detach().mean()) / world_size()).clamp(min=0)
