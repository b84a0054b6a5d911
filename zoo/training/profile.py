"""Profile of a few steps: a trace that chrome://tracing and https://ui.perfetto.dev show."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from zoo.training.state import saving

WARM_UP = 2  # steps before the profiled ones: the first steps allocate memory and choose kernels


@contextmanager
def profiled(steps: int, run_dir: Path, rank: int, device: torch.device) -> Iterator[Callable[[], object]]:
    """Context of a run; yields a function to call after each step.

    Writes ``profile/trace_RANK.json`` to the run directory after ``WARM_UP`` and ``steps`` further steps, or at the end of a shorter run.

    Args:
        steps: number of steps to profile; 0 profiles nothing.
    """
    if not steps:
        yield lambda: None
        return

    def write(found: profile) -> None:
        with saving(run_dir):
            path = run_dir / "profile" / f"trace_{rank}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".json.tmp")
            found.export_chrome_trace(str(unfinished))
            unfinished.replace(path)

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    plan = schedule(wait=WARM_UP - 1, warmup=1, active=steps, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=write, record_shapes=True) as running:
        yield running.step
