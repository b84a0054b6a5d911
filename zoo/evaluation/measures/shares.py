"""Division of an evaluation's items among processes: each rank reads one part, and every rank gets the results of all parts.

The parts are contiguous and end where a batch ends. Every batch therefore has the items that it has in one process, so that the figures
are the same. (Bad items that are skipped, and ``kinds``, may change the batches at the borders of parts, which changes results by
rounding only.) Nothing is divided outside of ``divided()``: whoever evaluates on one rank alone must not wait for the others.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from zoo.data.skips import Skips
from zoo.errors import ZooError
from zoo.losses import distributed

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """The processes that divide an evaluation among them.

    Attributes:
        gather: function from this rank's object to the objects of all ranks, in rank order.
    """

    rank: int
    world_size: int
    gather: Callable[[Any], list[Any]]


ALONE = Ranks(0, 1, lambda own: [own])
_ranks: ContextVar[Ranks] = ContextVar("ranks", default=ALONE)


@contextmanager
def divided(ranks: Ranks | None = None) -> Iterator[None]:
    """Context in which evaluations divide their items; every rank must run the same evaluation in it.

    Args:
        ranks: None takes those of the process group.
    """
    token = _ranks.set(Ranks(distributed.rank(), distributed.world_size(), distributed.gather_objects) if ranks is None else ranks)
    try:
        yield
    finally:
        _ranks.reset(token)


def set_ranks(ranks: Ranks) -> None:
    """Change the ranks inside of ``divided()``, which restores those of outside at its end."""
    _ranks.set(ranks)


def is_divided() -> bool:
    """True if the items are divided among several ranks."""
    return _ranks.get().world_size > 1


def own_part(count: int, batch_size: int) -> slice:
    """Return the positions of this rank's items among ``count``, in whole batches.

    With 10 items in batches of 2, three ranks get the positions 0 to 1, 2 to 5 and 6 to 9.
    """
    ranks, batches = _ranks.get(), -(-count // batch_size)
    first, last = (batches * rank // ranks.world_size for rank in (ranks.rank, ranks.rank + 1))
    return slice(first * batch_size, min(last * batch_size, count))


def of_all_ranks(work: Callable[[], list[T]], *, skips: Skips | None = None) -> list[T]:
    """Return the results of all ranks, in rank order, on every rank.

    Args:
        work: function that returns the results of this rank's part.
        skips: counter of the bad items of this rank's part; afterwards that of all parts.

    Raises:
        ZooError: of the first rank whose work raised one, on every rank, because the others would otherwise wait for its results.
        DataError: the share of bad items in all parts is too large.
    """
    ranks = _ranks.get()
    if ranks.world_size == 1:
        return work()
    most = 1.0 if skips is None else skips.max_share
    if skips is not None:
        skips.max_share = 1.0  # bad items may crowd in one part; their share is that of all parts
    found, fault = [], None
    try:
        found = work()
    except ZooError as error:
        fault = error
    everyone = ranks.gather((found, fault, None if skips is None else skips.state()))
    for _, error, _ in everyone:
        if error is not None:
            raise error
    if skips is not None:
        skips.restore(*(state for _, _, state in everyone)).max_share = most
        skips.add((), 0)  # raises DataError if the share is too large
    return [result for results, _, _ in everyone for result in results]
