"""Saved training states to resume from: Accelerate's state, the position in the run, and hashes that verify the restore."""

import json
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from zoo.errors import WeightsError
from zoo.storage.files import sync_files

POSITION_FILE = "position.json"


def states(run_dir: Path) -> list[Path]:
    """Return the complete states of a run, oldest first."""
    # A state that a kill cut short keeps its temporary name, which begins with a dot.
    return sorted((run_dir / "state").glob("step_*"))


def save_state(accelerator: Accelerator, run_dir: Path, position: dict[str, Any], *, keep: int) -> None:
    """Write a state under a temporary name, rename it when every rank is done, then remove all but the newest ``keep`` states."""
    name = f"step_{position['step']:09d}"
    fresh, target = run_dir / "state" / f".{name}.tmp", run_dir / "state" / name
    if accelerator.is_main_process:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
    accelerator.wait_for_everyone()  # the folder must exist before other ranks write to it
    accelerator.save_state(str(fresh))
    rank_file = fresh / f"{accelerator.process_index}.{POSITION_FILE}"
    rank_file.write_text(json.dumps(position), encoding="utf-8")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        # Sync before the rename, or a power failure could leave a complete name with incomplete files.
        sync_files(fresh.rglob("*"))
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
        for old in states(run_dir)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def load_state(accelerator: Accelerator, run_dir: Path) -> dict[str, Any] | None:
    """Restore the newest state; returns this rank's position, or None if the run has no state yet.

    Raises:
        WeightsError: the state was written by a different number of processes.
    """
    found = states(run_dir)
    if not found:
        return None
    path = found[-1]
    ranks = len(list(path.glob(f"*.{POSITION_FILE}")))
    if ranks != accelerator.num_processes:
        raise WeightsError(
            f"{path}: was written by {ranks} processes, but this run has {accelerator.num_processes}; resume with {ranks} processes, "
            "or start a new run from the weights of the saved model"
        )
    accelerator.load_state(str(path))
    return json.loads((path / f"{accelerator.process_index}.{POSITION_FILE}").read_text(encoding="utf-8"))
