"""Weights in four bits, in groups that share a scale and an offset; activations stay as they are.

Each row of a matrix is cut into groups of 32 weights: ``weight = (step - 8) * scale + offset`` with steps from 0 to 15. Scale and offset
are stored in bfloat16, so that a weight takes five bits. This grid contains that of GGUF's Q4_0 and Q4_1, up to that rounding: weights
that come from such a file keep their steps.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

GROUP = 32  # weights that share a scale and an offset; a multiple of 32 for torch's kernel
MIDDLE, MOST = 8, 15  # step of the offset, and largest step
OUT_BLOCK = 16  # torch's kernel computes so many rows of a matrix together
SHARES = (1.0, 0.95, 0.9, 0.85, 0.8)  # of a group's range that the steps may cover; weights outside take the first or last step
LARGEST_CHUNK = 2**22  # weights that are quantised together, which bounds the memory


def pack_int4(weight: Float[Tensor, "out_dim in_dim"]) -> tuple[Tensor, Tensor]:
    """Return a matrix in four bits, as torch's kernel reads it, and scales and offsets [groups, out, 2]; zeros pad it to whole blocks."""
    out_dim, in_dim = weight.shape
    padded = F.pad(weight.float(), (0, -in_dim % GROUP, 0, -out_dim % OUT_BLOCK))
    rows = max(1, LARGEST_CHUNK // padded.shape[1])
    steps, scales, offsets = (torch.cat(parts) for parts in zip(*map(quantise, padded.split(rows)), strict=True))
    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(steps, 1), torch.stack([scales, offsets], dim=-1).transpose(0, 1).contiguous()


def int4_product(x: Float[Tensor, "rows in_dim"], weight: Tensor, scales: Tensor, out_dim: int) -> Float[Tensor, "rows out_dim"]:
    """Return x W^T in bfloat16, given the two tensors of ``pack_int4``."""
    in_dim = scales.shape[0] * GROUP
    x = x.to(torch.bfloat16)
    if x.shape[1] < in_dim:
        x = F.pad(x, (0, in_dim - x.shape[1]))
    out = torch.ops.aten._weight_int4pack_mm_for_cpu(x.contiguous(), weight, GROUP, scales)
    return out if out.shape[1] == out_dim else out[:, :out_dim]


def from_four_bits(weight: Float[Tensor, "out_dim in_dim"], scales: Tensor) -> Float[Tensor, "out_dim in_dim"]:
    """Return the matrix that ``pack_int4`` stores, in float32, given the original matrix and the scales.

    With many rows, torch's kernel takes twice as long as a float32 product (Zen 3, 320 rows), and this takes a fifth of such a product.
    """
    out_dim, in_dim = weight.shape
    groups = F.pad(weight.float(), (0, -in_dim % GROUP)).unflatten(1, (-1, GROUP))  # [out, groups, 32]
    scale, offset = (table[:, :out_dim].t()[..., None] for table in scales.float().unbind(-1))  # [out, groups, 1]
    return _steps(groups, scale, offset).mul_(scale).add_(offset).flatten(1)[:, :in_dim]


def rounded_to_int4(weight: Float[Tensor, "out_dim in_dim"]) -> Float[Tensor, "out_dim in_dim"]:
    """Return the matrix in float32 that four bits stand for; equal to ``from_four_bits`` with the scales of ``pack_int4``."""
    in_dim = weight.shape[1]
    padded = F.pad(weight.float(), (0, -in_dim % GROUP))
    return torch.cat([_from_steps(*quantise(rows)) for rows in padded.split(max(1, LARGEST_CHUNK // padded.shape[1]))])[:, :in_dim]


def _from_steps(steps: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    groups = (steps - MIDDLE).float().unflatten(1, (-1, GROUP))  # [rows, groups, 32]
    return groups.mul_(scale.float()[..., None]).add_(offset.float()[..., None]).flatten(1)


def quantise(
    weight: Float[Tensor, "rows in_dim"],
) -> tuple[Int[Tensor, "rows in_dim"], Float[Tensor, "rows groups"], Float[Tensor, "rows groups"]]:
    """Return the steps (0 to 15) of a matrix, and the scale and the offset of each group in bfloat16.

    Of several ranges, each group takes that of the smallest squared error; then a line is fitted to its steps, and taken if it is better.
    """
    groups = weight.unflatten(1, (-1, GROUP))  # [rows, groups, 32]
    low, high = groups.aminmax(dim=-1)
    best: tuple[Tensor, ...] | None = None
    for share in SHARES:
        scale = (high - low) * (share / MOST)
        best = _better(best, _rounded(groups, scale, low * share + MIDDLE * scale))
    assert best is not None
    best = _better(best, _rounded(groups, *_fitted(groups, best[1])))
    return best[1].flatten(1), best[2], best[3]


def _rounded(groups: Tensor, scale: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return squared error, steps, scale and offset, where scale and offset are rounded to bfloat16 before the steps are chosen."""
    scale, offset = scale.to(torch.bfloat16), offset.to(torch.bfloat16)
    wide, middle = scale.float()[..., None], offset.float()[..., None]
    steps = _steps(groups, wide, middle)
    error = (steps * wide + middle - groups).square_().sum(-1)
    return error, steps.add_(MIDDLE).int(), scale, offset


def _steps(groups: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Return the steps of weights, from -8 to 7; a constant group has scale 0."""
    return (groups - offset).div_(scale.where(scale != 0, 1.0)).round_().clamp_(-MIDDLE, MOST - MIDDLE)


def _fitted(groups: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale and offset of the least-squares line through the weights of each group, given their steps."""
    places = steps.float() - MIDDLE
    far = places - places.mean(-1, keepdim=True)
    spread = far.square().sum(-1)
    scale = (far * groups).sum(-1) / spread.where(spread > 0, 1.0)
    return scale, groups.mean(-1) - scale * places.mean(-1)


def _better(best: tuple[Tensor, ...] | None, other: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the candidate with the smaller error, chosen for each group."""
    if best is None:
        return other
    wins = other[0] < best[0]
    return tuple(torch.where(wins if new.ndim == wins.ndim else wins[..., None], new, old) for new, old in zip(other, best, strict=True))
