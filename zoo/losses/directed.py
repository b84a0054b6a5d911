"""InfoNCE with a scale for each direction, over rows that may be few on one process and many on another, or none at all.

Papers: Wu et al. 2022 (CLAP, arXiv 2211.06687), section 2.2 (two scales); Girdhar et al. 2023 (ImageBind, arXiv 2305.05665), section 3.2
(one loss per pair of modalities, over the items that have both).

Differences from transformers 5.17: the loss of its ``ClapModel`` is the cross entropy over the texts in both terms, because it transposes
``logits_per_audio``; here one term is over the texts and one over the clips, as in the paper.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from zoo.losses.blocks import full_precision
from zoo.losses.distributed import gather_uneven, sum_over_ranks, world_size


def directed_info_nce(
    first: Float[Tensor, "rows dim"],
    second: Float[Tensor, "rows dim"],
    scale_first: Float[Tensor, ""],
    scale_second: Float[Tensor, ""],
    groups: Int[Tensor, " rows"] | None = None,
) -> Float[Tensor, ""]:
    """Return half the mean over all processes of the cross entropies of ``first`` among ``second``, and of ``second`` among ``first``.

    With equal scales and equal rows it is ``info_nce``. Each process computes its own rows against all columns; every process gets the same
    value, and gradients whose mean over the processes is that of the loss. Without any rows the loss is 0, and its gradients are zeros.

    Args:
        first: unit vectors of one modality, of this process's items; zero rows are allowed.
        second: unit vectors of the other modality; row i is the pair of row i of ``first``.
        scale_first: factor on the cosines where ``first`` are the queries.
        scale_second: factor where ``second`` are.
        groups: items of equal groups are positives of each other; None: only pairs are.
    """
    with full_precision(first):
        # The sums of no rows are 0, and connect the loss with every vector and scale that it does not depend on.
        nothing = 0 * (first.sum() + second.sum() + scale_first + scale_second)
        all_first, start = gather_uneven(first)
        all_second, _ = gather_uneven(second)
        if not len(all_first):
            return nothing
        own = _targets(len(first), start, None if groups is None else gather_uneven(groups)[0], len(all_first), first)
        rows = F.cross_entropy(scale_first * first @ all_second.T, own, reduction="sum")
        columns = F.cross_entropy(scale_second * second @ all_first.T, own, reduction="sum")
        share = (rows + columns) / (2 * len(all_first)) + nothing
        value = sum_over_ranks(share.detach().clone())
        return share * world_size() + (value - share.detach() * world_size())  # the value of all ranks, the gradient of this one


def _targets(
    rows: int, start: int, groups: Int[Tensor, " columns"] | None, columns: int, like: Tensor
) -> Int[Tensor, " rows"] | Float[Tensor, "rows columns"]:
    """Return the column of each row's pair, or equal shares of all columns of the row's group."""
    if groups is None:
        return torch.arange(start, start + rows, device=like.device)
    same = (groups[start : start + rows, None] == groups[None]).to(like.dtype)
    return same / same.sum(1, keepdim=True)
