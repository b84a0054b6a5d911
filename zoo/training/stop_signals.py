"""Signals that stop a training run after its current step."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_signals(request_stop: Callable[[], None]) -> Iterator[None]:
    """Context in which Ctrl-C or a termination signal ends the run after the current step; a second Ctrl-C ends it at once."""

    def handle(number: int, frame: Any) -> None:
        request_stop()
        # The default handler raises KeyboardInterrupt at the second Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
