"""Training as a job of a sweep: a run that was stopped is resumed, and the watched metric is the job's score."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zoo.runs.auto_resume import AUTO
from zoo.training.state import POSITION_FILE, read_position, states


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
    train({**config, "resume": AUTO})
    return best_score(config["run_dir"])
