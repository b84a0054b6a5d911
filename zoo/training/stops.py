"""Reasons to end a run before its last step: signals, a time limit, and a watched metric that no longer improves.

A scheduler announces the end of a job with a signal (Slurm: SIGTERM, or the one of ``--signal``; submitit: SIGUSR2). The loop then ends
after its current step, saves a state, and exits with a status that job scripts and schedulers can be told to requeue.
"""

import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from zoo.errors import Interrupted
from zoo.losses.distributed import largest_over_ranks

INTERRUPTED = 130  # exit status after Ctrl-C, as shells report it (128 + SIGINT)
REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: "temporary failure, try again"; the run is saved and not finished
# SIGUSR1 and SIGUSR2 do not exist on Windows.
SIGNALS = [signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if name in signal.Signals.__members__]
TIME_IS_OVER = 1 << 16  # takes the place of a signal's number


class StopRequests:
    """Requests to end a run, from signals and from the clock; every rank learns of them at the same step.

    Args:
        max_seconds: time from now until the run ends itself; None has no limit.
    """

    def __init__(self, max_seconds: float | None = None) -> None:
        self._deadline = math.inf if max_seconds is None else time.monotonic() + max_seconds
        self._signal = 0
        self._before: dict[int, Any] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Context in which the signals of ``SIGNALS`` are requests; a second Ctrl-C ends the process at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may handle signals
            return
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in self._before.items():
                if handler is not None:  # None: set outside of Python, which cannot set it again
                    signal.signal(number, handler)

    def _handle(self, number: int, frame: Any) -> None:
        self._signal = self._signal or number  # the first one says why
        # The default handler raises KeyboardInterrupt at the second Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def agreed(self) -> "Stop | None":
        """Return the reason to stop, on every rank if there is one on any; None to go on.

        Every rank calls this once per step: a rank that stopped alone would leave the others waiting for ever.
        """
        own = self._signal or (TIME_IS_OVER if time.monotonic() >= self._deadline else 0)
        number = largest_over_ranks(own)
        return Stop(number) if number else None

    def end(self, stop: "Stop", step: int, max_steps: int, run_dir: Path) -> NoReturn:
        """Raise Interrupted, once the state is saved; before that, call the handler that stood before ours (submitit's requeues the job)."""
        handler = self._before.get(self._signal)
        if callable(handler) and handler is not signal.default_int_handler:
            handler(self._signal, None)
        raise Interrupted(f"{stop.reason}: stopped at step {step} of {max_steps}; continue with: zoo train resume={run_dir}", stop.status)


@dataclass(frozen=True)
class Stop:
    """Reason to end a run.

    Args:
        number: of the signal, or ``TIME_IS_OVER``.
    """

    number: int

    @property
    def reason(self) -> str:
        """Text for the user."""
        return "training.max_time is over" if self.number == TIME_IS_OVER else signal.Signals(self.number).name

    @property
    def status(self) -> int:
        """Exit status of the process: 130 for Ctrl-C, else 75, with which a job script or scheduler requeues the job."""
        return INTERRUPTED if self.number == signal.SIGINT else REQUEUE


class Patience:
    """Early stopping: counts the evaluations since the watched metric last improved.

    With patience 2, min_delta 0.1 and higher better, the values ``.5 .55 .65 .7 .7`` count 0, 1, 0, 1, 2: the run ends after the fifth.

    Args:
        patience: number of evaluations without improvement after which the run ends; None never ends it.
        min_delta: smallest change that counts as an improvement.
    """

    def __init__(self, patience: int | None, min_delta: float = 0.0) -> None:
        self.patience, self.min_delta = patience, min_delta
        self.best, self.waited = -math.inf, 0

    def observe(self, score: float) -> None:
        """Take over the score of an evaluation; higher is better, and NaN is no improvement."""
        if score > self.best + self.min_delta:
            self.best, self.waited = score, 0
        else:
            self.waited += 1

    @property
    def exhausted(self) -> bool:
        """True if the run should end."""
        return self.patience is not None and self.waited >= self.patience

    def state(self) -> dict[str, float]:
        """Return the values to save with a state."""
        return {"best": self.best, "waited": self.waited}

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Take over saved values; None, of a state of an older version, changes nothing."""
        if state is not None:
            self.best, self.waited = float(state["best"]), int(state["waited"])
