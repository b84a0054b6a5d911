"""Fuzz harness: damaged and hostile files through the public interface, each in a fork with limits.

    python tests/fuzz/fuzz.py --inputs 5000 --seed 1 --keep fuzz-failures

An input is right if it is read, or refused with a ``ZooError``. Wrong are: any other exception, more than 20 seconds of computing, more
than 4 GB of memory, a crash, a write outside the input's folder, a process that is started, and a socket. Wrong inputs are kept in the
folder ``--keep`` with a note; the same seed makes the same inputs. ``tests/fuzz/test_fuzz.py`` runs 400 inputs.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from inputs import SLOW, TARGETS, warm_up  # noqa: E402
from mutations import mutate  # noqa: E402
from originals import make_originals  # noqa: E402

import zoo  # noqa: E402

SECONDS = 20  # of computing
WAIT_SECONDS = 120  # of waiting, for example for a pipe; other processes on the machine may slow this one down
BYTES = 4 * 2**30
RIGHT, WRONG_ERROR, WRONG_DEED = 0, 3, 4
DEEDS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "socket.connect", "socket.bind", "socket.sendto")


@dataclass
class Outcome:
    """How one input ended."""

    target: str
    status: str
    note: str = ""


def watch(folder: Path) -> None:
    """End the process if it writes outside a folder, starts a process, or uses a socket."""
    allowed = (str(folder), "/dev/null", "/dev/shm", "/proc/self")

    def hook(event: str, arguments: tuple) -> None:
        wrong = event if event in DEEDS else ""
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            mode, flags = arguments[1], arguments[2]
            writes = (isinstance(mode, str) and set(mode) & set("wax+")) or (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR))
            name = os.fsdecode(arguments[0])
            if writes and not os.path.abspath(name).startswith(allowed):
                wrong = f"write to {name}"
        if event in ("os.remove", "os.rename", "os.mkdir", "shutil.rmtree") and not os.path.abspath(os.fsdecode(arguments[0])).startswith(
            allowed
        ):
            wrong = f"{event} of {arguments[0]}"
        if wrong:
            os.write(2, f"DEED {wrong}".encode())
            os._exit(WRONG_DEED)

    sys.addaudithook(hook)


def run_child(target: str, folder: Path, *, intact: bool) -> None:
    """Read one input with limits; never returns."""
    resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    signal.alarm(WAIT_SECONDS)
    os.environ["ZOO_CACHE"] = str(folder / "cache")
    watch(folder)
    try:
        TARGETS[target](folder)
    except zoo.ZooError as error:
        text = str(error)
        os.write(2, text.encode("utf-8", "replace")[:300])
        if intact:
            os._exit(WRONG_ERROR)
        if len(text) > 4000:
            os.write(2, f"message of {len(text)} characters".encode())
            os._exit(WRONG_ERROR)
    except BaseException:
        os.write(2, traceback.format_exc()[-3000:].encode("utf-8", "replace"))
        os._exit(WRONG_ERROR)
    os._exit(RIGHT)


def run_one(target: str, folder: Path, *, intact: bool = False) -> Outcome:
    """Fork, wait, and tell how the input ended."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.dup2(write, 2)
        run_child(target, folder, intact=intact)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        note = pipe.read().decode("utf-8", "replace")
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return Outcome(target, "hang" if number in (signal.SIGALRM, signal.SIGXCPU) else f"signal {number}", note[-3000:])
    kinds = {RIGHT: "right", WRONG_ERROR: "exception", WRONG_DEED: "deed"}
    return Outcome(target, kinds.get(os.WEXITSTATUS(status), f"exit {os.WEXITSTATUS(status)}"), note[-3000:])


def fuzz(inputs: int, seed: int, keep: Path | None = None, only: str = "") -> list[Outcome]:
    """Run a number of inputs, and return the outcome of each."""
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="zoo-fuzz-") as scratch:
        originals = make_originals(Path(scratch, "originals"))
        os.environ["ZOO_CACHE"] = str(Path(scratch, "cache"))
        warm_up(originals)
        names = [name for name in TARGETS if only in name]
        for number in range(inputs):
            draw = random.Random(f"{seed}-{number}")
            target, folder = names[number % len(names)], Path(scratch, "input")
            if target in SLOW and number // len(names) % 20 and not only:
                target = "saved"
            shutil.copytree(originals / target, folder, symlinks=True)
            change = mutate(draw, folder)
            outcome = run_one(target, folder)
            outcomes.append(outcome)
            if outcome.status != "right" and keep is not None:
                place = keep / f"{seed}-{number}-{target}"
                shutil.copytree(folder, place, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.fifo"))
                (place / "NOTE.txt").write_text(
                    f"{target}: {change}\n{outcome.status}\n{outcome.note}\n", encoding="utf-8", errors="replace"
                )
            shutil.rmtree(folder, ignore_errors=True)
    return outcomes


def run_intact(only: str = "") -> list[Outcome]:
    """Run the originals, which must all be read: a target that refuses everything would prove nothing."""
    with tempfile.TemporaryDirectory(prefix="zoo-fuzz-") as scratch:
        originals = make_originals(Path(scratch, "originals"))
        return [run_one(name, originals / name, intact=True) for name in TARGETS if only in name]


def main() -> int:
    """Run the harness from the command line; the status is 1 if an input was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder that receives wrong inputs")
    parser.add_argument("--only", default="", help="only targets whose names hold this text")
    parser.add_argument("--intact", action="store_true", help="run the unchanged originals, which must be read")
    options = parser.parse_args()
    outcomes = run_intact(options.only) if options.intact else fuzz(options.inputs, options.seed, options.keep, options.only)
    counts = Counter((outcome.target, outcome.status) for outcome in outcomes)
    print(json.dumps({f"{target}: {status}": count for (target, status), count in sorted(counts.items())}, indent=1))
    lines = Counter(
        outcome.note.strip().splitlines()[-1][:200] for outcome in outcomes if outcome.status != "right" and outcome.note.strip()
    )
    for line, count in lines.most_common(40):
        print(f"{count:4d}  {line}")
    return int(any(outcome.status != "right" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
