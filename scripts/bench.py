"""Time a job of a peer against ours: equal weights, equal outputs, taking turns in one process.

    python scripts/bench.py                                   # every entry
    python scripts/bench.py contrastive_loss --rounds 9       # one, with more rounds
    python scripts/bench.py clip_training_step --card         # and write the ratio into the system's card

The figure is the median over rounds of (peer's seconds / our seconds): above 1, ours is faster. Seconds on a busy machine say
little, the ratio of neighbours says more; its smallest and largest value stand beside it.
"""

import argparse
import ctypes
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks import audio, clip, data, images, language, speech
from benchmarks.job import Entry
from rich.console import Console
from rich.table import Table

from zoo.errors import ConfigError, ZooError, name_choices
from zoo.evaluation.results.cards import write_lines
from zoo.storage.files import write_text_atomically

ENTRIES = clip.ENTRIES | images.ENTRIES | language.ENTRIES | data.ENTRIES | audio.ENTRIES | speech.ENTRIES


@dataclass(frozen=True)
class Result:
    """What a benchmark found; memory is the most that one call takes beside what stands before it."""

    name: str
    size: int
    peer: str
    rounds: int
    threads: int
    peer_seconds: float
    our_seconds: float
    ratio: float
    smallest_ratio: float
    largest_ratio: float
    difference: float
    peer_megabytes: float | None
    our_megabytes: float | None


def measure(name: str, entry: Entry, size: int, rounds: int, console: Console) -> Result:
    """Warm up, then let peer and ours take turns; who begins alternates."""
    torch.manual_seed(0)
    job = entry.make(size)
    difference = job.difference()
    memory = [peak_megabytes(call) for call in (job.peer, job.ours)]  # the warm-up
    seconds: list[tuple[float, float]] = []
    for number in range(rounds):
        console.print(f"{name}: round {number + 1} of {rounds}", style="dim")
        order = (job.peer, job.ours) if number % 2 == 0 else (job.ours, job.peer)
        first, second = (timed(call) for call in order)
        seconds.append((first, second) if number % 2 == 0 else (second, first))
    peer, ours = zip(*seconds, strict=True)
    ratios = [p / o for p, o in seconds]
    times = (statistics.median(peer), statistics.median(ours), statistics.median(ratios), min(ratios), max(ratios))
    return Result(name, size, entry.peer, rounds, torch.get_num_threads(), *times, difference, *memory)


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def peak_megabytes(call: Callable[[], object]) -> float | None:
    """The most resident memory that a call adds, after one call that fills caches; None where the system cannot say."""
    call()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # glibc: hand back what is free but kept, which would hide what the call takes
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
        before = resident("VmRSS")
        call()
        return (resident("VmHWM") - before) / 1024
    except (OSError, AttributeError):
        return None


def resident(field: str) -> int:
    """A field of this process's status in kB."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))


def table(results: list[Result]) -> Table:
    """What was found, for people; peer before ours."""
    shown = Table("job", "seconds", "ratio", "min - max", "difference", "extra MB")
    for r in results:
        memory = " / ".join("-" if value is None else f"{value:.0f}" for value in (r.peer_megabytes, r.our_megabytes))
        seconds, spread = f"{r.peer_seconds:.3f} / {r.our_seconds:.3f}", f"{r.smallest_ratio:.2f} - {r.largest_ratio:.2f}"
        shown.add_row(f"{r.name} {r.size}\n{r.peer}", seconds, f"x{r.ratio:.2f}", spread, f"{r.difference:.1e}", memory)
    return shown


def write_card(result: Result, system: str, tolerance: float) -> None:
    """Put the figure into the "speed" line of a system's card; slower, or with other outputs, it reads "failed"."""
    spread = f"{result.smallest_ratio:.2f} to {result.largest_ratio:.2f} in {result.rounds} rounds"
    line = {
        "status": "verified" if result.ratio > 1 and result.difference <= tolerance else "failed",
        "figure": f"{result.name} x{result.ratio:.2f} of {result.peer} ({spread}), difference {result.difference:.0e}",
        "command": f"python scripts/bench.py {result.name} --rounds {result.rounds} --threads {result.threads} --size {result.size}",
    }
    write_lines(system, {"speed": line})


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line; unknown names are refused with near matches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(ENTRIES)}")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side, at least 1 (default 7)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's own)")
    parser.add_argument("--size", type=int, help="batch, or number of pairs (default: the entry's own)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures")
    parser.add_argument("--card", action="store_true", help="write the ratio into the cards of the systems concerned")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in ENTRIES:
            raise ConfigError(f"there is no benchmark {name!r}; {name_choices(name, ENTRIES)}")
    for key in ("rounds", "threads", "size"):
        value: Any = getattr(options, key)
        if value is not None and value < 1:
            raise ConfigError(f"--{key}: {value}; allowed is 1 or more")
    return options


def main(arguments: list[str]) -> int:
    """Run the benchmarks and return the exit status."""
    try:
        options = parse(arguments)
        if options.threads:
            torch.set_num_threads(options.threads)
        results = []
        for name in options.names or ENTRIES:
            entry = ENTRIES[name]
            results.append(measure(name, entry, options.size or entry.size, options.rounds, Console(stderr=True)))
            if options.card and entry.system:
                write_card(results[-1], entry.system, entry.tolerance)
    except ZooError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    Console().print(table(results))
    if options.json:
        write_text_atomically(options.json, json.dumps([asdict(result) for result in results], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
