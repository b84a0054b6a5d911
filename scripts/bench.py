"""Time a job of a peer against ours: equal weights, equal outputs, taking turns in one process.

    python scripts/bench.py                                   # every entry
    python scripts/bench.py contrastive_loss --rounds 9       # one, with more rounds
    python scripts/bench.py clip_training_step --card         # and write the ratio into the system's card

The figure is the median over rounds of (peer's seconds / our seconds): above 1, ours is faster. Seconds on a busy machine say
little, the ratio of neighbours says more; its smallest and largest value stand beside it.
"""

import argparse
import ctypes
import datetime
import json
import math
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from zoo.build import create_model
from zoo.cards import blank_card, cards_directory, read_card
from zoo.checkpoint import load_strictly, write_text_atomically
from zoo.convert import open_clip as open_clip_weights
from zoo.errors import ConfigError, ZooError, name_choices
from zoo.losses import info_nce
from zoo.training.optim import make_optimizer
from zoo.training.settings import TrainingSettings
from zoo.types import Batch


@dataclass
class Job:
    """Two callables that do the same work, and how far their outputs are apart (asked before anything is timed)."""

    peer: Callable[[], object]
    ours: Callable[[], object]
    difference: Callable[[], float]


@dataclass(frozen=True)
class Entry:
    """One benchmark: ``make(size)`` builds the job; ``tolerance`` bounds the outputs' difference."""

    make: Callable[[int], Job]
    size: int
    peer: str
    tolerance: float
    system: str | None = None  # whose card the figure belongs to


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


def need(module: str, package: str) -> ModuleType:
    """Import a peer.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return __import__(module, fromlist=["_"])
    except ImportError as error:
        raise ConfigError(f"the peer {module!r} of this benchmark is not installed; install it with: pip install {package}") from error


def contrastive_loss(size: int) -> Job:
    """Forward and backward of InfoNCE on ``size`` pairs of 512 numbers, gradients for both sides and the temperature."""
    peer = need("open_clip.loss", "open_clip_torch").ClipLoss()
    values = [F.normalize(torch.randn(size, 512), dim=-1) for _ in range(2)] + [torch.tensor(1 / 0.07)]

    def run(loss: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
        given = [value.clone().requires_grad_() for value in values]
        result = loss(*given)
        result.backward()
        return [result.detach(), *(tensor.grad for tensor in given)]

    def difference() -> float:
        return max((a - b).abs().max().item() for a, b in zip(run(peer), run(info_nce), strict=True))

    return Job(lambda: run(peer), lambda: run(info_nce), difference)


WORDS = """a the of on in with and two three man woman dog cat child bicycle table street wooden green bright standing riding
holding near beside behind large small old photograph kitchen beach mountain sitting people playing guitar umbrella""".split()


def captions(count: int) -> list[str]:
    """Captions of 8 to 20 words, as those that people and web pages write."""
    chooser = random.Random(0)
    return [" ".join(chooser.choices(WORDS, k=chooser.randint(8, 20))) for _ in range(count)]


def clip_training_step(size: int) -> Job:
    """A whole step of CLIP ViT-B/32 on ``size`` pairs: forward, loss, backward, AdamW, clamped temperature.

    The peer pads captions to 77 and uses AdamW as its ``main.py`` makes it. Ours pads to the longest caption of the batch,
    as its text processor does, and uses the fused AdamW of its training loop.
    """
    open_clip = need("open_clip", "open_clip_torch")
    model = open_clip.create_model("ViT-B-32-quickgelu").train()
    system = create_model("clip_vit_b32").train()
    load_strictly(system, open_clip_weights.to_zoo(model.state_dict()), origin="open_clip")
    pixels, ids = torch.randn(size, 3, 224, 224), open_clip.get_tokenizer("ViT-B-32-quickgelu")(captions(size))
    batch = Batch({"image": pixels, "text": ids[:, : int(ids.argmax(1).max()) + 1]})  # the end symbol has the largest id
    settings = TrainingSettings(max_steps=1, batch_size=size, learning_rate=1e-6, weight_decay=0.2)
    loss, peer_optimizer, our_optimizer = open_clip.ClipLoss(), open_clip_adamw(model, settings), make_optimizer(system, settings)

    def peer() -> None:
        peer_optimizer.zero_grad()
        loss(*model(pixels, ids)).backward()
        peer_optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))

    def ours() -> None:
        our_optimizer.zero_grad()
        system(batch).loss.backward()
        our_optimizer.step()
        system.head.after_step()

    @torch.no_grad()
    def difference() -> float:
        (image, text, scale), found = model(pixels, ids), system(batch)
        pairs = [(image, found.outputs["image"]), (text, found.outputs["text"]), (loss(image, text, scale), found.loss)]
        return max((a - b).abs().max().item() for a, b in pairs)

    return Job(peer, ours, difference)


def open_clip_adamw(model: torch.nn.Module, settings: TrainingSettings) -> torch.optim.AdamW:
    """The optimizer of open_clip 3.3's ``main.py``: two groups by name and shape, torch's default implementation."""

    def is_gain_or_bias(name: str, parameter: torch.Tensor) -> bool:
        return parameter.ndim < 2 or any(word in name for word in ("bn", "ln", "bias", "logit_scale"))

    named = list(model.named_parameters())
    groups = [
        {"params": [p for name, p in named if is_gain_or_bias(name, p)], "weight_decay": 0.0},
        {"params": [p for name, p in named if not is_gain_or_bias(name, p)], "weight_decay": settings.weight_decay},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=tuple(settings.betas), eps=settings.eps)


ENTRIES = {
    "contrastive_loss": Entry(contrastive_loss, 4096, "open_clip ClipLoss", 5e-6),
    "clip_training_step": Entry(clip_training_step, 16, "open_clip ViT-B/32", 1e-4, "clip_vit_b32"),
}


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
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    card = read_card(system) or blank_card(system)
    spread = f"{result.smallest_ratio:.2f} to {result.largest_ratio:.2f} in {result.rounds} rounds"
    card["capabilities"]["speed"] = {
        "status": "verified" if result.ratio > 1 and result.difference <= tolerance else "failed",
        "figure": f"{result.name} x{result.ratio:.2f} of {result.peer} ({spread}), difference {result.difference:.0e}",
        "command": f"python scripts/bench.py {result.name} --rounds {result.rounds} --threads {result.threads} --size {result.size}",
        "commit": commit,
    }
    card.update(commit=commit, date=datetime.date.today().isoformat())
    cards_directory().mkdir(exist_ok=True)
    write_text_atomically(cards_directory() / f"{system}.json", json.dumps(card, indent=2) + "\n")


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
