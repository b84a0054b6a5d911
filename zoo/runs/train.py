"""Whole jobs from a composed config: train, evaluate. The command line calls these, and so may anyone."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from zoo.assembly.build import add_adapters, build_system
from zoo.assembly.save_load import save
from zoo.assembly.system import System
from zoo.data.augmentation import Augmentation
from zoo.data.loader import ProcessedSplit
from zoo.interop.zoo_checkpoint import find_checkpoint
from zoo.registry.construct import construct
from zoo.runs.check import check
from zoo.runs.data_setup import complete_config, make_masking, make_mixup, make_source, pack, report_data
from zoo.runs.evaluation_setup import make_evaluation
from zoo.runs.first_weights import prepare
from zoo.runs.objective_setup import make_objective, make_reference, make_teacher
from zoo.runs.run_directory import alone_in_run, default_run_dir, open_run_dir, read_run_config, record_changes, refuse_changes
from zoo.storage.files import read_yaml
from zoo.training.determinism import deterministic_algorithms
from zoo.training.log import SKIPPED_FILE
from zoo.training.loop import Progress, Trainer, make_accelerator
from zoo.training.reference import Reference
from zoo.training.settings import TrainingSettings
from zoo.training.state import saving
from zoo.training.teacher import Teacher
from zoo.types import Objective


@dataclass
class TrainingResult:
    """What a finished run leaves.

    Attributes:
        skipped: ``items`` that were asked for, ``skipped`` by reason and ``examples``, where bad items are skipped; the bad entries
            that the source left out as ``left_out``.
    """

    run_dir: Path
    metrics: dict[str, float]
    model: Path
    skipped: dict[str, Any] = field(default_factory=lambda: {"left_out": []})


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
    with ExitStack() as stack:
        stack.enter_context(deterministic_algorithms(settings.deterministic))
        return _train(config, settings, progress, stack)


def _train(config: Mapping[str, Any], settings: TrainingSettings, progress: Progress | None, stack: ExitStack) -> TrainingResult:
    """Train a checked config; ``stack`` holds the lock of the run directory until the run ends."""
    resuming = config.get("resume") is not None
    run_dir = Path(config["resume"] if resuming else config["run_dir"] or default_run_dir(config))
    if resuming:
        read_run_config(run_dir)  # refuses a folder that holds no run, before a lock is put into it
        stack.enter_context(alone_in_run(run_dir))
    source = make_source(config["data"])
    config = complete_config(config, source)
    if resuming:
        refuse_changes(run_dir, config)
    set_seed(int(config["seed"]))
    system = build_system(config["system"])
    prepare(system, config, source, run_dir)
    add_adapters(system, settings.adapters, "training.adapters")
    objective = make_objective(config, system, settings.batch_size)
    accelerator = make_accelerator(settings, run_dir)
    system.to(accelerator.device)
    complete: Reference | Teacher | None = make_teacher(config, system)
    if objective is not None:
        complete = make_reference(objective, config, system, settings, run_dir, accelerator.device)
    trainer = _make_trainer(config, settings, system, source, run_dir, progress, accelerator, objective, complete)
    if not resuming:
        stack.enter_context(alone_in_run(run_dir))
        if trainer.accelerator.is_main_process:
            initial = complete.initial if isinstance(complete, Reference) else None
            open_run_dir(run_dir, config, system, initial)
    with saving(run_dir):
        report_data(source, trainer, run_dir, progress)
    trainer.accelerator.wait_for_everyone()
    set_seed(int(config["seed"]) + trainer.accelerator.process_index)
    metrics = trainer.run(resume=resuming, record=lambda: record_changes(run_dir, config))
    skipped = read_yaml(run_dir / SKIPPED_FILE) if (run_dir / SKIPPED_FILE).exists() else {}
    return TrainingResult(run_dir, metrics, find_checkpoint(run_dir), {**skipped, "left_out": list(source.skipped)})


def _make_trainer(
    config: Mapping[str, Any],
    settings: TrainingSettings,
    system: System,
    source: Any,
    run_dir: Path,
    progress: Progress | None,
    accelerator: Accelerator,
    objective: Objective | None,
    complete: Reference | Teacher | None,
) -> Trainer:
    data = config["data"]
    words = data.get("augmentation")
    augmentation = construct(Augmentation, words, "data.augmentation") if words else None
    evaluation = make_evaluation(config.get("evaluation"), system)
    if evaluation is not None:
        evaluation.connect(weights_change=True)
    if evaluation is not None and settings.evaluate_every:  # what cannot be is found now, not at the first evaluation
        source.split(data["validation_split"])
        evaluation.check(system, source)
    settings = replace(settings, monitor=settings.monitor or (None if evaluation is None else evaluation.monitor))

    def evaluate(model: nn.Module) -> dict[str, float]:
        assert evaluation is not None
        return evaluation(model, source, data["validation_split"]).metrics

    items = ProcessedSplit(
        source.split("train"),
        system.processor,  # type: ignore[arg-type]
        augmentation,
        make_mixup(data.get("mix"), system, source),
        make_masking(data.get("masking"), system),
    )
    return Trainer(
        system,
        pack(items, data.get("packing"), int(config["seed"]), progress),
        settings,
        run_dir=run_dir,
        seed=int(config["seed"]),
        save_model=save,
        evaluate=evaluate if evaluation is not None else None,
        progress=progress,
        num_workers=data["num_workers"],
        objective=objective,
        accelerator=accelerator,
        **({} if complete is None else {"complete": complete}),
    )
