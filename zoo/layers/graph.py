"""Graphs of image patches: nearest neighbours, and updates of nodes from their neighbours.

Nodes are tokens [B, N, dim]; candidates are the tokens that may become neighbours [B, M, dim].
"""

from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from zoo.errors import ConfigError
from zoo.layers.conv_bn import NormedLinear, folded
from zoo.layers.recorded import is_exported, is_recorded


@torch.no_grad()
def nearest_neighbours(
    tokens: Float[Tensor, "batch nodes dim"],
    candidates: Float[Tensor, "batch candidates dim"],
    *,
    num_neighbors: int,
    dilation: int = 1,
    offset: Float[Tensor, "nodes candidates"] | None = None,
) -> tuple[Int[Tensor, "batch nodes neighbors"], Float[Tensor, "batch nodes neighbors"]]:
    """Return the indices of the candidates nearest to each node, nearest first, and their squared distances between unit vectors.

    Of the ``num_neighbors * dilation`` nearest candidates, every ``dilation``-th is kept: dilation 2 of the ranking ``a b c d`` gives
    ``a c``. If there are fewer candidates, the dilation is reduced, then the number of neighbours. The result has no gradient.
    Source: Han et al. 2022 (arXiv 2206.00272), section 3.1; dilation: Li et al. 2019 (arXiv 1904.03751), section 3.3.

    Args:
        tokens: the nodes.
        candidates: the tokens that may become neighbours.
        num_neighbors: neighbours per node.
        dilation: step in the ranking of candidates.
        offset: added to the distances before the ranking (relative positions).
    """
    x, y = F.normalize(tokens, dim=-1), F.normalize(candidates, dim=-1)
    length = y.square().sum(-1).unsqueeze(1)  # [B, 1, M]; 1, or 0 for a vector of zeros
    base = length if offset is None else length + offset.to(y.dtype)
    # |x - y|^2 without |x|^2, which is equal for all candidates of a node
    distances = torch.baddbmm(base.expand(x.shape[0], x.shape[1], -1), x, y.transpose(1, 2), alpha=-2)  # [B, N, M]
    num_neighbors = min(num_neighbors, y.shape[1])
    dilation = max(1, min(dilation, y.shape[1] // num_neighbors))
    nearest, index = distances.topk(num_neighbors * dilation, largest=False)
    nearest = nearest + x.square().sum(-1, keepdim=True)
    return index[..., ::dilation], nearest[..., ::dilation]


def max_over_neighbours(
    candidates: Float[Tensor, "batch candidates dim"], index: Int[Tensor, "batch nodes neighbors"]
) -> Float[Tensor, "batch nodes dim"]:
    """Return the channel-wise maximum over each node's neighbours; the gradient goes to the first neighbour that has the maximum.

    A plain gather would need a tensor ``neighbors`` times as large as the tokens. Here a running maximum reads one neighbour at a time.
    """
    batch, num_candidates, dim = candidates.shape
    first = torch.arange(batch, device=index.device).view(-1, 1, 1) * num_candidates
    flat = (index + first).flatten(0, 1)  # [B * N, neighbors], rows of the whole batch
    if is_exported():
        rows = candidates.reshape(-1, dim)
        return reduce(torch.maximum, [rows.index_select(0, column) for column in flat.unbind(1)]).unflatten(0, (batch, -1))
    best = _RunningMaximum.apply(candidates.reshape(-1, dim), flat)
    return best.unflatten(0, (batch, -1))  # [B, N, dim]


class _RunningMaximum(torch.autograd.Function):
    """Maximum over indexed rows; for backward it stores the number of the winning neighbour, in one byte per element."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor) -> Tensor:
        columns = index.T.contiguous()  # [neighbors, nodes]
        best = rows.index_select(0, columns[0])
        learning = ctx.needs_input_grad[0]
        winner = torch.zeros_like(best, dtype=torch.uint8 if len(columns) < 256 else torch.int32) if learning else None
        row = torch.empty_like(best)
        for number, column in enumerate(columns[1:], 1):
            torch.index_select(rows, 0, column, out=row)
            if winner is not None:  # neighbours come in ascending order, so the largest number that won is the current winner
                torch.maximum(winner, torch.gt(row, best).to(winner.dtype).mul_(number), out=winner)
            torch.maximum(best, row, out=best)
        ctx.save_for_backward(winner, index)
        ctx.num_rows = len(rows)
        return best

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,), (winner, index) = gradients, ctx.saved_tensors
        target = index.gather(1, winner.long())  # [nodes, dim], index of the row that gave each maximum
        return gradient.new_zeros(ctx.num_rows, gradient.shape[1]).scatter_add_(0, target, gradient), None


class MaxRelativeUpdate(NormedLinear):
    """Max-relative update of nodes: a grouped linear layer on a node's channels interleaved with its relative channels, then GELU.

    Source: Han et al. 2022, equations 4 and 5 (``MRConv2d`` of the published code).
    """

    def __init__(self, *, dim: int, groups: int) -> None:
        super().__init__(in_dim=2 * dim, out_dim=2 * dim, groups=groups, activate=True)

    def forward(
        self, x: Float[Tensor, "batch nodes dim"], relative: Float[Tensor, "batch nodes dim"]
    ) -> Float[Tensor, "batch nodes doubled_dim"]:
        """Return the update [B, N, 2 dim] of the interleaved channels x_0, m_0, x_1, m_1, ..."""
        if torch.is_grad_enabled() or self.norm.training or x.is_meta or is_recorded() or torch.is_autocast_enabled(x.device.type):
            return super().forward(torch.stack((x, relative), dim=-1).flatten(2))
        # In inference, two products on strided views of the weight replace the interleaving, which would copy both inputs.
        weight, bias = folded(self.weight, self.bias, self.norm)
        nodes, groups = x.shape[0] * x.shape[1], self.groups
        parts = weight.unflatten(0, (groups, -1)).unflatten(2, (-1, 2))  # [groups, out, in, 2]: own and relative channels
        out = torch.empty(nodes, groups, parts.shape[1], dtype=x.dtype, device=x.device)
        by_group = out.transpose(0, 1)  # [groups, nodes, out]; written in place, so nothing is interleaved or moved
        own, theirs = (t.reshape(nodes, groups, -1).transpose(0, 1) for t in (x, relative))
        torch.bmm(own, parts[..., 0].transpose(1, 2), out=by_group)
        torch.baddbmm(by_group, theirs, parts[..., 1].transpose(1, 2), out=by_group)
        return F.gelu(out.flatten(1).add_(bias)).unflatten(0, x.shape[:2])


def relative_positions_2d(grid: tuple[int, int], *, dim: int, reduction: int = 1) -> Float[Tensor, "nodes candidates"]:
    """Return the similarity 2 P P^T / dim of the 2-D sine-cosine position embeddings P of a grid; the diagonal is 1.

    Half of the ``dim`` channels encode the column and half the row, each as sines, then cosines, with frequencies 10000^(-k / (dim / 4)).
    With ``reduction`` r, the columns of the table are resized bicubically to 1 / r^2 of their number, as if they were one axis of an image,
    although their order is row-major: the published weights were trained so.
    Source: Han et al. 2022, ``gcn_lib/pos_embed.py``; He et al. 2021 (arXiv 2111.06377) for P.

    Args:
        grid: rows and columns of patches.
        dim: channels of the position embeddings.
        reduction: factor by which each side of the candidates' grid is smaller.

    Raises:
        ConfigError: ``dim`` is not a multiple of 4.
    """
    if dim % 4:
        raise ConfigError(f"dims: {dim}; relative positions need a multiple of 4")
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    omega = 10000 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    angles = [axis.flatten()[:, None] * omega for axis in (columns, rows)]  # each [N, dim / 4]
    table = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)  # [N, dim]
    similarity = (2 * table @ table.T / dim).float()  # [N, N]
    if reduction == 1:
        return similarity
    nodes, candidates = len(similarity), (grid[0] // reduction) * (grid[1] // reduction)
    return F.interpolate(similarity[None, None], size=(nodes, candidates), mode="bicubic")[0, 0]
