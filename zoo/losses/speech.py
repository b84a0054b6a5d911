"""Losses of speech synthesis, as pure functions: means over real frames, so that padding changes nothing.

Papers: Wang et al. 2017 (arXiv 1703.10135); Shen et al. 2017 (arXiv 1712.05884), section 2.2; Tachibana et al. 2017 (arXiv 1710.08969),
section 4.1, for guided attention.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from zoo.errors import ConfigError, name_choices
from zoo.losses.distributed import share_of_mean

DISTANCES = ("mse", "l1")


def frame_loss(
    found: Float[Tensor, "batch bins frames"],
    target: Float[Tensor, "batch bins frames"],
    mask: Bool[Tensor, "batch frames"] | None,
    *,
    distance: str = "mse",
) -> Float[Tensor, ""]:
    """Return the mean distance over the bins of real frames.

    Args:
        found: predicted frames.
        target: true frames.
        mask: True at real frames; None if no frame is padding.
        distance: "mse", the squared difference; "l1", the absolute difference.

    Raises:
        ConfigError: ``distance`` is unknown.
    """
    if distance not in DISTANCES:
        raise ConfigError(f"distance: there is no {distance!r}; {name_choices(distance, DISTANCES)}")
    difference = found.float() - target.float()
    each = (difference.square() if distance == "mse" else difference.abs()).mean(1)  # [B, frames]
    return masked_mean(each, mask)


def stop_loss(logits: Float[Tensor, "batch steps"], mask: Bool[Tensor, "batch steps"], *, weight: float = 1.0) -> Float[Tensor, ""]:
    """Return the mean binary cross entropy of "this step is the last", over the real steps.

    Args:
        logits: of the stop token, per decoder step.
        mask: True at real steps; in T T T F the third step is the last.
        weight: weight of the last step; the others have weight 1. Only about one step in a hundred is positive.
    """
    last = last_steps(mask).to(logits.dtype)
    each = F.binary_cross_entropy_with_logits(logits.float(), last.float(), weight=1 + (weight - 1) * last.float(), reduction="none")
    return masked_mean(each, mask)


def last_steps(mask: Bool[Tensor, "batch steps"]) -> Bool[Tensor, "batch steps"]:
    """Return a mask of the last real step of each row: T T T F -> F F T F."""
    return mask & ~F.pad(mask[:, 1:], (0, 1))


def guided_attention_loss(
    alignments: Float[Tensor, "batch steps length"],
    steps_mask: Bool[Tensor, "batch steps"],
    text_mask: Bool[Tensor, "batch length"],
    *,
    width: float = 0.2,
) -> Float[Tensor, ""]:
    """Return the mean over steps of the attention off the diagonal: ``sum over n of a (1 - exp(-(n/N - t/T)^2 / (2 width^2)))``.

    Source: Tachibana et al. 2017, equation 4. The paper divides by N and T, this function only by T, so that the weight of the loss does
    not shrink with the length N of a text.

    Args:
        alignments: attention weights of each decoder step over the text.
        steps_mask: True at real decoder steps.
        text_mask: True at real text tokens.
        width: width of the diagonal, as a share of the text's length.
    """
    far = distance_from_diagonal(steps_mask, text_mask)
    penalty = 1 - torch.exp(-far.square() / (2 * width**2))
    each = (alignments.float() * penalty * text_mask[:, None]).sum(-1)  # [B, steps]
    return masked_mean(each, steps_mask)


def distance_from_diagonal(
    steps_mask: Bool[Tensor, "batch steps"], text_mask: Bool[Tensor, "batch length"]
) -> Float[Tensor, "batch steps length"]:
    """Return ``n/N - t/T`` for each text position n and step t, where N and T are the real lengths of each row."""
    device = text_mask.device
    rows = torch.arange(steps_mask.shape[1], device=device) / steps_mask.sum(1, keepdim=True).clamp(min=1)  # [B, steps]
    columns = torch.arange(text_mask.shape[1], device=device) / text_mask.sum(1, keepdim=True).clamp(min=1)  # [B, length]
    return columns[:, None] - rows[:, :, None]


def masked_mean(each: Float[Tensor, "batch places"], mask: Bool[Tensor, "batch places"] | None) -> Float[Tensor, ""]:
    """Return the mean over positions where the mask is True; all positions if the mask is None.

    In training by several processes, the average of their means is the mean over the positions of all (``share_of_mean``).
    """
    if mask is None:
        return share_of_mean(each.mean(), each.numel())
    count = mask.sum()
    return share_of_mean(torch.where(mask, each, 0.0).sum() / count.clamp(min=1), count)
