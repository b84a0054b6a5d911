"""Budget: the largest picture of its own shape that makes no more than a number of patches (SigLIP 2 NaFlex).

Papers: Tschannen et al. 2025, "SigLIP 2" (arXiv 2502.14786), section 2.4; Dehghani et al. 2023, "NaViT" (arXiv 2307.06304). References:
transformers ``image_processing_siglip2.py``, timm ``naflex_transforms.py``.
"""

import math

from zoo.errors import DataError
from zoo.layers.connector import refuse_below
from zoo.registry import register
from zoo.types import Plan, Tiler


@register("tiler")
class Budget(Tiler):
    """Patches of the picture at the largest scale with at most ``max_patches`` of them; both sides are rounded up to whole patches.

    The aspect ratio is bent by less than a patch; small pictures are enlarged.

    Args:
        patch_size: side of a patch, in pixels.
        max_patches: largest number of patches.

    Raises:
        ConfigError: a value is not positive.
    """

    cuts = "patches"
    max_patches: int

    def __init__(self, *, patch_size: int, max_patches: int = 256) -> None:
        refuse_below("patch_size", patch_size, 1)
        refuse_below("max_patches", max_patches, 1)
        self.patch_size, self.max_patches = patch_size, max_patches

    def plan(self, height: int, width: int) -> Plan:
        """Return the cutting of a picture.

        Raises:
            DataError: the picture has no pixels.
        """
        if min(height, width) < 1:
            raise DataError(f"a picture has {height} x {width} pixels; both sides need at least one")
        rows, columns = max(self._grids(height, width), key=lambda grid: grid[0] * grid[1])
        size = (rows * self.patch_size, columns * self.patch_size)
        return Plan((height, width), (size,), size, (0, 0), (rows, columns))

    def _grids(self, height: int, width: int) -> list[tuple[int, int]]:
        """Return the grids within the budget at each scale where rows or columns are whole, which are the largest of their kind."""
        grids = [(1, 1)]
        for side, other in ((height, width), (width, height)):
            for number in range(1, self.max_patches + 1):
                rest = max(1, math.ceil(round(number * other / side, 9)))
                if number * rest > self.max_patches:
                    break
                grids.append((number, rest) if side == height and other == width else (rest, number))
        return grids
