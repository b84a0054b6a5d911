"""Pictures of different sizes as one list of patches: their tokens, position tables and attention pattern.

A list [total, dim] holds the patches of all pictures, picture after picture, each row by row; ``grids`` says how many rows and columns
each picture has. An encoder runs its blocks over it without computing padding::

    pictures = Pictures(grids, prefix=1, device=x.device)
    x = pictures.with_prefix(x, class_token)         # [total, dim] -> the list with one class token per picture
    for block in blocks:
        x = pictures.run(block, x)                   # each picture attends to itself
    tokens, mask = pictures.padded(x), pictures.mask # [items, most, dim], [items, most]

Source: Dehghani et al. 2023 (NaViT, arXiv 2307.06304). Where we differ: pictures are attended to separately, as in
``zoo.layers.packing``, so that none sees another and no mask is needed.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from zoo.errors import DataError
from zoo.layers.packing import Packing, can_pack
from zoo.layers.position import resize_positions
from zoo.types import on_host, send


def refuse_patches(patches: Tensor, grids: Tensor, patch_size: int) -> None:
    """Raise DataError unless a list of patches fits its grids and the size of the patches."""
    width = 3 * patch_size**2
    if grids.ndim != 2 or grids.shape[1] != 2 or grids.is_floating_point():
        raise DataError(f"grids are {grids.dtype} of shape {list(grids.shape)}; allowed are whole numbers [items, 2]: rows and columns")
    if patches.ndim != 2 or patches.shape[1] != width:
        raise DataError(f"patches have shape {list(patches.shape)}; allowed is [total, {width}]: 3 channels of {patch_size} x {patch_size}")
    if grids.is_meta:
        raise DataError("grids are on the meta device and have no values; leave them on the CPU")
    known = on_host(grids)
    if len(known) and int(known.min()) < 1:
        raise DataError(f"grids: the smallest number is {int(known.min())}; a picture has at least one row and one column of patches")
    if int(known.prod(1).sum()) != len(patches):
        raise DataError(
            f"there are {len(patches)} patches, but the grids have {int(known.prod(1).sum())}; give each picture rows x columns"
        )


def grid_positions(
    table: Float[Tensor, "1 num_tokens dim"], grid: tuple[int, int], grids: Int64[Tensor, "items 2"], **resizing: Any
) -> Float[Tensor, "total dim"]:
    """Return the positions of all patches of a list: the table, resized to each picture's grid.

    Args:
        table: position embeddings of the grid, in row-major order, without prefix tokens.
        grid: rows and columns of the table.
        grids: rows and columns of each picture.
        resizing: keywords of ``resize_positions``.
    """
    sizes = [(rows, columns) for rows, columns in on_host(grids).tolist()]
    made = {size: resize_positions(table, grid, size, **resizing)[0] for size in dict.fromkeys(sizes)}
    return torch.cat([made[size] for size in sizes])


class Pictures:
    """Attention pattern of a list of pictures, each with the same number of prefix tokens before its patches.

    Args:
        grids: rows and columns of each picture; at least one picture.
        prefix: number of tokens before the patches of each picture.
        device: of the tokens.
        packed: False computes the padded batch instead of the list; so does a device without values (meta), or a recorded run.

    Attributes:
        mask: True at real tokens of the padded batch [items, most].
    """

    def __init__(self, grids: Int64[Tensor, "items 2"], *, prefix: int, device: torch.device, packed: bool = True) -> None:
        self.prefix = prefix
        counts = on_host(grids).prod(1)
        self._most = prefix + int(counts.max())
        real = torch.arange(self._most, device=counts.device)[None] < (counts + prefix)[:, None]
        self.mask = send(real, device)
        self.packing = Packing(self.mask) if packed and can_pack(self.mask) else None
        # Each token's row in a table of the prefix tokens, then all patches, then one row of zeros
        starts, places = counts.cumsum(0) - counts, torch.arange(self._most, device=counts.device).expand(len(counts), -1)
        source = torch.where(places < prefix, places, starts[:, None] + places)  # patch p of a picture is row prefix + start + p
        source = source.masked_fill(~real, prefix + int(counts.sum()))
        if self.packing is not None:
            source = source.flatten()[on_host(self.packing.index)]
        self._source = send(source, device)

    def with_prefix(
        self, patches: Float[Tensor, "total dim"], prefix: Float[Tensor, "prefix dim"] | None = None
    ) -> Float[Tensor, "... dim"]:
        """Return the tokens that the blocks run over: prefix tokens and patches of each picture, as a list or a padded batch."""
        parts = [patches, patches.new_zeros(1, patches.shape[1])]
        return torch.cat(parts if prefix is None else [prefix, *parts])[self._source]

    def run(self, block: Callable[..., Tensor], x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        """Apply a transformer block, in which each picture attends to itself."""
        return block(x, self.mask) if self.packing is None else block(x, layout=self.packing)

    def padded(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "items most dim"]:
        """Return the tokens of each picture, padded on the right to the longest."""
        return x if self.packing is None else self.packing.unpack(x)
