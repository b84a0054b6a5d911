"""Order of the items in an epoch: a pure function of seed and epoch, any part of which can be computed directly."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Num

BUCKETS = 20  # batches whose items are sorted by length together


@runtime_checkable
class Order(Protocol):
    """Protocol of an epoch's order, which maps positions to item numbers; a permutation as an array is an order."""

    def __getitem__(self, places: slice, /) -> Int[np.ndarray, " places"]: ...


class WindowedOrder:
    """Order with shards in random order and items shuffled within windows, so that successive reads are near one another.

    With shards of 3, 2 and 2 items, shard order 2, 0, 1 and a window of 4, the items are first ``5 6 0 1 | 2 3 4``; then each window
    is shuffled separately, for example ``0 6 5 1 | 4 2 3``. The memory needed is one window and one number per shard.

    Args:
        sizes: number of items of each shard; items are numbered consecutively through all shards.
        window: number of neighbouring positions that are shuffled together.
    """

    def __init__(self, sizes: Sequence[int] | Int[np.ndarray, " shards"], *, window: int, seed: int, epoch: int) -> None:
        in_place = np.asarray(sizes, dtype=np.int64)
        shards = np.random.default_rng((seed, epoch)).permutation(len(in_place))
        self.window, self.seed = window, (seed, epoch)
        self._ends = np.cumsum(in_place[shards])  # [shards] places
        # What to add to a place to get the item: first item of its shard minus first place of it.
        self._shifts = (np.cumsum(in_place) - in_place)[shards] - (self._ends - in_place[shards])
        self._kept: tuple[int, Int[np.ndarray, " places"]] = (-1, np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, places: slice) -> Int[np.ndarray, " places"]:
        start, stop, _ = places.indices(len(self))
        parts = [np.empty(0, dtype=np.int64)]
        while start < stop:
            first = start - start % self.window
            parts.append(self._items(first)[start - first : stop - first])
            start = first + self.window
        return np.concatenate(parts)

    def _items(self, first: int) -> Int[np.ndarray, " places"]:
        """Return the shuffled items of the window that begins at position ``first``."""
        if self._kept[0] != first:  # the last window is kept, because successive batches lie in the same one
            places = np.arange(first, min(first + self.window, len(self)))
            items = places + self._shifts[np.searchsorted(self._ends, places, side="right")]
            self._kept = first, np.random.default_rng((*self.seed, first)).permutation(items)
        return self._kept[1]


def bucketed(lengths: Num[np.ndarray, " items"], batch_size: int, seed: int, epoch: int) -> Int[np.ndarray, " items"]:
    """Return a permutation in which the items of a batch have nearly equal length.

    Items are shuffled, sorted by length within windows of ``BUCKETS`` batches, and the batches are shuffled. Items that do not fill a
    batch come last, where training drops them.

    Args:
        lengths: length of each item, in any unit.
    """
    generator = np.random.default_rng((seed, epoch))
    items = generator.permutation(len(lengths))
    if batch_size == 1:
        return items
    window = BUCKETS * batch_size
    groups = [items[start : start + window] for start in range(0, len(items), window)]
    ordered = np.concatenate([group[np.argsort(lengths[group], kind="stable")] for group in groups])
    whole = len(ordered) // batch_size * batch_size
    batches = ordered[:whole].reshape(-1, batch_size)
    return np.concatenate([batches[generator.permutation(len(batches))].flatten(), ordered[whole:]])
