"""Position embeddings and their resizing."""

import torch.nn.functional as F
from jaxtyping import Float
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
