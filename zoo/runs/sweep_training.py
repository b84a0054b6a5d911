"""Training as a job of a sweep: a run that was stopped goes on, and the watched metric is the job's score."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zoo.runs.run_directory import RUN_CONFIG
from zoo.training.state import POSITION_FILE, read_position, states


def started(run_dir: str | Path) -> bool:
    """Return True if a run directory holds everything that a resumed run reads; a run that was killed before starts again."""
    return (Path(run_dir) / RUN_CONFIG).is_file()


def best_score(run_dir: str | Path) -> float | None:
    """Return the best value of the watched metric that the newest state of a run knows; None if nothing was evaluated."""
    found = states(Path(run_dir))
    score = read_position(found[-1] / f"0.{POSITION_FILE}")["best"] if found else -math.inf
    return None if score == -math.inf else float(score)


def train_job(config: Mapping[str, Any], train: Callable[[dict[str, Any]], Any]) -> float | None:
    """Train one job of a sweep from its beginning or from its newest state, and return its score.

    Args:
        config: composed, with the ``run_dir`` of the job.
        train: function that trains a config.
    """
    run_dir = config["run_dir"]
    train({**config, "resume": run_dir} if started(run_dir) else dict(config))
    return best_score(run_dir)
