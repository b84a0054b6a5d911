"""Whole jobs from a composed config: train, evaluate. The command line calls these, and so may anyone."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate.utils import set_seed
from torch import nn

from zoo.build import build_part, build_system, construct, find_checkpoint, load, save
from zoo.checkpoint import atomic_directory, write_text_atomically
from zoo.data.augment import Augmentation
from zoo.data.loader import ProcessedSplit
from zoo.data.processor import Processor
from zoo.errors import ConfigError, WeightsError
from zoo.inspection import check
from zoo.registry import read_yaml
from zoo.system import System
from zoo.training.loop import Progress, Trainer
from zoo.training.settings import TrainingSettings

RUN_CONFIG = "config.yaml"
PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "tokenizers", "numpy", "safetensors", "hydra-core", "multimodal-zoo")


@dataclass
class TrainingResult:
    """What a finished run leaves."""

    run_dir: Path
    metrics: dict[str, float]
    model: Path


def train(config: Mapping[str, Any], *, progress: Progress | None = None) -> TrainingResult:
    """Train a composed config; with ``resume`` set, the run's own config is used and the run goes on.

    Raises:
        ConfigError: parts that do not fit (found before any weight is made), or a run directory that is in use.
        DataError: unusable data, or a loss that is not finite.
        Interrupted: the user stopped the run; it can be resumed.
    """
    settings = construct(TrainingSettings, config["training"], "training")
    check(config)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    resuming = config.get("resume") is not None
    run_dir = Path(config["resume"] if resuming else config["run_dir"] or default_run_dir(config))
    source = build_part("source", config["data"]["source"], "data.source")
    set_seed(int(config["seed"]))
    system = build_system(config["system"])
    if resuming:
        system.processor = Processor.load(run_dir / "processor")
    else:
        system.processor.fit(source.captions())  # type: ignore[union-attr]
    trainer = _make_trainer(config, settings, system, source, run_dir, progress)
    if trainer.accelerator.is_main_process and not resuming:
        _open_run_dir(run_dir, config, system)
    trainer.accelerator.wait_for_everyone()
    set_seed(int(config["seed"]) + trainer.accelerator.process_index)
    metrics = trainer.run(resume=resuming)
    return TrainingResult(run_dir, metrics, find_checkpoint(run_dir))


def _make_trainer(
    config: Mapping[str, Any], settings: TrainingSettings, system: System, source: Any, run_dir: Path, progress: Progress | None
) -> Trainer:
    data = config["data"]
    words = data.get("augmentation")
    augmentation = construct(Augmentation, words, "data.augmentation") if words else None
    evaluation = build_part("evaluation", config["evaluation"], "evaluation") if config.get("evaluation") else None
    if evaluation is not None and settings.evaluate_every:
        source.split(data["validation_split"])  # an empty split is found now, not at the first evaluation

    def evaluate(model: nn.Module) -> dict[str, float]:
        assert evaluation is not None
        return evaluation(model, source, data["validation_split"]).metrics

    return Trainer(
        system,
        ProcessedSplit(source.split("train"), system.processor, augmentation),  # type: ignore[arg-type]
        settings,
        run_dir=run_dir,
        seed=int(config["seed"]),
        save_model=save,
        evaluate=evaluate if evaluation is not None else None,
        progress=progress,
        num_workers=data["num_workers"],
    )


def default_run_dir(config: Mapping[str, Any]) -> Path:
    """``runs/DATE_TIME_SYSTEM_SOURCE``; under torchrun every process must be given the same ``run_dir``."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("run_dir: null; with several processes give one that all share, run_dir=PATH")
    return Path("runs") / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{config['system']['name']}_{config['data']['source']['name']}"


def _open_run_dir(run_dir: Path, config: Mapping[str, Any], system: System) -> None:
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


def evaluate(config: Mapping[str, Any], *, advance: Any = lambda items: None) -> tuple[Any, Path]:
    """Evaluate a checkpoint; data and evaluation are the run's own where the config has none.

    Returns:
        The evaluation's result and the folder that holds ``metrics.json`` and ``confusion.png``.

    Raises:
        ConfigError: no data and no run to take it from.
        WeightsError: the checkpoint cannot be loaded.
    """
    checkpoint = Path(config["checkpoint"])
    directory = find_checkpoint(checkpoint)
    run = next((folder for folder in (checkpoint, directory.parent) if (folder / "state").is_dir()), None)
    own = read_run_config(run) if run is not None else {}
    data, words = config.get("data") or own.get("data"), config.get("evaluation") or own.get("evaluation")
    if not data:
        raise ConfigError(f"data: {checkpoint} is no run directory, so it has no data of its own; choose one, for example +data=digits")
    source = build_part("source", data["source"], "data.source")
    evaluation = build_part("evaluation", words or {"name": "zero_shot"}, "evaluation")
    system = load(directory, device=config.get("device"))
    if not isinstance(system, System):
        raise WeightsError(f"{directory}: holds an encoder alone; an evaluation needs a system")
    result = evaluation(system, source, data["test_split"], advance=advance)
    output = Path(config.get("output") or checkpoint / "evaluation")
    _write_result(result, output, directory, data)
    return result, output


def _write_result(result: Any, output: Path, model: Path, data: Mapping[str, Any]) -> None:
    from zoo.evaluation.zero_shot import draw_confusion

    with atomic_directory(output) as folder:
        draw_confusion(result, folder / "confusion.png")
        content = {
            **result.metrics,
            "items": result.num_items,
            "model": str(model),
            "data": dict(data),
            "class_names": result.class_names,
            "confusion": result.confusion.tolist(),
        }
        (folder / "metrics.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
