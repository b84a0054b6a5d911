"""Fit: a picture near its own size, both sides whole numbers of merged patches (Qwen2-VL and later).

Paper: Wang et al. 2024, "Qwen2-VL" (arXiv 2409.12191), section 2.1. Reference: transformers ``image_processing_qwen2_vl.py``
(``smart_resize``).
"""

import math

from zoo.errors import DataError
from zoo.layers.connector import refuse_below
from zoo.registry import register
from zoo.types import Plan, Tiler

MOST_ELONGATED = 200  # largest ratio of the sides


@register("tiler")
class Fit(Tiler):
    """Patches of a picture whose sides are rounded to ``merge`` patches, scaled only if it has too few or too many pixels.

    Args:
        patch_size: side of a patch, in pixels.
        merge: patches along each side that become one token of the language model.
        min_pixels: smaller pictures are enlarged to at least this.
        max_pixels: larger pictures are shrunk to at most this.

    Raises:
        ConfigError: a value is not positive, or ``max_pixels`` is below ``min_pixels``.
    """

    cuts = "patches"

    def __init__(self, *, patch_size: int, merge: int = 2, min_pixels: int = 3136, max_pixels: int = 1_003_520) -> None:
        for key, value in (("patch_size", patch_size), ("merge", merge), ("min_pixels", min_pixels)):
            refuse_below(key, value, 1)
        refuse_below("max_pixels", max_pixels, min_pixels)
        self.patch_size, self.merge, self.min_pixels, self.max_pixels = patch_size, merge, min_pixels, max_pixels

    def plan(self, height: int, width: int) -> Plan:
        """Return the cutting of a picture.

        Raises:
            DataError: one side is more than 200 times the other.
        """
        if max(height, width) > MOST_ELONGATED * min(height, width):
            raise DataError(f"a picture has {height} x {width} pixels; tiler fit takes a ratio of the sides of at most {MOST_ELONGATED}")
        step = self.patch_size * self.merge
        rows, columns = round(height / step), round(width / step)  # half to even
        if rows * columns * step**2 > self.max_pixels:
            scale = math.sqrt(height * width / self.max_pixels)
            rows, columns = (max(1, math.floor(side / scale / step)) for side in (height, width))
        elif rows * columns * step**2 < self.min_pixels:
            scale = math.sqrt(self.min_pixels / (height * width))
            rows, columns = (math.ceil(side * scale / step) for side in (height, width))
        size = (rows * step, columns * step)
        return Plan((height, width), (size,), size, (0, 0), (rows * self.merge, columns * self.merge))

    def count(self, plan: Plan, per_tile: int = 1) -> int:
        return plan.num_tiles // self.merge**2 * per_tile
