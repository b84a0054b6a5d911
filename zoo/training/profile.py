"""Profile of a few steps: a trace that chrome://tracing and https://ui.perfetto.dev show."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from zoo.training.state import saving

WARM_UP = 2  # steps before the profiled ones: the first steps allocate memory and choose kernels


@contextmanager
def profiled(steps: int, run_dir: Path, rank: int, device: torch.device) -> Iterator[Callable[[], None]]:
    """Context of a run; yields a function to call after each step.

    Writes ``profile/trace_RANK.json`` to the run directory after ``WARM_UP`` and ``steps`` further steps, or at the end of a shorter run.

    Args:
        steps: number of steps to profile; 0 profiles nothing.
    """
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    # Not torch's schedule: a run that fails while the profiler warms up would crash the process.
    running = profile(activities=activities, record_shapes=True, acc_events=True) if steps else None  # acc_events: else it warns
    done, active = 0, False

    def step_done() -> None:
        nonlocal done, active
        done += 1
        if running is not None and done == WARM_UP:
            running.start()
            active = True
        elif running is not None and active and done == WARM_UP + steps:
            active = False
            _write(running, run_dir, rank)

    try:
        yield step_done
    finally:
        if running is not None and active:
            _write(running, run_dir, rank)


def _write(running: profile, run_dir: Path, rank: int) -> None:
    running.stop()
    with saving(run_dir):
        path = run_dir / "profile" / f"trace_{rank}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".json.tmp")
        running.export_chrome_trace(str(unfinished))
        unfinished.replace(path)
