"""One square tile per picture: what every image encoder of one size takes."""

from zoo.layers.connector import refuse_below
from zoo.registry import register
from zoo.types import Plan, Tiler


@register("tiler")
class Square(Tiler):
    """The whole picture as one square tile; the image processor's ``resize`` says whether it is cropped, squashed or padded.

    Args:
        tile_size: side of the tile, in pixels.
    """

    def __init__(self, *, tile_size: int) -> None:
        refuse_below("tile_size", tile_size, 1)
        self.tile_size = tile_size

    def plan(self, height: int, width: int) -> Plan:
        side = (self.tile_size, self.tile_size)
        return Plan((height, width), (side,), side, (0, 0), (1, 1))
