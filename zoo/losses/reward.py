"""Loss of reward models on ranked answers (Bradley-Terry).

Papers: Ouyang et al. 2022 (InstructGPT, arXiv 2203.02155), eq. 1; Touvron et al. 2023 (Llama 2, arXiv 2307.09288), eq. 2 for the margin;
Eisenstein et al. 2023 (arXiv 2312.09244), eq. 4 for the centring. Reference: TRL 1.16 (``RewardTrainer``).
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def ranking_losses(
    better: Float[Tensor, " pairs"], worse: Float[Tensor, " pairs"], *, margin: float | Float[Tensor, " pairs"] = 0.0
) -> Float[Tensor, " pairs"]:
    """Return ``-log sigmoid(better - worse - margin)`` of each pair of answers to one prompt.

    Args:
        better: scores of the preferred answers.
        worse: scores of the other answers.
        margin: difference of the scores from which on a pair counts as well separated.
    """
    return -F.logsigmoid(better - worse - margin)


def centring_losses(better: Float[Tensor, " pairs"], worse: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
    """Return ``(better + worse)^2`` of each pair, which pulls the scores of a prompt to a mean of 0."""
    return (better + worse).square()
