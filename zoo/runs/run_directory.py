"""The folder of a run: its config, environment and processor."""

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
from zoo.registry.schemas import read_run_file
from zoo.storage.files import atomic_directory, write_text_atomically

RUN_CONFIG = "config.yaml"
PACKAGES = (
    "torch torchvision transformers accelerate timm tokenizers numpy safetensors hydra-core multimodal-zoo".split()  # whose versions matter
)


def default_run_dir(config: Mapping[str, Any]) -> Path:
    """``runs/DATE_TIME_SYSTEM_SOURCE``; under torchrun every process must be given the same ``run_dir``."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("run_dir: null; with several processes give one that all share, run_dir=PATH")
    return Path("runs") / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{config['system']['name']}_{config['data']['source']['name']}"


def open_run_dir(run_dir: Path, config: Mapping[str, Any], system: System) -> None:
    """Make the run's folder with its config, environment and processor; a folder that holds a run is refused."""
    if (run_dir / RUN_CONFIG).exists():
        raise ConfigError(f"run_dir: {run_dir} holds a run already; go on with it (zoo train resume={run_dir}) or choose another")
    run_dir.mkdir(parents=True, exist_ok=True)
    with atomic_directory(run_dir / "processor") as folder:
        system.processor.save(folder)  # type: ignore[union-attr]
    write_text_atomically(run_dir / "environment.json", json.dumps(describe_environment(), indent=2) + "\n")
    text = yaml.safe_dump({**config, "run_dir": str(run_dir), "resume": None}, sort_keys=False, allow_unicode=True)
    write_text_atomically(run_dir / RUN_CONFIG, text)


def read_run_config(run_dir: str | Path) -> dict[str, Any]:
    """The resolved config of a run.

    Raises:
        ConfigError: the folder holds no run.
    """
    path = Path(run_dir) / RUN_CONFIG
    if not path.is_file():
        raise ConfigError(f"resume: {run_dir} holds no run ({RUN_CONFIG} is missing); give the run_dir of an earlier zoo train")
    config = read_run_file(path)
    if "training" not in config:
        raise ConfigError(f"resume: {path} is not the config of a run; give the run_dir of an earlier zoo train")
    return with_current_names(config)


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
