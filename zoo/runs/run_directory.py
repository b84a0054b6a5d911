"""The folder of a run: its config, environment and processor."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from zoo.assembly.system import System
from zoo.errors import ConfigError
from zoo.storage.files import atomic_directory, read_yaml, real_path, write_text_atomically
from zoo.storage.lock import alone
from zoo.training.reference import write_initial
from zoo.training.state import saving

RUN_CONFIG, LOCK = "config.yaml", ".lock"
PACKAGES = (
    "torch torchvision transformers accelerate timm tokenizers numpy safetensors hydra-core multimodal-zoo".split()  # whose versions matter
)


def default_run_dir(config: Mapping[str, Any]) -> Path:
    """``runs/DATE_TIME_SYSTEM_SOURCE``; under torchrun every process must be given the same ``run_dir``."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("run_dir: null; with several processes give one that all share, run_dir=PATH")
    return Path("runs") / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{config['system']['name']}_{config['data']['source']['name']}"


def open_run_dir(run_dir: Path, config: Mapping[str, Any], system: System, initial: Mapping[str, Tensor] | None = None) -> None:
    """Make the run's folder with its config, environment and processor; a folder that holds a run is refused.

    The config is written last: a folder with a config holds all that a resumed run reads.

    Args:
        initial: tensors of the reference model of an objective; None if there is none.
    """
    if (run_dir / RUN_CONFIG).exists():
        raise ConfigError(f"run_dir: {run_dir} holds a run already; go on with it (zoo train resume={run_dir}) or choose another")
    with saving(run_dir):
        with atomic_directory(run_dir / "processor") as folder:
            system.processor.save(folder)  # type: ignore[union-attr]
        if initial is not None:
            write_initial(initial, run_dir)
        write_text_atomically(run_dir / "environment.json", json.dumps(describe_environment(), indent=2) + "\n")
        _write_config(run_dir, config)


def _write_config(run_dir: Path, config: Mapping[str, Any]) -> None:
    text = yaml.safe_dump({**config, "run_dir": str(run_dir), "resume": None}, sort_keys=False, allow_unicode=True)
    write_text_atomically(run_dir / RUN_CONFIG, text)


@contextmanager
def alone_in_run(run_dir: Path) -> Iterator[None]:
    """Lock a run's folder for one job; the lock ends with the process, even if it is killed. The first process locks for all ranks.

    Raises:
        ConfigError: another ``zoo train`` has the lock.
        DataError: the folder cannot be written.
    """
    if int(os.environ.get("RANK", "0")):
        yield
        return
    with ExitStack() as stack:
        with saving(run_dir):
            real_path(run_dir).mkdir(parents=True, exist_ok=True)
            stack.enter_context(alone(run_dir / LOCK, f"run_dir: {run_dir}: another zoo train is writing to this run"))
        yield


def changed_settings(run_dir: Path, config: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the settings in which a config differs from that of a run: ``{"training.batch_size": [8, 16]}``, old and new value."""
    old, new = (dict(_flat({**tree, "run_dir": None, "resume": None})) for tree in (read_run_config(run_dir), config))
    return {key: [old.get(key), new.get(key)] for key in sorted({*old, *new}) if old.get(key) != new.get(key)}


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", list(value) if isinstance(value, tuple) else value


def refuse_changes(run_dir: Path, config: Mapping[str, Any]) -> None:
    """Refuse a resume with another seed; other settings may change, and ``record_changes`` writes them down.

    Raises:
        ConfigError: the seed differs.
    """
    if seeds := changed_settings(run_dir, config).get("seed"):
        raise ConfigError(
            f"seed: {seeds[1]}, but the run has seed {seeds[0]}, which decides the order of its data; resume without seed=, or start a "
            "new run with another run_dir"
        )


def record_changes(run_dir: Path, config: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Write the config of a resumed run if its settings changed, so that the next resume goes on with them; returns the changes."""
    changes = changed_settings(run_dir, config)
    if changes:
        _write_config(run_dir, config)
    return changes


def read_run_config(run_dir: str | Path) -> dict[str, Any]:
    """The resolved config of a run.

    Raises:
        ConfigError: the folder holds no run.
    """
    path = Path(run_dir) / RUN_CONFIG
    if not path.is_file():
        raise ConfigError(f"resume: {run_dir} holds no run ({RUN_CONFIG} is missing); give the run_dir of an earlier zoo train")
    config = read_yaml(path)
    if not isinstance(config, dict) or "training" not in config:
        raise ConfigError(f"resume: {path} is not the config of a run; give the run_dir of an earlier zoo train")
    return config


def describe_environment() -> dict[str, Any]:
    """What a run's numbers may depend on: versions, git state, machine, command."""

    def git(*words: str) -> str | None:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "command": sys.argv,
        "git_commit": git("rev-parse", "HEAD"),
        "git_changes": (git("status", "--porcelain") or "").splitlines(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "versions": versions,
    }
