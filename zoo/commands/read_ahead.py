"""Read files in threads while the model computes on those before."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")
READERS = 2  # threads; decoders and torch release Python's lock


def read_ahead(
    items: Sequence[Item], read: Callable[[Item], Value], batch_size: int, readers: int = READERS
) -> Iterator[tuple[int, list[Future[Value]]]]:
    """Yield batches of pending reads with the position of their first item; the next batch is read while the caller uses this one.

    Args:
        items: what is read, in order.
        read: function that reads one item, called in a thread; its exception is raised by the future's ``result``.
        batch_size: items per batch.
        readers: number of threads.
    """
    with ThreadPoolExecutor(readers) as pool:
        ahead: deque[tuple[int, list[Future[Value]]]] = deque()
        try:
            for first in range(0, len(items), batch_size):
                ahead.append((first, [pool.submit(read, item) for item in items[first : first + batch_size]]))
                if len(ahead) > 1:
                    yield ahead.popleft()
            yield from ahead
        except GeneratorExit:  # the caller stopped early
            pool.shutdown(wait=False, cancel_futures=True)
            raise
