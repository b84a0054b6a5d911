"""Saved training states to resume from: Accelerate's state, the position in the run, and hashes that verify the restore.

The rename of a state's folder is the one moment that decides: before it, the run resumes from the state before; after it, from this
one. Everything else that a run saves (``last/``, ``skipped.json``) follows from the newest state and is written again on resume.
"""

import json
import logging
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.checkpointing import load_accelerator_state
from safetensors import SafetensorError

from zoo.data.skips import Skips
from zoo.errors import DataError, WeightsError
from zoo.storage.files import real_path, sync_files, sync_folder

FOLDER, FILES, POSITION_FILE = "state", "files.json", "position.json"
SHARDED = "sharded"  # folder in a state whose weights were divided over the processes
DAMAGED = "damaged_"  # a state that cannot be read is renamed, so that no later state counts as older
POSITION_TYPES: dict[str, tuple[type, ...]] = {"step": (int,), "best": (int, float), "hashes": (dict,)}
log = logging.getLogger("zoo")


def states(run_dir: Path) -> list[Path]:
    """Return the complete states of a run, oldest first.

    Raises:
        WeightsError: ``state`` is a file.
    """
    folder = run_dir / FOLDER
    if folder.exists() and not folder.is_dir():
        raise WeightsError(f"{folder}: is a file, but must be the folder of the run's saved states; move it away and restore the folder")
    # A state that a kill cut short keeps its temporary name, which begins with a dot.
    return sorted(path for path in folder.glob("step_*") if path.is_dir())


def save_state(
    accelerator: Accelerator, run_dir: Path, position: dict[str, Any], save_sharded: Callable[[Path], None] = lambda folder: None
) -> None:
    """Write a state under a temporary name, and rename it when every rank is done.

    Args:
        position: of this rank.
        save_sharded: writes what Accelerate does not hold, into the folder.
    """
    folder, name = real_path(run_dir / FOLDER), f"step_{position['step']:09d}"
    fresh, target = folder / f".{name}.tmp", folder / name
    if accelerator.is_main_process:
        sweep(run_dir)
        fresh.mkdir(parents=True)
    accelerator.wait_for_everyone()  # the folder must exist before other ranks write to it
    try:
        accelerator.save_state(str(fresh))
        save_sharded(fresh)
        rank_file = fresh / f"{accelerator.process_index}.{POSITION_FILE}"
        rank_file.write_text(json.dumps(position), encoding="utf-8")
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _publish(fresh, target)
    except Exception:  # for example a full disk, which half a state would keep full
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    accelerator.wait_for_everyone()


def remove_older(run_dir: Path, *, keep: int) -> None:
    """Remove all but the newest ``keep`` states; one process calls it when everything that follows from the newest is written."""
    for old in states(run_dir)[:-keep]:
        _remove(old)


def known_best(run_dir: Path) -> set[int | None]:
    """Return the steps of the best models that the states of a run know; a damaged state knows none."""
    places = [state / f"0.{POSITION_FILE}" for state in states(run_dir) if fault_of(state) is None]
    return {read_position(place).get("best_step") for place in places}


def _publish(fresh: Path, target: Path) -> None:
    """Note the sizes of a state's files, flush them to disk and give the folder its final name."""
    sizes = {path.relative_to(fresh).as_posix(): path.stat().st_size for path in sorted(fresh.rglob("*")) if path.is_file()}
    (fresh / FILES).write_text(json.dumps(sizes, indent=1) + "\n", encoding="utf-8")
    # Sync before the rename, or a power failure could leave a complete name with incomplete files.
    sync_files(fresh.rglob("*"))
    if target.exists():
        _remove(target)
    fresh.rename(target)
    sync_folder(target.parent)


def _remove(state: Path) -> None:
    """Remove a state; it loses its name first, because a kill half way would leave a state that only looks whole."""
    gone = state.with_name(f".{state.name}.old")
    shutil.rmtree(gone, ignore_errors=True)
    state.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def sweep(run_dir: Path) -> None:
    """Remove what killed processes left among the states; the caller holds the lock of the run."""
    for path in [*(run_dir / FOLDER).glob(".step_*.tmp"), *(run_dir / FOLDER).glob(".step_*.old")]:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def load_state(accelerator: Accelerator, run_dir: Path, trained: Callable[[], Any], *, is_sharded: bool) -> dict[str, Any] | None:
    """Restore the newest whole state; returns this rank's position with the ``folder`` of the state, or None if the run has no state yet.

    A state with a missing or cut file is set aside with a warning, and the one before it is restored. A state of another number of
    processes, or one that was sharded otherwise, gives every rank the position of the first; its ``hashes`` are those that still hold.

    Args:
        trained: makes the ``TrainedState`` that restores a state of a sharded run, or in one.
        is_sharded: this run divides its weights.

    Raises:
        WeightsError: no state is whole, or the state was written with other settings.
    """
    path = _newest_whole(accelerator, run_dir)
    if path is None:
        return None
    was_sharded = (path / SHARDED).is_dir()
    position = _position_of(path, accelerator, same_kind=was_sharded == is_sharded)
    try:
        if was_sharded or is_sharded:
            (trained().load if was_sharded else trained().load_whole)(path)
            load_accelerator_state(str(path), [], [], [], [], accelerator.process_index)  # random states
        else:
            accelerator.load_state(str(path))
    except (OSError, EOFError, RuntimeError, KeyError, IndexError, TypeError, SafetensorError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{path}: the state cannot be restored ({_first_line(error)}); it is damaged, or was saved with other settings of the system "
            f"or training. Resume without overrides, delete the folder to go on from an older state, or start a new run with "
            f"weights={run_dir}"
        ) from error
    return {**position, "folder": str(path)}


def _position_of(path: Path, accelerator: Accelerator, *, same_kind: bool) -> dict[str, Any]:
    """Return this rank's position in a state; with another number of processes, what holds for all of them."""
    positions = [read_position(each) for each in sorted(path.glob(f"*.{POSITION_FILE}"), key=lambda p: int(p.name.partition(".")[0]))]
    ranks, rank = len(positions), accelerator.process_index
    if ranks == accelerator.num_processes:
        position = positions[rank]
        kept = position["hashes"] if same_kind else {k: v for k, v in position["hashes"].items() if k in ("random state", "batch")}
        return {**position, "hashes": kept}
    if accelerator.is_main_process:
        log.warning(
            "%s was saved by %s processes, this run has %s: it continues with the same items in the same order; dropout and other random "
            "numbers of the model are drawn again, and results agree up to rounding (assets/guide/scale.md)",
            *(path, ranks, accelerator.num_processes),
        )
    # Every rank of an unsharded run holds the same weights, but draws other numbers and reads other items.
    whole = ("parameters", "optimizer state") if same_kind and not (path / SHARDED).is_dir() else ()
    skips = [position["skips"] for position in positions if position.get("skips") is not None]
    return {
        **positions[0],
        "hashes": {key: value for key, value in positions[0]["hashes"].items() if key in whole},
        "skips": Skips().restore(*(skips if rank == 0 else [])).state() if skips else None,
        "ranks": ranks,
    }


def _newest_whole(accelerator: Accelerator, run_dir: Path) -> Path | None:
    """Return the newest state without a fault that its files show; the main process sets aside those that have one."""
    found = states(run_dir)
    faults: dict[Path, str] = {}
    while found and (fault := fault_of(found[-1])) is not None:
        faults[found.pop()] = fault
    accelerator.wait_for_everyone()  # all ranks have read the same folders before one is renamed
    if not found and faults:
        raise WeightsError(f"{next(iter(faults.values()))}, and no older state is kept; start a new run with weights={run_dir}")
    if accelerator.is_main_process:
        for path, fault in faults.items():
            log.warning("%s; the run goes on from the state before, %s", fault, found[-1].name)
            aside = path.with_name(DAMAGED + path.name)
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
        sweep(run_dir)
    if not found and (run_dir / "last").is_dir():
        raise WeightsError(
            f"{run_dir / FOLDER}: holds no state, although the run saved last/; restore the folder, or start a new run with "
            f"weights={run_dir}"
        )
    return found[-1] if found else None


def fault_of(state: Path) -> str | None:
    """Return what is wrong with the files of a state (one is missing, cut or of another kind); None if nothing is."""
    try:
        positions = sorted(state.glob(f"*.{POSITION_FILE}"))
        if not positions:
            return f"{state / f'0.{POSITION_FILE}'}: the file is missing"
        for path in positions:
            read_position(path)
        for name, size in _sizes(state).items():
            path = state / name
            if not path.is_file():
                return f"{path}: the file is missing"
            if path.stat().st_size != size and not name.endswith(POSITION_FILE):
                return f"{path}: the file is damaged ({path.stat().st_size} bytes, {size} were saved)"
    except WeightsError as error:
        return str(error)
    return None


def _sizes(state: Path) -> dict[str, int]:
    """Return the saved sizes of a state's files; empty if an older version of zoo wrote the state.

    Raises:
        WeightsError: the list cannot be read.
    """
    path = state / FILES
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: the file is damaged ({_first_line(error)})") from error
    if not isinstance(found, dict) or not all(isinstance(size, int) for size in found.values()):
        raise WeightsError(f"{path}: the file is damaged (expected the size of each file)")
    return found


def read_position(path: Path) -> dict[str, Any]:
    """Read the position of one rank.

    Raises:
        WeightsError: the file is missing, damaged or of another kind.
    """
    try:
        position = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: the file is damaged ({_first_line(error)})") from error
    if not isinstance(position, dict):
        raise WeightsError(f"{path}: the file is damaged (expected a table, got {type(position).__name__})")
    for key, types in POSITION_TYPES.items():
        if not isinstance(position.get(key), types) or isinstance(position.get(key), bool):
            raise WeightsError(f"{path}: the file is damaged ({key} is {str(position.get(key))[:40]!r})")
    if not isinstance(position.get("best_step"), int | None):
        raise WeightsError(f"{path}: the file is damaged (best_step is {str(position['best_step'])[:40]!r})")
    if position["step"] < 0:
        raise WeightsError(f"{path}: the file is damaged (step is {position['step']})")
    return position


@contextmanager
def saving(run_dir: Path) -> Iterator[None]:
    """Turn errors of writing (a full disk, no permission) into one line that says what is kept.

    Raises:
        DataError: a file cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "inline_container" not in str(error) and "PytorchStreamWriter" not in str(error):
            raise  # only torch.save reports a failed write as RuntimeError
        kept = states(run_dir)
        place = f"the state of step {int(kept[-1].name.removeprefix('step_'))} is kept" if kept else "no state is saved yet"
        reason = error.strerror if isinstance(error, OSError) and error.strerror else _first_line(error)
        raise DataError(
            f"run_dir: {run_dir} cannot be written ({reason}); {place}. Make room or set the folder's permissions, then continue with: "
            f"zoo train resume={run_dir}"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160] or type(error).__name__
