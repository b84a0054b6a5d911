"""Sweeps that are killed and go on, and what Optuna finds, on the digits.

    python scripts/benchmarks/sweep.py kill      # four jobs under submitit_local, one killed; the same command again
    python scripts/benchmarks/sweep.py optuna    # the learning rate in 8 short trials, beside the default one

Needs the extra: pip install 'multimodal-zoo[sweep]'. Each prints one line of JSON.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHORT = "system=classifier_vit_nano data=digits training.warmup_steps=5 training.threads=1 training.batch_size=64".split()
CALL = [sys.executable, "-m", "zoo"]


def sweep(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start a sweep."""
    return subprocess.Popen(
        [*CALL, "train", "-m", f"run_dir={folder}", *SHORT, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def kill(folder: Path, steps: int) -> dict[str, object]:
    """Kill one of four jobs behind its first state, and finish the sweep by the same command."""
    words = ["seed=0,1,2,3", "hydra/launcher=submitit_local", f"training.max_steps={steps}", f"training.checkpoint_every={steps // 4}"]
    words += [f"training.evaluate_every={steps}"]
    job, started = folder / "2", time.monotonic()
    first = sweep(folder, *words)
    while not list(job.glob("state/step_*")) and first.poll() is None:
        time.sleep(0.2)
    os.kill(json.loads((job / ".lock").read_text())["pid"], signal.SIGKILL)
    told = first.communicate()[1]
    killed_at = sorted(path.name for path in job.glob("state/step_*"))
    again = sweep(folder, *words)
    told_again = again.communicate()[1]
    events = [json.loads(line) for line in (job / "events.jsonl").read_text().splitlines()]
    return {
        "statuses": [first.returncode, again.returncode],
        "told": [line for line in told.splitlines() if line.startswith("zoo: ")],
        "told again": [line for line in told_again.splitlines() if line.startswith("zoo: ")],
        "states of the killed job": killed_at,
        "it went on from step": [event["step"] for event in events if event["event"] == "resumed"],
        "steps at the end": [len((folder / str(number) / "metrics.jsonl").read_text().splitlines()) for number in range(4)],
        "seconds": round(time.monotonic() - started, 1),
    }


def optuna(folder: Path, steps: int) -> dict[str, object]:
    """Search the learning rate in 8 trials, and train once with the default rate."""
    words = [f"training.max_steps={steps}", f"training.evaluate_every={steps}", "training.checkpoint_every=1000"]
    started = time.monotonic()
    space = ["training.learning_rate=tag(log,interval(1e-5,1e-1))", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=8"]
    found = sweep(folder / "sweep", *words, *space)
    told = found.communicate()[1]
    sweep(folder / "default", *words, "seed=0").communicate()
    records = [json.loads((folder / "sweep" / ".jobs" / f"{number}.json").read_text()) for number in range(8)]
    rates = [float(re.search(r"learning_rate=(\S+)", " ".join(record["overrides"]))[1]) for record in records]  # type: ignore[index]
    return {
        "status": found.returncode,
        "trials": [[float(f"{rate:.3g}"), round(record["score"], 4)] for rate, record in zip(rates, records, strict=True)],
        "default": round(json.loads((folder / "default" / ".jobs" / "0.json").read_text())["score"], 4),
        "told": [line for line in told.splitlines() if "best" in line],
        "seconds": round(time.monotonic() - started, 1),
    }


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=("kill", "optuna"))
    parser.add_argument("--steps", type=int, default=40, help="training steps of each job (default: 40)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({"kill": kill, "optuna": optuna}[options.job](Path(folder), options.steps), indent=1))


if __name__ == "__main__":
    main()
