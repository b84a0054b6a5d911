"""Position embeddings and their resizing."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def resize_positions(
    table: Float[Tensor, "1 num_tokens dim"], grid: tuple[int, int], new_grid: tuple[int, int], *, antialias: bool = True
) -> Float[Tensor, "1 new_num_tokens dim"]:
    """Resize a table of patch positions (no prefix tokens) to another grid, bicubic.

    Origins differ and give different numbers: timm and open_clip antialias, and of transformers' models only DINOv2 with
    registers (5.17: CLIP, SigLIP, ViT and DINOv2 without registers do not). All resize to a size, none by a factor.
    """
    if grid == new_grid:
        return table
    image = table.float().unflatten(1, grid).permute(0, 3, 1, 2)  # [1, dim, rows, columns]
    image = F.interpolate(image, size=new_grid, mode="bicubic", align_corners=False, antialias=antialias)
    return image.flatten(2).transpose(1, 2).to(table.dtype)  # [1, new_num_tokens, dim]


def sinusoids(positions: Int[Tensor, "*tokens"], dim: int, *, theta: float = 10_000.0) -> Float[Tensor, "*tokens dim"]:
    """Sines in the first half of the channels, cosines in the second, of wavelengths from 2 pi up to 2 pi theta positions; float32.

    Source: Vaswani et al. 2017, section 3.5, in the order of tensor2tensor and fairseq; a last odd channel is zero.
    """
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=positions.device) * -(math.log(theta) / max(half - 1, 1))
    angles = positions[..., None].float() * steps.exp()
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=-1), (0, dim - 2 * half))
