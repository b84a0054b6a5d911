"""Directory of a run: its config, environment and processor."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml

from zoo.assembly.system import System
from zoo.errors import ConfigError
from zoo.registry.config_keys import with_current_names
from zoo.registry.requirements import KEY as REQUIRES
from zoo.registry.requirements import parts_named, refuse_missing, requirements
from zoo.registry.schemas import read_run_file
from zoo.storage.files import atomic_directory, write_text_atomically
from zoo.storage.outside import read_json_object

RUN_CONFIG = "config.yaml"
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


def open_run_dir(run_dir: Path, config: Mapping[str, Any], system: System) -> None:
    """Write the config, environment and processor of a new run.

    Raises:
        ConfigError: the directory holds a run already.
    """
    if (run_dir / RUN_CONFIG).exists():
        raise ConfigError(f"run_dir: {run_dir} holds a run already; resume it (zoo train resume={run_dir}) or choose another directory")
    run_dir.mkdir(parents=True, exist_ok=True)
    with atomic_directory(run_dir / "processor") as folder:
        system.processor.save(folder)  # type: ignore[union-attr]
    environment = describe_environment() | _plugins_of(config, system)
    write_text_atomically(run_dir / ENVIRONMENT, json.dumps(environment, indent=2) + "\n")
    text = yaml.safe_dump({**config, "run_dir": str(run_dir), "resume": None}, sort_keys=False, allow_unicode=True)
    write_text_atomically(run_dir / RUN_CONFIG, text)


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
    recorded = Path(run_dir) / ENVIRONMENT
    environment = read_json_object(recorded, ConfigError) if recorded.exists() else {}
    refuse_missing({**config, REQUIRES: environment.get(REQUIRES)}, run_dir)
    return with_current_names(config)


def _plugins_of(config: Mapping[str, Any], system: System) -> dict[str, Any]:
    """Return the plug-ins of a run as an entry of its environment; empty if it uses none."""
    own = () if config.get("evaluation") or system.head.evaluation is None else (("evaluation", system.head.evaluation),)
    processors = (("processor", name) for name in system.processor.parts)  # type: ignore[union-attr]
    needs = requirements(dict.fromkeys([*parts_named(config), *own, *processors]))
    return {REQUIRES: needs} if needs else {}


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
