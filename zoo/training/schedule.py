"""Learning rate schedules as pure functions of the step, so that there is no state to save."""

import math
from collections.abc import Callable

# progress in [0, 1] after warmup -> 1 at the peak rate, 0 at the final rate
SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
    "constant": lambda progress: 1.0,
    "inverse_sqrt": lambda progress: 1.0,  # depends on the step and not on the progress: see learning_rate_at
}


def learning_rate_at(step: int, *, peak: float, final: float, warmup_steps: int, max_steps: int, schedule: str) -> float:
    """Return the learning rate of optimizer step ``step`` (the first is 0).

    With peak 1, final 0, 2 warmup steps and 6 steps in total, "linear" gives .5, 1, 1, .75, .5, .25.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "inverse_sqrt":
        return peak * math.sqrt(max(warmup_steps, 1) / (step + 1))
    progress = (step - warmup_steps) / max(max_steps - warmup_steps, 1)
    return final + (peak - final) * SCHEDULES[schedule](progress)
