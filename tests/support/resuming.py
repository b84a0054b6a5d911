"""Runs that are killed and resumed, and the comparison with an uninterrupted run."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from safetensors.torch import load_file

from zoo.training.fingerprint import LAYERS, first_difference
from zoo.training.log import read_lines

STEPS = 24
OVERRIDES = [
    f"training.max_steps={STEPS}",
    "training.batch_size=16",
    "training.warmup_steps=4",
    "training.checkpoint_every=5",
    "training.evaluate_every=7",
    "training.log_every=1",
    "training.ema_decay=0.9",
    "training.trace=true",
    "system.encoders.image.drop_path=0.2",  # draws from the random state at every step
]
WITHOUT_IMAGES = [word for word in OVERRIDES if ".image." not in word]


class Started(Protocol):
    """A run of one process or several."""

    def poll(self) -> int | None: ...
    def wait(self, timeout: float = ...) -> int: ...
    def kill(self) -> None: ...


class Launcher(Protocol):
    """Interface of objects that start runs: ``Shell`` or ``Processes``."""

    def start(self, words: list[str], log: Path, processes: int = 1) -> Started: ...


class Command(subprocess.Popen):
    """A command and all that it started."""

    def kill(self) -> None:
        os.killpg(self.pid, signal.SIGKILL)
        self.wait()


class Shell:
    """Starts commands as a user does: by Python's ``-m``, or by torchrun."""

    def start(self, words: list[str], log: Path, processes: int = 1) -> Command:
        python = [sys.executable, "-m"]
        if processes > 1:
            python += ["torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", "0", "--standalone", "-m"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with log.open("w") as file:
            return Command([*python, "zoo.commands.cli", *words], stdout=file, stderr=file, env=environment, start_new_session=True)


def train(launcher: Launcher, words: Sequence[str], log: Path, processes: int = 1) -> None:
    assert launcher.start(["train", *words], log, processes).wait(timeout=400) == 0, log.read_text()[-3000:]


def train_and_kill(launcher: Launcher, words: Sequence[str], run_dir: Path, step: int, log: Path, processes: int = 1) -> None:
    """Start a run, or resume it where no words are given, and kill all its processes when its log reaches a step."""
    words = [*words, f"run_dir={run_dir}"] if words else [f"resume={run_dir}"]
    run = launcher.start(["train", *words], log, processes)
    deadline = time.monotonic() + 300
    while not (lines := read_lines(run_dir / "metrics.jsonl") if (run_dir / "metrics.jsonl").exists() else []) or lines[-1]["step"] < step:
        assert run.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.002)
    run.kill()


def killed_at() -> int:
    """A step after the first state and before the last; another one at each call."""
    return random.SystemRandom().randrange(6, STEPS - 2)


def assert_a_killed_run_is_the_whole_one(
    launcher: Launcher, words: Sequence[str], folder: Path, *steps: int, whole: Path | None = None, processes: int = 1
) -> Path:
    """Compare a run that is killed at these steps and resumed with the uninterrupted run, which is trained unless it is given.

    Returns:
        The uninterrupted run; the other is ``killed`` beside ``resumed.log`` in the folder.
    """
    if whole is None:
        whole = folder / "whole"
        train(launcher, [*words, f"run_dir={whole}"], folder / "whole.log", processes)
    killed = folder / "killed"
    for number, step in enumerate(steps):
        train_and_kill(launcher, [] if number else words, killed, step, folder / f"killed_{number}.log", processes)
    train(launcher, [f"resume={killed}"], folder / "resumed.log", processes)
    assert_same_runs(whole, killed, processes)
    return whole


def assert_same_runs(one: Path, other: Path, processes: int = 1) -> None:
    for rank in range(processes):
        pairs = zip(*(read_lines(run / f"trace_{rank}.jsonl") for run in (one, other)), strict=True)
        for ours, theirs in pairs:
            assert ours["step"] == theirs["step"] and ours.keys() == theirs.keys() >= set(LAYERS) - {"parameters"}
            layer = first_difference(ours, theirs)
            assert layer is None, f"rank {rank}, step {ours['step']}: the first layer that differs is {layer}"
    assert (one / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()
    for model in ("last", "best"):
        ours, theirs = (load_file(run / model / "model.safetensors") for run in (one, other))
        assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)
