"""Directory of a run: its config, environment and processor."""

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
from zoo.registry.config_keys import with_current_names
from zoo.registry.requirements import KEY as REQUIRES
from zoo.registry.requirements import parts_named, refuse_missing, requirements
from zoo.registry.schemas import read_run_file
from zoo.storage.files import atomic_directory, real_path, write_text_atomically
from zoo.storage.lock import alone
from zoo.storage.outside import read_json_object
from zoo.training.reference import write_initial
from zoo.training.state import saving

RUN_CONFIG, LOCK = "config.yaml", ".lock"
ENVIRONMENT = "environment.json"
# Packages whose versions may change a run's numbers.
PACKAGES = "torch torchvision transformers accelerate timm tokenizers numpy safetensors hydra-core multimodal-zoo".split()


def default_run_dir(config: Mapping[str, Any]) -> Path:
    """Return ``runs/DATE_TIME_SYSTEM_SOURCE``.

    Raises:
        ConfigError: several processes, which need one ``run_dir`` that is given.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("run_dir: null; several processes need one common directory: run_dir=PATH")
    return Path("runs") / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{config['system']['name']}_{config['data']['source']['name']}"


def open_run_dir(run_dir: Path, config: Mapping[str, Any], system: System, initial: Mapping[str, Tensor] | None = None) -> None:
    """Write the processor, reference weights, environment and config of a new run.

    The config is written last: a directory with a config holds everything that a resumed run reads.

    Args:
        initial: tensors of the reference model of an objective; None if there is none.

    Raises:
        ConfigError: the directory holds a run already.
        DataError: a file cannot be written.
    """
    if (run_dir / RUN_CONFIG).exists():
        raise ConfigError(f"run_dir: {run_dir} holds a run already; resume it (zoo train resume={run_dir}) or choose another directory")
    with saving(run_dir):
        with atomic_directory(run_dir / "processor") as folder:
            system.processor.save(folder)  # type: ignore[union-attr]
        if initial is not None:
            write_initial(initial, run_dir)
        _write_environment(run_dir, describe_environment(), _plugins_of(config, system))
        _write_config(run_dir, config)


def _write_environment(run_dir: Path, environment: Mapping[str, Any], needs: list[dict[str, str]]) -> None:
    """Write an environment together with the plug-ins that the run needs."""
    content = {**environment, REQUIRES: needs}
    if not needs:
        del content[REQUIRES]
    write_text_atomically(run_dir / ENVIRONMENT, json.dumps(content, indent=2) + "\n")


def _read_environment(run_dir: Path) -> dict[str, Any]:
    path = run_dir / ENVIRONMENT
    return read_json_object(path, ConfigError) if path.exists() else {}


def _write_config(run_dir: Path, config: Mapping[str, Any]) -> None:
    text = yaml.safe_dump({**config, "run_dir": str(run_dir), "resume": None}, sort_keys=False, allow_unicode=True)
    write_text_atomically(run_dir / RUN_CONFIG, text)


@contextmanager
def alone_in_run(run_dir: Path) -> Iterator[None]:
    """Lock a run directory for one job until its process ends or is killed; the first process holds the lock for all ranks.

    Raises:
        ConfigError: another ``zoo train`` has the lock.
        DataError: the directory cannot be written.
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
    old, new = (dict(flat_settings({**tree, "run_dir": None, "resume": None})) for tree in (read_run_config(run_dir), config))
    return {key: [old.get(key), new.get(key)] for key in sorted({*old, *new}) if old.get(key) != new.get(key)}


def flat_settings(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each setting of a config with its whole key, for example ("training.batch_size", 8)."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flat_settings(value, f"{above}{key}.")
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


def record_changes(run_dir: Path, config: Mapping[str, Any], system: System) -> dict[str, list[Any]]:
    """Write the config of a resumed run, and the plug-ins that it needs, if its settings changed; returns the changes.

    The next resume then continues with these settings.
    """
    changes = changed_settings(run_dir, config)
    if changes:
        environment, needs = _read_environment(run_dir), _plugins_of(config, system)
        earlier = environment.get(REQUIRES) or []
        # In between, the record holds the plug-ins of both configs, so that a kill leaves no config whose plug-ins are not recorded.
        _write_environment(run_dir, environment, [*earlier, *(need for need in needs if need not in earlier)])
        _write_config(run_dir, config)
        _write_environment(run_dir, environment, needs)
    return changes


def read_run_config(run_dir: str | Path) -> dict[str, Any]:
    """Read the resolved config of a run, with old names of keys replaced.

    Raises:
        ConfigError: the directory holds no run.
        WeightsError: the run needs a plug-in that is not installed.
    """
    path = Path(run_dir) / RUN_CONFIG
    if not path.is_file():
        raise ConfigError(f"resume: {run_dir} holds no run ({RUN_CONFIG} is missing); give the run_dir of an earlier zoo train")
    config = read_run_file(path)
    if "training" not in config:
        raise ConfigError(f"resume: {path} is not the config of a run; give the run_dir of an earlier zoo train")
    refuse_missing({**config, REQUIRES: _read_environment(Path(run_dir)).get(REQUIRES)}, run_dir)
    return with_current_names(config)


def _plugins_of(config: Mapping[str, Any], system: System) -> list[dict[str, str]]:
    """Return the plug-ins of a run; empty if it uses none."""
    own = () if "name" in (config.get("evaluation") or {}) or system.head.evaluation is None else (("evaluation", system.head.evaluation),)
    processors = (("processor", name) for name in system.processor.parts)  # type: ignore[union-attr]
    return requirements(dict.fromkeys([*parts_named(config), *own, *processors]))


def describe_environment() -> dict[str, Any]:
    """Return the versions, git state, machine and command, on which a run's numbers may depend."""

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
