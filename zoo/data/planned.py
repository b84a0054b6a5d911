"""Base class of datasets whose items are groups that a plan of each epoch makes: packs, and batches by a budget of tokens or patches.

The plan is a pure function of seed and epoch, so that a run can resume within an epoch.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Int

from zoo.data.loader import MOST_REPLACED, Draw, Item, ProcessedSplit
from zoo.data.order import Order
from zoo.data.skips import Skips
from zoo.errors import DataError
from zoo.types import Batch

Group = TypeVar("Group")


class Planned(ABC, Generic[Group]):
    """Dataset of groups of items for training; it replaces ``ProcessedSplit``.

    Args:
        data: split that the groups are made of.
        seed: seed of the run.
    """

    def __init__(self, data: ProcessedSplit, seed: int) -> None:
        self.data, self.seed = data, seed
        self._kept: dict[int, list[Group]] = {}

    @property
    def skips(self) -> Skips | None:
        """Counts of the items that were skipped in training; None if a bad item is an error."""
        return self.data.skips

    @property
    def order(self) -> Callable[[int, int], Order]:
        """Order of the groups: as planned, because ``plan`` has already shuffled them."""
        return lambda seed, epoch: np.arange(len(self))

    def plan(self, epoch: int) -> list[Group]:
        """Return the groups of an epoch."""
        if epoch not in self._kept:
            order = self.data.order
            random = np.random.default_rng((self.seed, epoch)).permutation
            drawn: Any = random(len(self.data)) if order is None else order(self.seed, epoch)[0 : len(self.data)]
            self._kept = {epoch: self._planned(drawn, epoch)}  # keeps one epoch only, to save memory
        return self._kept[epoch]

    def next_usable(
        self, draw: Draw, take: Callable[[Group, int, list[DataError]], list[Any]], noun: str
    ) -> tuple[list[Any], list[DataError]]:
        """Return what ``take`` makes of the group of a draw, or of the next group of which it makes anything, and the errors met.

        Args:
            draw: number of the group, and the seed with the epoch.
            take: returns the usable items of a group of an epoch, and adds the errors of the others.
            noun: items, for messages.

        Raises:
            DataError: too many groups in a row hold nothing usable.
        """
        assert draw.seed is not None
        epoch, faults = draw.seed[1], []
        groups = self.plan(epoch)
        for step in range(min(len(self), MOST_REPLACED)):
            if found := take(groups[(draw.index + step) % len(groups)], epoch, faults):
                return found, faults
        raise DataError(f"data: {len(faults)} {noun} in a row cannot be used; the first error: {faults[0] if faults else 'empty'}")

    @abstractmethod
    def _planned(self, drawn: Int[np.ndarray, " items"], epoch: int) -> list[Group]:
        """Return the groups of an epoch, given its item numbers in random order."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of groups of an epoch."""

    @abstractmethod
    def __getitem__(self, draw: Draw) -> Item:
        """Return the group of a draw."""

    @abstractmethod
    def collate(self, items: Sequence[Item]) -> Batch:
        """Collate the items of all groups to one batch."""

    @abstractmethod
    def report(self) -> dict[str, Any]:
        """Return figures for the log."""
