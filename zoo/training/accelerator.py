"""The Accelerator of a run: device, processes, precision and trackers."""

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from zoo.errors import ConfigError
from zoo.training.settings import PRECISIONS, TrainingSettings


def make_accelerator(settings: TrainingSettings, run_dir: Path) -> Accelerator:
    """Return an Accelerator for the settings' precision and trackers.

    Raises:
        ConfigError: a tracker is not installed, or the device does not support the precision.
    """
    # Accelerate keeps its state per process; the next job of a sweep, in the same process, may use another precision.
    AcceleratorState._reset_state()
    try:
        return Accelerator(
            mixed_precision=PRECISIONS[settings.precision],
            log_with=list(settings.trackers) or None,
            project_dir=str(run_dir),
            cpu=not torch.accelerator.is_available(),  # otherwise Accelerate ignores torchrun on machines without accelerator
        )
    except ValueError as error:  # a tracker is not installed, or the device does not support the precision
        raise ConfigError(f"training.trackers or training.precision: {error}") from error
