"""Split: rows and columns of tiles behind each other, each named in the text, and the whole picture last (Idefics3, SmolVLM).

Papers: Laurencon et al. 2024, "Building and better understanding vision-language models" (Idefics3, arXiv 2408.12637), section 3.2;
Marafioti et al. 2025 (SmolVLM, arXiv 2504.05299). Reference: transformers ``image_processing_idefics3.py`` and ``processing_idefics3.py``.
"""

import math

from zoo.layers.connector import refuse_below
from zoo.registry import register
from zoo.types import Plan, Tiler
from zoo.types.tiler import Size


@register("tiler")
class Split(Tiler):
    """Tiles of a picture whose longer side is made ``side_tiles`` tiles long, squashed to whole tiles; then the whole picture in one tile.

    Small pictures are enlarged too. In the text, ``around`` and a tag stand before each tile, a line break after each row.

    Args:
        tile_size: side of a tile, in pixels.
        side_tiles: tiles along the longer side.
        around: symbol before every tile and behind the last.
        row_tag: text behind ``around``, before a tile; ``{row}`` and ``{column}`` are counted from 1.
        whole_tag: the same for the whole picture.

    Raises:
        ConfigError: a value is not positive.
    """

    def __init__(
        self,
        *,
        tile_size: int,
        side_tiles: int = 4,
        around: str = "<fake_token_around_image>",
        row_tag: str = "<row_{row}_col_{column}>",
        whole_tag: str = "<global-img>",
    ) -> None:
        refuse_below("tile_size", tile_size, 1)
        refuse_below("side_tiles", side_tiles, 1)
        self.tile_size, self.side_tiles = tile_size, side_tiles
        self.around, self.row_tag, self.whole_tag = around, row_tag, whole_tag
        self.symbols = (around,)

    def plan(self, height: int, width: int) -> Plan:
        first = _longest((height, width), self.side_tiles * self.tile_size)
        canvas = _whole_tiles(first, self.tile_size)
        grid = (canvas[0] // self.tile_size, canvas[1] // self.tile_size)
        if grid == (1, 1):
            return Plan((height, width), (first, canvas), canvas, (0, 0), grid)
        return Plan((height, width), (first, canvas), canvas, (0, 0), grid, overview="last", overview_of="canvas")

    def written(self, plan: Plan, per_tile: int) -> list[str | int]:
        if plan.overview is None:
            return [self.around + self.whole_tag, per_tile, self.around]
        parts: list[str | int] = []
        for place in range(plan.grid[0] * plan.grid[1]):
            row, column = divmod(place, plan.grid[1])
            line_break = "\n" if row and not column else ""
            parts += [line_break + self.around + self.row_tag.format(row=row + 1, column=column + 1), per_tile]
        return [*parts, "\n\n" + self.around + self.whole_tag, per_tile, self.around]


def _longest(picture: Size, longest: int) -> Size:
    """Return the size whose longer side has so many pixels; the other is rounded down, and up to an even number."""
    height, width = picture
    if width >= height:
        other = int(longest / (width / height))
        return max(other + other % 2, 1), longest
    other = int(longest * (width / height))
    return longest, max(other + other % 2, 1)


def _whole_tiles(size: Size, tile: int) -> Size:
    """Return the next larger size of whole tiles; the shorter side keeps the shape before it is rounded up."""
    height, width = size
    shape = width / height
    if width >= height:
        width = math.ceil(width / tile) * tile
        return math.ceil(int(width / shape) / tile) * tile, width
    height = math.ceil(height / tile) * tile
    return height, math.ceil(int(height * shape) / tile) * tile
