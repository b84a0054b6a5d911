"""A split read for an evaluation, some items at a time; what cannot be used is left out where the data allow that, and counted."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from zoo.data.loader import Split
from zoo.data.skips import Skips
from zoo.errors import DataError
from zoo.types import Sample

Row = tuple[int, Sample]  # its place in the split
T = TypeVar("T")


class Reading:
    """Samples of a split, ``batch_size`` at a time.

    Args:
        limit: only so many, spread over the split; None takes all.
        kinds: only samples of these kinds; None takes all.
        advance: told how many more items are done.

    Attributes:
        items: how many were used so far.
    """

    def __init__(
        self, split: Split, *, limit: int | None, batch_size: int, advance: Callable[[int], None], kinds: Sequence[str] | None = None
    ) -> None:
        self.split, self.limit, self.kinds, self.batch_size, self.advance = split, limit, kinds, batch_size, advance
        share = getattr(split, "max_bad_share", None)
        self.skips, self.items = None if share is None else Skips(share), 0

    def __call__(self, work: Callable[[list[Row]], T]) -> Iterator[T]:
        """What ``work`` makes of some rows after the other.

        Where an item is bad and may be left out, the rest of its rows is done one by one: ``work`` must change nothing before it ends.

        Raises:
            DataError: an item cannot be used, or none is left.
        """
        for rows in self._some():
            yield from self._done(rows, work)
            self.advance(len(rows))
        if not self.items:
            what = "is empty" if self.kinds is None else f"has no item of kind {' or '.join(self.kinds)}"
            if self.skips is not None and self.skips.total:
                what = f"has no item that can be used ({self.skips.reasons()}): {next(iter(self.skips.examples.values()))[0]}"
            raise DataError(f"evaluation: the split {what}; choose another with data.test_split=..., or other evaluation.kinds")

    @property
    def details(self) -> dict[str, Any]:
        """How many items were left out, by reason, with examples; nothing where none was."""
        if self.skips is None or not self.skips.total:
            return {}
        return {"skipped": self.skips.total, "skipped_examples": self.skips.examples}

    def _some(self) -> Iterator[list[Row]]:
        rows: list[Row] = []
        for index in chosen_rows(len(self.split), self.limit):
            try:
                sample = self.split.sample(index)
            except DataError as fault:
                self._leave_out(fault)
                continue
            if self.kinds is None or sample.kind in self.kinds:
                rows.append((index, sample))
            if len(rows) == self.batch_size:
                yield rows
                rows = []
        if rows:
            yield rows

    def _done(self, rows: list[Row], work: Callable[[list[Row]], T]) -> Iterator[T]:
        try:
            found = work(rows)
        except DataError as fault:
            if len(rows) > 1 and self.skips is not None:
                for row in rows:
                    yield from self._done([row], work)
            else:
                self._leave_out(fault)
            return
        self.items += len(rows)
        if self.skips is not None:
            self.skips.add((), len(rows))
        yield found

    def _leave_out(self, fault: DataError) -> None:
        if self.skips is None:
            raise fault
        self.skips.add([fault], 1)


def chosen_rows(length: int, limit: int | None) -> Sequence[int]:
    """All rows, or ``limit`` of them: one drawn from each of as many equal stretches.

    Not every so many-th: kinds of questions often stand in turns, and a limit would then leave one kind only.
    """
    if limit is None or limit >= length:
        return range(length)
    bounds = np.arange(limit + 1) * length // limit
    return np.random.default_rng(limit).integers(bounds[:-1], bounds[1:]).tolist()
