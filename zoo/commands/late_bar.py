"""Progress bar of work below the commands (downloads, hashes, converters, weights); it appears if the work takes longer than a second."""

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from zoo.storage.outside import printable
from zoo.storage.progress import Advance, displayed_by

PATIENCE = 1.0  # seconds without a bar: most work is done by then, and a bar that flashes tells nothing


def late_bars(*, quiet: bool = False) -> AbstractContextManager[None]:
    """Show the progress of slow work inside the block on standard error, if that is a terminal.

    Args:
        quiet: show nothing, as with ``--json``.
    """
    return nullcontext() if quiet or not sys.stderr.isatty() else displayed_by(_late_bar)


@contextmanager
def _late_bar(label: str, total: int, in_bytes: bool) -> Iterator[Advance]:
    bar, started, done = None, time.monotonic(), 0

    def advance(amount: int) -> None:
        nonlocal bar, done
        done += amount
        if bar is None and time.monotonic() - started > PATIENCE and done < total:
            bar = _started_bar(label, total, in_bytes)
        if bar is not None:
            bar.update(bar.task_ids[0], completed=done)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.stop()


def _started_bar(label: str, total: int, in_bytes: bool) -> Any:
    """Start a bar that disappears when it is stopped."""
    from rich.console import Console  # slow to import, and most commands need no bar
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    count = DownloadColumn() if in_bytes else MofNCompleteColumn()
    name = TextColumn("{task.description}", markup=False)  # it may hold the name of a file
    bar = Progress(name, BarColumn(), count, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True)
    bar.add_task(printable(label), total=total)
    bar.start()
    return bar
