"""Commands whose items are shared among several processes: the flow that all of them follow.

``--shard I/N`` does one share. ``--workers N`` starts N processes with ``--shard`` and joins their parts. Without either, a job that has
finished parts is ended in this process and joined.
"""

import sys
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo.commands.display import counting_progress, print_json
from zoo.commands.plain import say
from zoo.commands.worker_options import launcher_options, share_of
from zoo.errors import DataError
from zoo.runs.jobs.launchers import make_launcher
from zoo.runs.jobs.parts import PLAN, Parts
from zoo.runs.jobs.shares import WHOLE, Share
from zoo.runs.jobs.supervise import Tally, leave_if_orphan, supervise
from zoo.storage.lock import alone

Advance = Callable[[int], None]
MOST_ROUNDS = 10  # of workers: an evaluation that reads several splits needs one for each


class SharedJob(ABC):
    """Job of a command whose items can be shared among workers.

    Attributes:
        label: name of the command, for the progress bar.
        num_items: number of all items; None if it is not known before the work.
        scratch: folder of the workers' logs and counts; removed when the job is done.
    """

    label: str
    num_items: int | None
    scratch: Path

    @abstractmethod
    def num_done(self, share: Share = WHOLE) -> int:
        """Return the number of items of a share that are done."""

    @abstractmethod
    def work(self, share: Share, advance: Advance) -> int:
        """Do the missing parts of a share; return the number of items that could not be used. This alone loads a model."""

    @abstractmethod
    def is_done(self) -> bool:
        """Return True if all parts are done."""

    @abstractmethod
    def join(self) -> int | None:
        """Write the result from all parts, show it, remove the parts, and return the exit status; None if more parts turn out missing."""


class ListJob(SharedJob):
    """Job whose result is one JSON object per item.

    Args:
        label: name of the command.
        folder: of the parts.
        job: plain values that identify the job.
        items: names of the items, in order.
        options: of the command line; ``workers`` and ``shard`` are read.
        multiple: a part's length is a multiple of this.
    """

    def __init__(
        self, label: str, folder: Path, job: Mapping[str, Any], items: Sequence[str], options: Namespace, *, multiple: int = 1
    ) -> None:
        share = share_of(options)
        count = options.workers or (1 if share is None else share.count)
        self.label, self.options = label, options
        with written_to(folder):
            self.parts = Parts(folder, {"command": label, **job}, items, workers=count, multiple=multiple)
        self.num_items, self.scratch = self.parts.num_items, folder / "workers"

    def num_done(self, share: Share = WHOLE) -> int:
        """Return the number of items of a share that are done."""
        return self.parts.num_done(share)

    def is_done(self) -> bool:
        """Return True if all parts are done."""
        return not self.parts.missing()

    def work(self, share: Share, advance: Advance) -> int:
        """Do the missing parts of a share; return the number of items that could not be used."""
        todo, failed = self.parts.missing(share), 0
        if not todo:
            return 0
        run = self.open()
        for part in todo:
            leave_if_orphan()
            lines = list(run(self.parts.span(part), advance))
            failed += sum(self.is_fault(line) for line in lines)
            with written_to(self.parts.folder):
                self.parts.write(part, lines)
        return failed

    @abstractmethod
    def open(self) -> Callable[[range, Advance], Iterable[Mapping[str, Any]]]:
        """Load the model; return a function that does the items at the given positions and gives one line per item."""

    @staticmethod
    def is_fault(line: Mapping[str, Any]) -> bool:
        """Return True for the line of an item that could not be used."""
        return line.get("error") is not None


@contextmanager
def written_to(folder: Path) -> Iterator[None]:
    """Turn errors of writing a job's folder (a full disk, no permission) into one line.

    Raises:
        DataError: a file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror or error}); finished parts are kept. Make room or set the folder's mode, then "
            "run the same command again"
        ) from error


def parts_folder(output: Path) -> Path:
    """Return the hidden folder beside an output that holds the parts of its job."""
    return output.with_name(f".{output.name}.parts")


def has_parts(output: Path) -> bool:
    """Return True if a job with this output was begun by several workers and not joined."""
    return (parts_folder(output) / PLAN).is_file()


def run_shared(job: SharedJob, options: Namespace) -> int:
    """Do a share of a job, or all of it with several workers, and return the exit status.

    Raises:
        ConfigError: a worker found a mistake of the user.
        DataError: a worker died again and again, or a part cannot be written.
    """
    share = share_of(options)
    try:
        if share is not None:
            return _do_share(job, share, options)
        with alone(job.scratch.with_name(".job.lock"), f"{job.scratch.parent}: another command runs this job"):
            return _do_and_join(job, options)
    except KeyboardInterrupt:
        say("zoo: stopped; finished parts are kept, and the same command resumes the job", file=sys.stderr)
        return 130


def _do_and_join(job: SharedJob, options: Namespace) -> int:
    for _ in range(MOST_ROUNDS):
        if not job.is_done():
            _do_all(job, options)
        if not job.is_done():
            raise DataError(
                f"{job.scratch}: the workers have ended, but parts are missing; the folder of the output must be shared by all of them"
            )
        if (status := job.join()) is not None:
            return status
    raise DataError(f"{job.scratch}: after {MOST_ROUNDS} rounds of workers, parts are still missing; delete the folder to start over")


def _do_all(job: SharedJob, options: Namespace) -> None:
    """Do the missing parts, with the workers of the options or in this process."""
    with counting_progress(job.label, job.num_items, as_json=options.json) as advance:
        if options.workers is None:
            advance(job.num_done())
            job.work(WHOLE, advance)
            return
        launcher = make_launcher(options.launcher or "local", launcher_options(options), options.workers)
        supervise(launcher, options.arguments, options.workers, job.scratch, job.num_done, advance)


def _do_share(job: SharedJob, share: Share, options: Namespace) -> int:
    tally = Tally(job.scratch, share.index, job.num_done(share))
    with counting_progress(f"{job.label} {share}", None, as_json=options.json) as advance:

        def both(items: int) -> None:
            tally(items)
            advance(items)

        failed = job.work(share, both)
    done = job.num_done()
    if options.json:
        print_json({"shard": str(share), "failed": failed, "done": done, "items": job.num_items})
    else:
        then = "the same command without --shard joins them" if job.is_done() else "the other shares are missing"
        total = "" if job.num_items is None else f" of {job.num_items}"
        say(f"share {share} is done; {done}{total} items of the job are: {then}")
    return 1 if failed else 0
