"""Reading of a split for an evaluation, in batches; bad items are skipped and counted if the data allow it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from zoo.data.skips import Skips
from zoo.errors import DataError
from zoo.evaluation.measures.shares import is_divided, of_all_ranks, own_part
from zoo.types import Sample, Split

Row = tuple[int, Sample]  # index in the split, and the item at it
T = TypeVar("T")


class Reading:
    """Reader of the samples of a split, ``batch_size`` at a time.

    Args:
        limit: maximum number of samples, spread over the split; None reads all.
        kinds: read only samples of these kinds; None reads all.
        advance: progress callback; receives the number of items just finished.

    Attributes:
        skips: counter of skipped items; None if the split does not allow bad items (it has no ``max_bad_share``).
        items: number of items used so far, on all ranks.
    """

    def __init__(
        self, split: Split, *, limit: int | None, batch_size: int, advance: Callable[[int], None], kinds: Sequence[str] | None = None
    ) -> None:
        self.split, self.limit, self.kinds, self.batch_size, self.advance = split, limit, kinds, batch_size, advance
        share = split.max_bad_share
        self.skips, self.items = None if share is None else Skips(share), 0

    def __call__(self, work: Callable[[list[Row]], T]) -> Iterator[T]:
        """Yield the result of ``work`` for one batch of rows after the other; in ``shares.divided()`` each rank works on a part of them.

        Results of other ranks are pickled: they should hold what the metrics need, and not images or recordings.

        If ``work`` raises DataError for a batch and bad items may be skipped, it runs again on each row of the batch separately.
        ``work`` must therefore have no side effects before it returns.

        Raises:
            DataError: an item is bad and must not be skipped, too many items are bad, or no item is left.
        """
        # The results are only collected if they are exchanged: those of a large split may not fit into memory.
        found = of_all_ranks(lambda: list(self._own(work)), skips=self.skips) if is_divided() else self._own(work)
        for result, used in found:
            self.items += used
            yield result
        if not self.items:
            problem = "is empty" if self.kinds is None else f"has no item of kind {' or '.join(self.kinds)}"
            if self.skips is not None and self.skips.total:
                problem = f"has no item that can be used ({self.skips.reasons()}): {next(iter(self.skips.examples.values()))[0]}"
            raise DataError(f"evaluation: the split {problem}; choose another with data.test_split=..., or other evaluation.kinds")

    @property
    def details(self) -> dict[str, Any]:
        """Number of skipped items and examples of them by reason; empty if no item was skipped."""
        if self.skips is None or not self.skips.total:
            return {}
        return {"skipped": self.skips.total, "skipped_examples": self.skips.examples}

    def _own(self, work: Callable[[list[Row]], T]) -> Iterator[tuple[T, int]]:
        """Yield the results of this rank's part, with the number of items in each."""
        for rows in self._some():
            yield from self._done(rows, work)
            self.advance(len(rows))

    def _some(self) -> Iterator[list[Row]]:
        rows: list[Row] = []
        chosen = chosen_rows(len(self.split), self.limit)
        for index in chosen[own_part(len(chosen), self.batch_size)]:
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

    def _done(self, rows: list[Row], work: Callable[[list[Row]], T]) -> Iterator[tuple[T, int]]:
        try:
            found = work(rows)
        except DataError as fault:
            if len(rows) > 1 and self.skips is not None:
                for row in rows:
                    yield from self._done([row], work)
            else:
                self._leave_out(fault)
            return
        if self.skips is not None:
            self.skips.add((), len(rows))
        yield found, len(rows)

    def _leave_out(self, fault: DataError) -> None:
        if self.skips is None:
            raise fault
        self.skips.add([fault], 1)


def chosen_rows(length: int, limit: int | None) -> Sequence[int]:
    """Return the indices of all rows, or of ``limit`` rows: one random row from each of ``limit`` equal stretches of the split.

    The rows are not evenly spaced because kinds of questions often alternate: a fixed step could select one kind only.
    The choice depends on ``length`` and ``limit`` only, so it is the same for every model.
    """
    if limit is None or limit >= length:
        return range(length)
    bounds = np.arange(limit + 1) * length // limit
    return np.random.default_rng(limit).integers(bounds[:-1], bounds[1:]).tolist()
