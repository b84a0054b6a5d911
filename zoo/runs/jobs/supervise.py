"""Supervision of workers: start them, show their progress, start those again that die, stop all if one finds a user's mistake."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from zoo.errors import ConfigError, DataError
from zoo.runs.jobs.launchers import PARENT, Launcher, Worker, worker_command

ENDED = (0, 1)  # statuses of a worker that did its share; 1: some items could not be used
USERS_FAULT = 2  # status of a mistake that starting again does not mend
MOST_STARTS = 3  # of a worker in a row without a new part
POLL_S = 0.2
TAIL_BYTES = 2000  # of a worker's log, for the message


class Tally:
    """Number of items that a worker has done, in a file that the supervisor reads.

    Args:
        folder: of the files of all workers.
        number: of this worker.
        done: items that its share had before it started.
    """

    def __init__(self, folder: Path, number: int, done: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.done, self.written_s = folder / f"done_{number}", done, 0.0
        self._write()

    def __call__(self, items: int) -> None:
        """Count items that were just done; at most one write per half second."""
        self.done += items
        if time.monotonic() - self.written_s > 0.5:
            self._write()

    def _write(self) -> None:
        fresh = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        fresh.write_text(str(self.done), encoding="ascii")
        fresh.replace(self.path)
        self.written_s = time.monotonic()


def counted(folder: Path) -> int:
    """Return the sum of the counts of all workers."""
    total = 0
    for path in folder.glob("done_*"):
        try:
            total += int(path.read_text(encoding="ascii"))
        except (OSError, ValueError):  # a worker writes it again in half a second
            pass
    return total


def leave_if_orphan() -> None:
    """End this worker if the process that started it has died, so that a stopped job does not go on unseen.

    Raises:
        KeyboardInterrupt: as if the user had stopped this worker.
    """
    parent = os.environ.get(PARENT)
    if parent is not None and os.getppid() != int(parent):
        raise KeyboardInterrupt


def supervise(
    launcher: Launcher,
    arguments: Sequence[str],
    workers: int,
    scratch: Path,
    num_done: Callable[[], int],
    advance: Callable[[int], None],
) -> None:
    """Run the workers of a job until all have done their shares.

    Args:
        launcher: starts a worker.
        arguments: command line of the job after ``zoo``.
        workers: number of shares, and of workers at the same time.
        scratch: folder of logs and counts.
        num_done: returns the number of items in finished parts of the whole job.
        advance: progress callback; receives the number of items just finished.

    Raises:
        ConfigError: a worker ended with a user's mistake; the text is the worker's message.
        DataError: a worker died ``MOST_STARTS`` times without finishing a part in between.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    for path in scratch.glob("done_*"):
        path.unlink()
    shown = num_done()
    advance(shown)
    running: dict[int, Worker] = {}
    starts = dict.fromkeys(range(workers), 0)
    done_at_start = dict.fromkeys(range(workers), shown)
    try:
        for number in range(workers):
            running[number] = _start(launcher, arguments, number, workers, scratch)
        while running:
            time.sleep(POLL_S)
            for number, worker in list(running.items()):
                status = worker.poll()
                if status is None:
                    continue
                del running[number]
                if status in ENDED:
                    continue
                if status == USERS_FAULT:
                    raise ConfigError(_message(scratch, number))
                now = num_done()
                starts[number] = 1 if now > done_at_start[number] else starts[number] + 1
                done_at_start[number] = now
                if starts[number] >= MOST_STARTS:
                    raise DataError(
                        f"worker {number} of {workers} died {MOST_STARTS} times in a row ({_cause(status)}): {_message(scratch, number)}; "
                        f"finished parts are kept; mend the cause (log: {_log(scratch, number)}) and run the same command again"
                    )
                with _log(scratch, number).open("a", encoding="utf-8") as file:
                    file.write(f"zoo: worker {number} ended with {_cause(status)}; it is started again\n")
                running[number] = _start(launcher, arguments, number, workers, scratch)
            found = counted(scratch)
            advance(max(0, found - shown))
            shown = max(shown, found)
        advance(max(0, num_done() - shown))
    finally:
        for worker in running.values():
            worker.stop()
        launcher.close()


def _start(launcher: Launcher, arguments: Sequence[str], number: int, workers: int, scratch: Path) -> Worker:
    return launcher.start(worker_command(arguments, number, workers), number, _log(scratch, number))


def _log(scratch: Path, number: int) -> Path:
    return scratch.absolute() / f"worker_{number}.log"


def _cause(status: int) -> str:
    return f"signal {-status}, perhaps for lack of memory" if status < 0 else f"status {status}"


def _message(scratch: Path, number: int) -> str:
    """Return the last message in a worker's log: the last line that begins with ``zoo:`` and what follows it, else the last line."""
    path = _log(scratch, number)
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace").strip()
    except OSError:
        return "it left no log"
    lines = text.splitlines() or ["it left an empty log"]
    first = max((number for number, line in enumerate(lines) if line.startswith("zoo: ")), default=len(lines) - 1)
    return "\n".join(lines[first:]).removeprefix("zoo: ")
