"""Position embeddings, and resizing of their tables."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def resize_positions(
    table: Float[Tensor, "1 num_tokens dim"], grid: tuple[int, int], new_grid: tuple[int, int], *, antialias: bool = True
) -> Float[Tensor, "1 new_num_tokens dim"]:
    """Resize a table of patch positions (without prefix tokens) to another grid by bicubic interpolation.

    The references differ, with different results: timm and open_clip use antialiasing; of transformers' models (5.17), DINOv2 with
    registers does, CLIP, SigLIP, ViT and DINOv2 without registers do not. All resize to a given size, none by a scale factor.

    Args:
        table: position embeddings of the grid, in row-major order.
        grid: rows and columns of the table.
        new_grid: rows and columns of the result.
        antialias: True low-passes the table when the grid shrinks.
    """
    if grid == new_grid:
        return table
    image = table.float().unflatten(1, grid).permute(0, 3, 1, 2)  # [1, dim, rows, columns]
    image = F.interpolate(image, size=new_grid, mode="bicubic", align_corners=False, antialias=antialias)
    return image.flatten(2).transpose(1, 2).to(table.dtype)  # [1, new_num_tokens, dim]


def sinusoids(positions: Int[Tensor, "*tokens"], dim: int, *, theta: float = 10_000.0) -> Float[Tensor, "*tokens dim"]:
    """Return sinusoidal position embeddings in float32, with wavelengths from 2 pi to 2 pi theta positions.

    The first half of the channels are sines, the second half cosines (the order of tensor2tensor and fairseq); if ``dim`` is odd, the last
    channel is zero. Source: Vaswani et al. 2017, section 3.5.
    """
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=positions.device) * -(math.log(theta) / max(half - 1, 1))
    angles = positions[..., None].float() * steps.exp()
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=-1), (0, dim - 2 * half))
