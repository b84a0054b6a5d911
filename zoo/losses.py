"""Contrastive losses as pure functions of features of the whole (global) batch."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def pair_targets(groups: Int[Tensor, " batch"]) -> Float[Tensor, "batch batch"]:
    """Share each row's probability evenly among the items of equal group.

    Groups ``[7 3 7]`` give the rows ``[.5 0 .5], [0 1 0], [.5 0 .5]``; with all groups different this is the identity.
    """
    same = (groups[:, None] == groups[None, :]).float()
    return same / same.sum(1, keepdim=True)


def info_nce(
    first: Float[Tensor, "batch dim"],
    second: Float[Tensor, "batch dim"],
    scale: Float[Tensor, ""],
    groups: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of the cross-entropies over rows and over columns of ``scale * first @ second.T``.

    Args:
        first: unit vectors of one modality.
        second: unit vectors of the other; row i belongs to row i.
        groups: items of equal number are positives of each other; None means that only pairs are.

    Source: Radford et al. 2021, figure 3; shared targets as in Yang et al. 2022 (UniCL, arXiv 2204.03610), eq. 3.
    """
    logits = scale * first @ second.T  # [B, B]
    targets = torch.arange(len(first), device=first.device) if groups is None else pair_targets(groups)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def sigmoid_loss(
    first: Float[Tensor, "batch dim"],
    second: Float[Tensor, "batch dim"],
    scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
    groups: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Each of the batch x batch pairs is a yes/no question; summed over pairs, divided by the batch (not its square).

    Source: Zhai et al. 2023 (SigLIP, arXiv 2303.15343), algorithm 1.
    """
    logits = scale * first @ second.T + bias  # [B, B]
    same = torch.eye(len(first), device=first.device) if groups is None else (groups[:, None] == groups[None, :]).float()
    return -F.logsigmoid((2 * same - 1) * logits).sum() / len(first)
