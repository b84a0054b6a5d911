"""``resume=auto``: start a run, continue it, or do nothing if it is complete, so that one command can be queued again and again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import ConfigError, WeightsError
from zoo.runs.run_directory import RUN_CONFIG
from zoo.training.settings import TrainingSettings
from zoo.training.state import POSITION_FILE, read_position, states
from zoo.training.stops import Patience

AUTO = "auto"
START, RESUME, DONE = "start", "resume", "done"


def next_action(run_dir: Path, settings: TrainingSettings) -> str:
    """Return what the command of a run does next: ``START``, ``RESUME`` or ``DONE``.

    A directory without a config is that of a run that was killed before its first step: the config is written last.
    """
    if not (run_dir / RUN_CONFIG).is_file():
        return START
    return DONE if is_complete(run_dir, settings) else RESUME


def is_complete(run_dir: Path, settings: TrainingSettings) -> bool:
    """True if the newest state of a run is that of its last step, or that of the step at which ``patience`` ended it."""
    found = states(run_dir)
    try:
        position = read_position(found[-1] / f"0.{POSITION_FILE}") if found else None
    except WeightsError:
        return False  # a resume restores the state before
    if position is None or not (run_dir / "last").is_dir():
        return False
    patience = Patience(settings.patience, settings.min_delta)
    patience.restore(position.get("patience"))
    return position["step"] >= settings.max_steps or patience.exhausted


def with_settled_resume(config: Mapping[str, Any], settings: TrainingSettings) -> tuple[dict[str, Any], str]:
    """Replace ``resume=auto`` by null (start) or by the run directory (continue); returns the config and the action.

    Raises:
        ConfigError: ``resume=auto`` without ``run_dir``.
    """
    if config.get("resume") != AUTO:
        return dict(config), START if config.get("resume") is None else RESUME
    if not config.get("run_dir"):
        raise ConfigError("resume: auto, but run_dir is null; give the directory of the run, the same in every start: run_dir=PATH")
    action = next_action(Path(config["run_dir"]), settings)
    return {**config, "resume": None if action == START else str(config["run_dir"])}, action
