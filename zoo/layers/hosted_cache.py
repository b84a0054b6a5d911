"""Caches of transformers' decoders, with the interface of ``zoo.layers.cache.Cache``.

Transformers makes the cache for a config: keys and values, windows of them, or states of linear attention and convolutions.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from zoo.errors import DataError


class HostedCache:
    """Cache of a batch, held by transformers: one for all rows, or one for each row once ``split`` was called.

    Args:
        batch_size: number of rows.
        device: device of the mask.
        make: returns an empty cache of transformers.

    Attributes:
        held: one cache of transformers for all rows, or one per row.
        real: True at the real tokens that were cached [batch, length].
        padded: True if there are others.
    """

    def __init__(self, batch_size: int, device: torch.device, make: Callable[[], Any]) -> None:
        self.make = make
        self.held: list[Any] = [make()]
        self.is_split = False
        self.real = torch.ones(batch_size, 0, dtype=torch.bool, device=device)
        self.padded = False

    @property
    def length(self) -> int:
        """Number of cached tokens per row, including padding."""
        return self.real.shape[1]

    @property
    def batch_size(self) -> int:
        """Number of rows."""
        return self.real.shape[0]

    @property
    def mask(self) -> Bool[Tensor, "batch filled"]:
        """Mask of the cached tokens, True at real ones."""
        return self.real

    def extend(self, count: int, mask: Bool[Tensor, "batch count"] | None) -> Bool[Tensor, "batch filled"] | None:
        """Record ``count`` new tokens per row and return the mask of all keys, or None if all of them are real."""
        new = self.real.new_ones(self.batch_size, count) if mask is None else mask
        self.padded = self.padded or not bool(new.all())
        self.real = torch.cat([self.real, new], dim=1)
        return self.real if self.padded else None

    def split(self) -> "HostedCache":
        """Give each row a cache, for models whose rows must run alone if they are padded."""
        if not self.is_split:
            whole = self.held[0]
            self.held = [_rows_of(whole, torch.tensor([row]), self.length) for row in range(self.batch_size)]
            self.is_split = True
        return self

    def row(self, row: int, length: int) -> "HostedCache":
        """Return the cache of one row after ``split``, without its padding; ``length`` tokens of the row, padding included, are in it."""
        found = HostedCache(1, self.real.device, self.make)
        found.held, found.real = [self.held[row]], self.real.new_ones(1, int(self.real[row, :length].sum()))
        return found

    def select(self, rows: Int[Tensor, " rows"]) -> "HostedCache":
        """Keep these rows in this order, in place."""
        if self.is_split:
            kept = rows.tolist()
            # The first use of a row takes its cache, each further one a copy: caches are changed in place.
            self.held = [self.held[row] if row not in kept[:place] else copy.deepcopy(self.held[row]) for place, row in enumerate(kept)]
        elif self.length:
            select_rows(self.held[0], rows)
        self.real = self.real.index_select(0, rows)
        return self

    def crop(self, length: int) -> "HostedCache":
        """Keep the first ``length`` tokens of each row, in place; nothing if what went before is not held any more.

        Windows and states of linear attention cannot go back. The cache is then empty, and the caller, who reads ``length``, runs the
        tokens again.

        Raises:
            DataError: the cache holds fewer tokens.
        """
        if not 0 <= length <= self.length:
            raise DataError(f"the cache holds {self.length} tokens per row; it cannot keep the first {length}")
        if length == self.length:
            return self
        removed = self.real[:, length:]
        if self.is_split or not self.held[0].is_croppable or not _crop(self.held[0], removed.shape[1]):
            length, self.held, self.is_split = 0, [self.make()], False
        self.real = self.real[:, :length]
        self.padded = not bool(self.real.all())
        return self

    def reserve(self, length: int) -> "HostedCache":
        """Do nothing: the cache grows as it is filled."""
        return self


def _rows_of(whole: Any, rows: Int[Tensor, " rows"], length: int) -> Any:
    found = copy.deepcopy(whole)
    if length:
        select_rows(found, rows)
    return found


def select_rows(held: Any, rows: Int[Tensor, " rows"]) -> None:
    """Keep these rows of a cache of transformers, in place; ``reorder_cache`` is the one method that every kind of layer has."""
    held.reorder_cache(rows)


def _crop(held: Any, count: int) -> bool:
    """Remove the last tokens of a cache of transformers; False if a window has lost what it would need."""
    try:
        held.crop(-count)
    except RuntimeError:  # transformers' error for a window that is full
        return False
    return True
