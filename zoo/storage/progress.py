"""Progress of slow work on files: downloading, hashing, converting, loading. Nothing is shown unless the caller of the work sets a display.

The code that does the work knows how much is done, and only a command knows whether there is a terminal. The display is a context variable
rather than an argument, because loading passes through many functions; a thread starts without one.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TypeVar

Item = TypeVar("Item")
Advance = Callable[[int], None]  # receives the newly completed bytes or items
Display = Callable[[str, int, bool], AbstractContextManager[Advance]]  # of a label, the total, and True if it counts bytes
_display: ContextVar[Display | None] = ContextVar("display", default=None)


@contextmanager
def displayed_by(display: Display) -> Iterator[None]:
    """Show all progress inside the block with ``display``."""
    token = _display.set(display)
    try:
        yield
    finally:
        _display.reset(token)


@contextmanager
def progress(label: str, total: int, *, in_bytes: bool = True) -> Iterator[Advance]:
    """Yield a function that receives the newly completed bytes or items.

    Args:
        label: a verb and its object, such as "load model.safetensors".
        total: number of bytes or items, from which the remaining time is estimated.
        in_bytes: False counts items.
    """
    display = _display.get()
    if display is None:
        yield lambda amount: None
        return
    with display(label, total, in_bytes) as advance:
        yield advance


def is_displayed() -> bool:
    """Return True if progress is shown; counting that costs time is only worth it then."""
    return _display.get() is not None


def counted(items: Collection[Item], label: str) -> Iterator[Item]:
    """Yield the items and count them."""
    with progress(label, len(items), in_bytes=False) as advance:
        for item in items:
            yield item
            advance(1)
