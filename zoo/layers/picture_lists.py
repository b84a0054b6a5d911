"""Pictures as one list of patches, or as a batch if they have one size, for encoders that attend to whole pictures and to windows in them.

The list is ordered so that the patches of a picture follow one another, and those of a window in it too; pictures and windows of equal size
are attended to in one call. With 3 x 5 patches and windows of side 2, a picture's places are listed as::

    0 1 5 6   2 3 7 8   4 9   10 11   12 13   14
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from zoo.layers.decoder import Call, Rotation
from zoo.layers.packing import Group, Layout
from zoo.types import send

HOST = torch.device("cpu")  # named, because the default device may be meta


class PictureList:
    """Order of the patches of several pictures, and the attention patterns over it.

    Args:
        grids: rows and columns of patches of each picture.
        window: side of the windows, in patches; None: there are none.
        device: device of the patches.

    Attributes:
        grids: the same.
        rows: row of each patch of the list; ``columns``: its column.
        mask: True at the real tokens of the padded batch that ``unpack`` returns.
        whole: attention of each patch to its picture.
        windows: attention of each patch to its window; the same as ``whole`` if there are none.
    """

    def __init__(self, grids: Sequence[tuple[int, int]], *, window: int | None, device: torch.device) -> None:
        self.grids = list(grids)
        sizes = [rows * columns for rows, columns in self.grids]
        starts = [sum(sizes[:item]) for item in range(len(sizes))]
        most = max(sizes, default=0)
        order = sorted(range(len(sizes)), key=sizes.__getitem__)
        windows = {grid: list(_windows(*grid, window)) for grid in dict.fromkeys(self.grids)}
        inner = {grid: torch.cat(parts) for grid, parts in windows.items()}  # places in a picture, in the order of the list
        lengths = [len(part) for item in order for part in windows[self.grids[item]]]
        self.whole, self.windows = _layout([sizes[item] for item in order]), _layout(lengths)
        places = [inner[self.grids[item]] for item in order]
        widths = [torch.full_like(each, self.grids[item][1]) for each, item in zip(places, order, strict=True)]
        within, width = _joined(places), _joined(widths)
        self._from = send(_joined([each + starts[item] for each, item in zip(places, order, strict=True)]), device)
        self._to = send(_joined([each + item * most for each, item in zip(places, order, strict=True)]), device)
        self.rows, self.columns = send(within // width, device), send(within % width, device)
        self._shape = (len(sizes), most)
        self.mask: Bool[Tensor, "items most"] = send(
            torch.arange(most, device=HOST)[None] < torch.tensor(sizes, device=HOST)[:, None], device
        )

    def pack(self, x: Float[Tensor, "total dim"]) -> Float[Tensor, "total dim"]:
        """Return patches in the order of the list, given picture by picture and row by row."""
        return x.index_select(0, self._from)

    def unpack(self, x: Float[Tensor, "total dim"]) -> Float[Tensor, "items most dim"]:
        """Return a padded batch of the list, picture by picture and row by row, with zeros at padding."""
        flat = x.new_zeros(self._shape[0] * self._shape[1], x.shape[1])
        return flat.index_copy(0, self._to, x).unflatten(0, self._shape)

    def calls(self, turn: Rotation) -> tuple[Call, Call]:
        """Return the arguments of blocks that attend to whole pictures, and of those that attend to windows."""
        return Call(rotation=turn, layout=self.whole), Call(rotation=turn, layout=self.windows)


class OneGrid:
    """Pictures of one size, as a batch [items, rows * columns, dim]; has the attributes of ``PictureList`` that blocks need.

    Args:
        grid: rows and columns of patches of each picture.
        window: side of the windows, in patches; None: there are none.
        device: device of the patches.
    """

    def __init__(self, grid: tuple[int, int], window: int | None, device: torch.device) -> None:
        (rows, columns), self.grids, self._window = grid, [grid], window
        places = torch.arange(rows * columns, device=device)[None]
        self.rows, self.columns = places // columns, places % columns

    def pack(self, x: Float[Tensor, "total dim"]) -> Float[Tensor, "total dim"]:
        """Return the rows as they are."""
        return x

    def calls(self, turn: Rotation) -> tuple[Call, Call]:
        """Return the arguments of blocks that attend to whole pictures, and of those that attend to windows."""
        number = self.rows.shape[1]
        near = torch.ones(number, number, dtype=torch.bool, device=self.rows.device)
        whole = Call(rotation=turn, allowed=near)
        if self._window is None:
            return whole, whole
        for axis in (self.rows[0] // self._window, self.columns[0] // self._window):
            near = near & (axis[:, None] == axis)
        return whole, Call(rotation=turn, allowed=near)


def _joined(parts: Sequence[Int64[Tensor, " _"]]) -> Int64[Tensor, " total"]:
    return torch.cat([torch.zeros(0, dtype=torch.int64, device=HOST), *parts])


def _windows(rows: int, columns: int, side: int | None) -> Iterator[Int64[Tensor, " _"]]:
    """Yield the places of each window; those at the right and lower edge may be smaller. Windows of equal size follow one another."""
    places = torch.arange(rows * columns, device=HOST).unflatten(0, (rows, columns))
    side = max(rows, columns) if side is None else side
    found = [part.flatten() for band in places.split(side) for part in band.split(side, dim=1)]
    yield from sorted(found, key=len, reverse=True)


def _layout(lengths: Sequence[int]) -> Layout:
    """Return the pattern in which stretches of the list of these lengths are attended to separately."""
    groups = [(length, len(list(same))) for length, same in groupby(lengths)]
    return Layout([Group(rows=count, queries=length, keys=length) for length, count in groups if length])
