"""Canvas: the grid of tiles whose shape is nearest to the picture's, and a thumbnail behind it (InternVL).

Paper: Chen et al. 2024, "How Far Are We to GPT-4V?" (InternVL 1.5, arXiv 2404.16821), section 3.3. Reference: transformers
``image_processing_got_ocr2.py`` (``get_optimal_tiled_canvas``), which its InternVL uses.
"""

from zoo.layers.connector import refuse_below
from zoo.registry import register
from zoo.types import Plan, Tiler


@register("tiler")
class Canvas(Tiler):
    """Tiles of the picture, squashed to the grid of nearest aspect ratio; the whole picture in one tile follows if there are several.

    Args:
        tile_size: side of a tile, in pixels.
        max_tiles: largest number of tiles, without the thumbnail.
        min_tiles: smallest number of tiles.

    Raises:
        ConfigError: a value is not positive, or ``max_tiles`` is below ``min_tiles``.
    """

    frame_text = "Frame{number}: "

    def __init__(self, *, tile_size: int, max_tiles: int = 12, min_tiles: int = 1) -> None:
        refuse_below("tile_size", tile_size, 1)
        refuse_below("min_tiles", min_tiles, 1)
        refuse_below("max_tiles", max_tiles, min_tiles)
        self.tile_size, self.max_tiles, self.min_tiles = tile_size, max_tiles, min_tiles
        sides = range(1, max_tiles + 1)
        grids = [(rows, columns) for columns in sides for rows in sides if min_tiles <= rows * columns <= max_tiles]
        self.grids = sorted(grids, key=lambda grid: grid[0] * grid[1])

    def plan(self, height: int, width: int) -> Plan:
        best, least = self.grids[0], float("inf")
        for grid in self.grids:
            distance = abs(width / height - grid[1] / grid[0])
            # Of two grids of the same shape the larger is taken if the picture has more than half of its pixels.
            large = height * width > self.tile_size**2 * grid[0] * grid[1] / 2
            if distance < least or (distance == least and large):
                best, least = grid, distance
        canvas = (best[0] * self.tile_size, best[1] * self.tile_size)
        return Plan((height, width), (canvas,), canvas, (0, 0), best, overview=None if best == (1, 1) else "last")
