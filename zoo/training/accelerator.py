"""The Accelerator of a run: device, processes, precision and trackers."""

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from zoo.errors import ConfigError, name_choices
from zoo.training.settings import PRECISIONS, TrainingSettings


def make_accelerator(settings: TrainingSettings, run_dir: Path) -> Accelerator:
    """Return an Accelerator for the settings' precision and trackers.

    Raises:
        ConfigError: a tracker is unknown or not installed, or the device does not support the precision.
    """
    _refuse_missing_trackers(settings.trackers)
    # Accelerate keeps its state per process; the next job of a sweep, in the same process, may use another precision.
    AcceleratorState._reset_state()
    try:
        return Accelerator(
            mixed_precision=PRECISIONS[settings.precision],
            log_with=list(settings.trackers) or None,
            project_dir=str(run_dir),
            cpu=not torch.accelerator.is_available(),  # otherwise Accelerate ignores torchrun on machines without accelerator
        )
    except ValueError as error:
        raise ConfigError(f"training.precision: {settings.precision!r} does not work on this device: {error}") from error


def _refuse_missing_trackers(trackers: Sequence[str]) -> None:
    """Raise ConfigError if a tracker is unknown or not installed; Accelerate would leave it out, and the run would log nothing."""
    installed = {each.value for each in get_available_trackers()}
    for name in trackers:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ConfigError(f"training.trackers: there is no tracker {name!r}; {name_choices(name, sorted(LOGGER_TYPE_TO_CLASS))}")
        if name not in installed:
            raise ConfigError(
                f"training.trackers: {name!r} is not installed, so that nothing would be logged; install it (pip install {name}), or "
                "remove it from training.trackers"
            )
