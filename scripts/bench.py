"""Benchmark zoo against a reference library: equal weights, equal outputs, alternating runs in one process.

    python scripts/bench.py                                   # all benchmarks
    python scripts/bench.py contrastive_loss --rounds 9       # one benchmark, with more rounds

The result is the median over rounds of (seconds of the reference / seconds of zoo): above 1, zoo is faster. On a shared machine the ratio
of two consecutive runs is more reliable than the seconds; the table also shows its minimum and maximum.

Beside the libraries that people would pick instead (OpenVINO, onnxruntime, faster-whisper, llama.cpp, ...; ``zoo install bench``):

    python scripts/bench.py --peers                           # all rows, each in processes of its own
    python scripts/bench.py --peers vit_small jpeg --rounds 3
    python scripts/bench.py --peers --write                   # also write assets/speed.json, the tables of the guide, and the cards
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import update_readme
from benchmarks import audio, clip, data, determinism, images, language, low_precision, peers, speech, speed_table
from benchmarks.comparison import peak_megabytes
from benchmarks.job import Entry
from rich.console import Console
from rich.table import Table

from zoo.errors import ConfigError, ZooError, name_choices
from zoo.storage.files import write_text_atomically

ENTRIES = (
    clip.ENTRIES
    | images.ENTRIES
    | language.ENTRIES
    | data.ENTRIES
    | audio.ENTRIES
    | speech.ENTRIES
    | determinism.ENTRIES
    | low_precision.ENTRIES
)


@dataclass(frozen=True)
class Result:
    """Result of one benchmark; memory is the peak that one call adds to the memory in use before it, in MB."""

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


def measure(name: str, entry: Entry, size: int, rounds: int, console: Console, clock: Callable[[], float] = time.perf_counter) -> Result:
    """Measure one benchmark: warm up, then alternate calls of the reference and of zoo; the order switches every round.

    Args:
        name: of the benchmark.
        entry: the benchmark.
        size: its size.
        rounds: number of rounds.
        console: where progress is printed.
        clock: ``time.perf_counter`` or ``time.process_time``; the latter hardly depends on what else the machine does.
    """
    torch.manual_seed(0)
    job = entry.make(size)
    difference = job.difference()
    memory = []
    for call in (job.peer, job.ours):
        call()  # fills caches
        memory.append(peak_megabytes(call))
    seconds: list[tuple[float, float]] = []
    for number in range(rounds):
        console.print(f"{name}: round {number + 1} of {rounds}", style="dim")
        order = (job.peer, job.ours) if number % 2 == 0 else (job.ours, job.peer)
        first, second = (timed(call, clock) for call in order)
        seconds.append((first, second) if number % 2 == 0 else (second, first))
    peer, ours = zip(*seconds, strict=True)
    ratios = [p / o for p, o in seconds]
    times = (statistics.median(peer), statistics.median(ours), statistics.median(ratios), min(ratios), max(ratios))
    return Result(name, size, entry.peer, rounds, torch.get_num_threads(), *times, difference, *memory)


def timed(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds of one call by a clock."""
    start = clock()
    call()
    return clock() - start


def table(results: list[Result]) -> Table:
    """Return the table of results; pairs of values are reference / zoo."""
    shown = Table("job", "seconds", "ratio", "min - max", "difference", "extra MB")
    for r in results:
        memory = " / ".join("-" if value is None else f"{value:.0f}" for value in (r.peer_megabytes, r.our_megabytes))
        seconds, spread = f"{r.peer_seconds:.3f} / {r.our_seconds:.3f}", f"{r.smallest_ratio:.2f} - {r.largest_ratio:.2f}"
        shown.add_row(f"{r.name} {r.size}\n{r.peer}", seconds, f"x{r.ratio:.2f}", spread, f"{r.difference:.1e}", memory)
    return shown


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line.

    Raises:
        ConfigError: a benchmark is unknown, or a number is below 1.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words = f"{', '.join(ENTRIES)}; with --peers: {', '.join(peers.ROWS)}"
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"benchmarks to run (default: all): {words}")
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each library, at least 1 (default: 7)")
    parser.add_argument("--cpu-seconds", action="store_true", help="time the process on all cores instead of the wall clock")
    parser.add_argument("--threads", type=int, help="number of threads of torch (default: that of torch)")
    parser.add_argument("--size", type=int, help="batch size or number of pairs (default: that of the benchmark)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all results as JSON")
    parser.add_argument("--peers", action="store_true", help="compare with outside libraries, by CPU and wall seconds and by quality")
    parser.add_argument(
        "--allocator", choices=[*peers.ALLOCATORS, "both"], default="both", help="with --peers: malloc's pages (default: both)"
    )
    parser.add_argument(
        "--write", action="store_true", help="with --peers: write assets/speed.json, the tables made from it, and the cards"
    )
    parser.add_argument("--here", action="store_true", help="with --peers: measure one row in this process and print JSON")
    options = parser.parse_args(arguments)
    known = peers.ROWS if options.peers else ENTRIES
    for name in options.names:
        if name not in known:
            raise ConfigError(f"there is no benchmark {name!r}; {name_choices(name, known)}")
    if options.here and len(options.names) != 1:
        raise ConfigError(f"--here measures one row; got {len(options.names)} names")
    for key in ("rounds", "threads", "size"):
        value: Any = getattr(options, key)
        if value is not None and value < 1:
            raise ConfigError(f"--{key}: {value}; allowed is 1 or more")
    return options


def compare(options: argparse.Namespace) -> int:
    """Measure rows beside outside libraries, print their table, and return the exit status; ``--write`` stores each row once it is done.

    Raises:
        ZooError: a row cannot be measured.
    """
    if options.here:
        print(json.dumps(peers.run_here(options.names[0], options.size, options.rounds)))
        return 0
    allocators = list(peers.ALLOCATORS) if options.allocator == "both" else [options.allocator]
    rows = []
    for name in options.names or peers.ROWS:
        rows.append(peers.run_row(name, options.size, options.rounds, options.threads or 1, allocators))
        if options.write:
            stored = speed_table.merged(speed_table.stored_rows(), rows, list(peers.ROWS))
            write_text_atomically(speed_table.speed_file(), json.dumps(stored, indent=1) + "\n")
            update_readme.update()
    print(speed_table.speed_table(rows))
    if options.json:
        write_text_atomically(options.json, json.dumps(rows, indent=1) + "\n")
    return 0


def main(arguments: list[str]) -> int:
    """Run the benchmarks and return the exit status."""
    try:
        options = parse(arguments)
        if options.threads:
            torch.set_num_threads(options.threads)
        if options.peers:
            return compare(options)
        results = []
        for name in options.names or ENTRIES:
            entry = ENTRIES[name]
            clock = time.process_time if options.cpu_seconds else time.perf_counter
            results.append(measure(name, entry, options.size or entry.size, options.rounds, Console(stderr=True), clock))
    except ZooError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    Console().print(table(results))
    if options.json:
        write_text_atomically(options.json, json.dumps([asdict(result) for result in results], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
