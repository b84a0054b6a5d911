"""Tiles of one picture, cut by a plan (``zoo.types.tiler``)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from zoo.processors.media.resampling import resample
from zoo.types import Plan


class Tiles(NamedTuple):
    """A picture, cut.

    Attributes:
        pixels: its tiles, in the order in which the encoder gets them.
        size: height and width of the picture as it came, from which its plan is computed again; ``(0, 0)`` if it is one tile as a whole,
            ``(0, frames)`` if the tiles are the frames of a video.
        grid: rows and columns of the tiles, or of the patches of each picture.
        steps: of each picture of a video that was cut into patches, the time steps since the picture before; -1 for the first one. A patch
            of several frames holds them one below the other.
    """

    pixels: UInt8[Tensor, "num_tiles 3 height width"]
    size: Int64[Tensor, "2"]
    grid: Int64[Tensor, "2"]
    steps: tuple[int, ...] = (-1,)


def one_tile(pixels: UInt8[Tensor, "3 height width"]) -> Tiles:
    """Return a picture that is one tile as a whole."""
    return Tiles(pixels[None], torch.tensor([0, 0]), torch.tensor([1, 1]))


def cut_tiles(pixels: UInt8[Tensor, "3 height width"], plan: Plan, interpolation: str) -> UInt8[Tensor, "num_tiles 3 tile_h tile_w"]:
    """Resize a picture by its plan, put it on a black canvas if that is larger, and cut it into tiles row by row."""
    whole = pixels
    for height, width in plan.resized:
        whole = resample(whole, height, width, interpolation)
    if plan.canvas != plan.resized[-1]:
        (top, left), (height, width) = plan.corner, plan.resized[-1]
        canvas = torch.zeros(3, *plan.canvas, dtype=torch.uint8)
        canvas[:, top : top + height, left : left + width] = whole
        whole = canvas
    rows, columns = plan.grid
    tiles = whole.unflatten(2, (columns, -1)).unflatten(1, (rows, -1)).permute(1, 3, 0, 2, 4).flatten(0, 1)  # [tiles, 3, tile_h, tile_w]
    if plan.overview is None:
        return tiles.contiguous()
    shown = resample(pixels if plan.overview_of == "picture" else whole, *plan.tile, interpolation)[None]
    return torch.cat([shown, tiles] if plan.overview == "first" else [tiles, shown])


def joined_frames(pictures: Sequence[UInt8[Tensor, "num_tiles 3 height width"]]) -> UInt8[Tensor, "num_tiles 3 rows width"]:
    """Return patches of several frames, given those of each frame; a frame stands below the one before it."""
    return torch.cat(list(pictures), dim=2)


def equal_frames(patches: Sequence[UInt8[Tensor, "_ 3 _ width"]]) -> list[UInt8[Tensor, "_ 3 rows width"]]:
    """Return patches of stills and videos with equally many frames: a still is repeated."""
    most = max(each.shape[2] for each in patches)
    return [each.repeat(1, 1, most // each.shape[2], 1) for each in patches]
