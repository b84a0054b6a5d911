"""AnyRes: the canvas of a list that fits a picture best, cut into tiles behind a tile that shows the whole picture.

Sources: LLaVA-NeXT (Liu et al. 2024, https://llava-vl.github.io/blog/2024-01-30-llava-next/) and LLaVA-OneVision (Li et al. 2024,
arXiv 2408.03326, figure 3). Reference: transformers ``modeling_llava_next.py`` and ``modeling_llava_onevision.py``.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from zoo.errors import ConfigError, DataError, name_choices
from zoo.layers.connector import refuse_below
from zoo.registry import register
from zoo.types import Plan, Tiler
from zoo.types.tiler import Size

SEVERAL = ("cut", "whole")
NEXT = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))  # canvases of LLaVA-NeXT in rows and columns of tiles, in its order
DIGITS = 7  # decimals to which the reference rounds a side before it cuts it to whole places


@register("tiler")
class AnyRes(Tiler):
    """Tiles of the canvas that keeps most of the picture's pixels, after one tile of the whole picture, squashed.

    The picture is scaled to fit the canvas, centred on black. The features of the tiles are laid on the canvas, those of the black
    borders are left out, and a learned vector ends each row.

    Args:
        tile_size: side of a tile, in pixels.
        canvases: rows and columns of tiles of each canvas; of two that fit equally well the first is taken. A number n is all canvases of
            1 to n rows and columns (LLaVA-OneVision: 6). None is LLaVA-NeXT's list.
        most_tiles: features of more tiles than this are shrunk to as many (LLaVA-OneVision: 9); None keeps all.
        several: pictures of a conversation that holds several: "cut" cuts each of them; "whole" makes one tile of each, with one learned
            vector behind its features (LLaVA-OneVision).
        frame_pool: factor by which the features of a video's frames are shrunk along both sides, rounded up (LLaVA-OneVision: 2, so that
            27 x 27 become 14 x 14); one learned vector follows the last frame. None takes frames as pictures.

    Raises:
        ConfigError: there is no canvas, a value is not positive, or ``several`` is unknown.
    """

    needs_newline = True

    def __init__(
        self,
        *,
        tile_size: int,
        canvases: int | Sequence[Sequence[int]] | None = None,
        most_tiles: int | None = None,
        several: str = "cut",
        frame_pool: int | None = None,
    ) -> None:
        for key, value in (("tile_size", tile_size), ("most_tiles", most_tiles), ("frame_pool", frame_pool)):
            refuse_below(key, 1 if value is None else value, 1)
        if several not in SEVERAL:
            raise ConfigError(f"several: there is no {several!r}; {name_choices(several, SEVERAL)}")
        if isinstance(canvases, int):
            refuse_below("canvases", canvases, 1)
            canvases = [(rows, columns) for rows in range(1, canvases + 1) for columns in range(1, canvases + 1)]
        grids = NEXT if canvases is None else canvases
        if not grids or any(len(grid) != 2 or min(grid) < 1 for grid in grids):
            raise ConfigError(f"canvases: got {canvases}; give at least one pair of rows and columns, each 1 or more")
        self.tile_size, self.most_tiles, self.frame_pool = tile_size, most_tiles, frame_pool
        self.together, self.takes_frames = several == "whole", frame_pool is not None
        self.canvases: list[Size] = [(rows * tile_size, columns * tile_size) for rows, columns in grids]

    def plan(self, height: int, width: int) -> Plan:
        canvas = max(self.canvases, key=lambda each: _fit((height, width), each))  # the first of equals
        resized = _inside((height, width), canvas)
        corner = ((canvas[0] - resized[0]) // 2, (canvas[1] - resized[1]) // 2)
        grid = (canvas[0] // self.tile_size, canvas[1] // self.tile_size)
        return Plan((height, width), (resized,), canvas, corner, grid, overview="first")

    def count(self, plan: Plan, per_tile: int) -> int:
        if plan.frames is not None:
            return plan.num_tiles * (self._pooled_side(per_tile) ** 2 if plan.frames else per_tile) + 1
        rows, columns = self._shrunk(_kept(plan, _side(per_tile)), per_tile)
        return per_tile + rows * (columns + 1)

    def arrange(
        self, features: Float[Tensor, "num_tiles per_tile dim"], plan: Plan, newline: Float[Tensor, " dim"] | None = None
    ) -> Float[Tensor, "count dim"]:
        assert newline is not None
        if plan.frames is not None:
            whole = self._pooled(features) if plan.frames else features
            return torch.cat([whole.flatten(0, 1), newline.to(whole.dtype)[None]])
        side, (rows, columns) = _side(features.shape[1]), plan.grid
        tiles = features[1:].unflatten(1, (side, side)).unflatten(0, (rows, columns))  # [rows, columns, side, side, dim]
        laid = tiles.transpose(1, 2).flatten(2, 3).flatten(0, 1)  # [rows * side, columns * side, dim]
        kept = _kept(plan, side)
        top, left = (laid.shape[0] - kept[0]) // 2, (laid.shape[1] - kept[1]) // 2
        laid = laid[top : top + kept[0], left : left + kept[1]]
        smaller = self._shrunk(kept, features.shape[1])
        if smaller != kept:
            laid = F.interpolate(laid.permute(2, 0, 1)[None], smaller, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
        ends = newline.to(laid.dtype).expand(len(laid), 1, -1)
        return torch.cat([features[0], torch.cat([laid, ends], dim=1).flatten(0, 1)])

    def _pooled_side(self, per_tile: int) -> int:
        return math.ceil(_side(per_tile) / (self.frame_pool or 1))

    def _pooled(self, features: Float[Tensor, "frames per_tile dim"]) -> Float[Tensor, "frames fewer dim"]:
        """Shrink the grid of features of each frame."""
        side, new = _side(features.shape[1]), self._pooled_side(features.shape[1])
        grids = features.unflatten(1, (side, side)).permute(0, 3, 1, 2)  # [frames, dim, side, side]
        return F.interpolate(grids, (new, new), mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)

    def _shrunk(self, kept: tuple[int, int], per_tile: int) -> tuple[int, int]:
        """Return rows and columns after the features of too many tiles were shrunk."""
        if self.most_tiles is None:
            return kept
        ratio = math.sqrt(kept[0] * kept[1] / (self.most_tiles * per_tile))
        return (max(1, int(kept[0] // ratio)), max(1, int(kept[1] // ratio))) if ratio > 1.1 else kept


def _fit(picture: Size, canvas: Size) -> tuple[int, int]:
    """Return the pixels of the picture that a canvas keeps, and minus the pixels of the canvas that stay empty."""
    scale = min(canvas[1] / picture[1], canvas[0] / picture[0])
    scaled = int(picture[0] * scale) * int(picture[1] * scale)
    kept = min(scaled, picture[0] * picture[1])  # enlarging the picture shows nothing new
    return kept, kept - canvas[0] * canvas[1]


def _inside(picture: Size, canvas: Size) -> Size:
    """Return the largest size of the picture's shape that fits the canvas: one side fills it, the other is rounded up."""
    (height, width), (most_rows, most_columns) = picture, canvas
    across, down = most_columns / width, most_rows / height
    if across < down:
        return min(math.ceil(height * across), most_rows), most_columns
    return most_rows, min(math.ceil(width * down), most_columns)


def _kept(plan: Plan, side: int) -> tuple[int, int]:
    """Return rows and columns of features that show the picture, not a black border."""
    (height, width), rows, columns = plan.picture, plan.grid[0] * side, plan.grid[1] * side
    if width / height > columns / rows:
        new = int(round(height * (columns / width), DIGITS))
        return rows - 2 * ((rows - new) // 2), columns
    new = int(round(width * (rows / height), DIGITS))
    return rows, columns - 2 * ((columns - new) // 2)


def _side(per_tile: int) -> int:
    side = math.isqrt(per_tile)
    if side**2 != per_tile:
        raise DataError(
            f"the connector makes {per_tile} tokens of a tile, which is no square grid that tiles could be joined by; choose connector "
            "mlp, linear or pixel_shuffle, or tiler split or canvas"
        )
    return side
