"""Parts of a comparison with outside libraries, and its measurement: ``Candidate``, ``Comparison``, ``Row``, ``measure``.

A row is one job, done by several libraries in several precisions. All of them run in one process and take turns; the order turns around in
every second round. The first candidate that is installed is the reference of the row: its CPU seconds are divided by those of each other.
"""

import ctypes
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from benchmarks.job import Entry
from torch import Tensor

from zoo.errors import ConfigError

NOTE_FUSED = "fused AdamW"


@dataclass(frozen=True)
class Candidate:
    """One way to do a job.

    Attributes:
        library: whose code runs, with options that matter.
        precision: of its products.
        run: does the job once.
        quality: does the job once, untimed, and returns the figure of the row's quality column; None if the library does not tell it.
        optimizer: of a training step.
        in_child: the job runs in a process of its own, whose memory is not measured.
    """

    library: str
    precision: str
    run: Callable[[], Any]
    quality: Callable[[], float] | None = None
    optimizer: str = ""
    in_child: bool = False


Make = Callable[[], Candidate]


@dataclass(frozen=True)
class Row:
    """One job of the table.

    Attributes:
        title: the job; ``{size}`` stands for the size.
        make: returns functions that build the candidates, each of which raises ConfigError if its library is missing.
        size: batch size, number of texts, or seconds of sound.
        measure: name of the quality column, for example "cosine to fp32".
        shown: format of a quality figure.
        tolerance: largest difference between the quality of the reference and that of zoo in the same precision.
        card: family, or a row of it, whose card records zoo beside the reference in equal precision.
        rounds: largest number of timed rounds; slow jobs have few.
    """

    title: str
    make: Callable[[int], Sequence[Make]]
    size: int
    measure: str
    shown: str = "{:.4f}"
    tolerance: float = 1e-4
    card: str | None = None
    rounds: int = 5


@dataclass
class Measured:
    """Figures of one candidate; seconds are medians over rounds, ratios are those of CPU seconds in the same round."""

    library: str
    precision: str
    optimizer: str
    quality: float | None
    megabytes: float | None
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    ratio: float = 1.0
    smallest_ratio: float = 1.0
    largest_ratio: float = 1.0
    times: list[tuple[float, float]] = field(default_factory=list, repr=False)


def build(row: Row, size: int) -> tuple[list[Candidate], list[str]]:
    """Return the candidates that are installed, and a sentence for each of the others.

    Raises:
        ConfigError: none is installed.
    """
    torch.manual_seed(0)
    found, left_out = [], []
    for make in row.make(size):
        try:
            found.append(make())
        except ConfigError as error:
            left_out.append(str(error))
    if not found:
        raise ConfigError("; ".join(left_out))
    return found, left_out


def measure(candidates: Sequence[Candidate], rounds: int, say: Callable[[str], None] = lambda text: None) -> list[Measured]:
    """Measure quality and peak memory of each candidate, then time all of them in turns.

    Args:
        rounds: timed calls of each candidate.
        say: receives a line about the progress.
    """
    results = []
    for each in candidates:
        say(f"{each.library} {each.precision}")
        quality = None if each.quality is None else each.quality()
        results.append(Measured(each.library, each.precision, each.optimizer, quality, None if each.in_child else peak_megabytes(each.run)))
    pairs = list(zip(candidates, results, strict=True))
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for candidate, result in pairs if number % 2 == 0 else reversed(pairs):
            result.times.append(timed(candidate.run))
    reference = [cpu for cpu, _ in results[0].times]
    for result in results:
        ratios = [theirs / cpu for theirs, (cpu, _) in zip(reference, result.times, strict=True)]
        result.cpu_seconds, result.wall_seconds = (statistics.median(each) for each in zip(*result.times, strict=True))
        result.ratio, result.smallest_ratio, result.largest_ratio = statistics.median(ratios), min(ratios), max(ratios)
    return results


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Return the CPU seconds of a call, those of its child processes included, and its wall seconds."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    call()
    return cpu_seconds() - cpu, time.perf_counter() - wall


def cpu_seconds() -> float:
    """Return the CPU seconds of this process with all its threads, and of the child processes that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def peak_megabytes(call: Callable[[], object]) -> float | None:
    """Return the peak resident memory in MB that a call adds; None if unavailable. Call it before, so that caches are filled."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # glibc: release free memory, which would hide allocations of the call
        Path("/proc/self/clear_refs").write_text("5")  # Linux: reset the peak
        before = resident("VmRSS")
        call()
        return (resident("VmHWM") - before) / 1024
    except (OSError, AttributeError):
        return None


def resident(name: str) -> int:
    """Return a field of ``/proc/self/status`` in kB."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))


def cosine(found: Any, expected: Any) -> float:
    """Return the smallest cosine similarity of rows of two matrices [n, dim], as tensors or arrays."""
    return float(torch.cosine_similarity(as_rows(found), as_rows(expected)).min())


def as_rows(found: Any) -> Tensor:
    """Return vectors as float64 rows."""
    return torch.as_tensor(found).double().flatten(1)


def row_of(entry: Entry, title: str, size: int, precision: str = "fp32", *, rounds: int = 3, optimizers: tuple[str, str] = ("", "")) -> Row:
    """Return the row of a benchmark of two libraries; its quality is the difference of their outputs."""

    def make(size: int) -> list[Make]:
        job = entry.make(size)
        return [
            lambda: Candidate(entry.peer, precision, job.peer, optimizer=optimizers[0]),
            lambda: Candidate("zoo", precision, job.ours, job.difference, optimizer=optimizers[1]),
        ]

    return Row(title, make, size, "difference", "{:.0e}", entry.tolerance, entry.system, rounds)
