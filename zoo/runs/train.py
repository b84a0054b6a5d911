"""Train a model from a composed config: check, source, system, trainer, loop."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed

from zoo.assembly.build import add_adapters, build_system
from zoo.assembly.save_load import save
from zoo.assembly.system import System
from zoo.interop.base.checkpoint_directory import find_checkpoint
from zoo.layers.low_precision.modes import simulate_precision
from zoo.registry.construct import construct
from zoo.runs.auto_resume import DONE, with_settled_resume
from zoo.runs.check import check
from zoo.runs.data_setup import complete_config, make_items, make_source, report_data
from zoo.runs.evaluation_setup import make_training_evaluation
from zoo.runs.first_weights import prepare
from zoo.runs.objective_setup import make_objective, make_reference, make_teacher
from zoo.runs.ranked_evaluation import evaluate_on_ranks
from zoo.runs.run_directory import alone_in_run, default_run_dir, open_run_dir, read_run_config, record_changes, refuse_changes
from zoo.runs.sampling_setup import make_rollouts
from zoo.storage.files import read_yaml
from zoo.training.accelerator import make_accelerator
from zoo.training.determinism import deterministic_algorithms
from zoo.training.log import SKIPPED_FILE
from zoo.training.loop import Trainer
from zoo.training.progress import Progress
from zoo.training.reference import Reference
from zoo.training.settings import TrainingSettings
from zoo.training.state import saving
from zoo.training.teacher import Teacher
from zoo.types import SamplingObjective


@dataclass
class TrainingResult:
    """Result of a finished run.

    Attributes:
        metrics: of the last step.
        model: the saved model.
        skipped: if bad items are skipped, the number of ``items`` that were read, those ``skipped`` by reason, and ``examples``; always
            ``left_out``, the bad entries that the source left out.
        stopped_early: sentence about the step at which ``training.patience`` ended the run; None if it trained all steps.
    """

    run_dir: Path
    metrics: dict[str, float]
    model: Path
    skipped: dict[str, Any] = field(default_factory=lambda: {"left_out": []})
    stopped_early: str | None = None


def train(config: Mapping[str, Any], *, progress: Progress | None = None) -> TrainingResult:
    """Train a composed config; with ``resume`` set, continue that run.

    With ``resume`` "auto", start or continue the run in ``run_dir``; if it is complete, return at once, with empty metrics.

    Raises:
        ConfigError: parts that do not fit (found before any weight is made), or a run directory that is in use.
        DataError: unusable data, or a loss that is not finite.
        Interrupted: a signal or ``training.max_time`` ended the run; it can be resumed.
    """
    settings = construct(TrainingSettings, config["training"], "training")
    config, action = with_settled_resume(config, settings)
    if action == DONE:
        run_dir = Path(config["run_dir"])
        return TrainingResult(run_dir, {}, find_checkpoint(run_dir))
    check(config)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    with deterministic_algorithms(settings.deterministic), ExitStack() as locks:
        return _train(config, settings, progress, locks)


def _train(config: Mapping[str, Any], settings: TrainingSettings, progress: Progress | None, locks: ExitStack) -> TrainingResult:
    """Train a checked config; ``locks`` holds the lock of the run directory until the run ends."""
    resuming = config.get("resume") is not None
    run_dir = Path(config["resume"] if resuming else config["run_dir"] or default_run_dir(config))
    if resuming:
        read_run_config(run_dir)  # refuses a directory without a run before the lock writes to it
        locks.enter_context(alone_in_run(run_dir))
    source = make_source(config["data"])
    config = complete_config(config, source)
    if resuming:
        refuse_changes(run_dir, config)
    set_seed(int(config["seed"]))
    system = _make_system(config, settings, source, run_dir)
    trainer = _make_trainer(config, settings, system, source, run_dir, progress)
    if not resuming:  # only now: a run that cannot start leaves no directory
        locks.enter_context(alone_in_run(run_dir))
    if trainer.accelerator.is_main_process:
        _write_beginning(config, system, trainer, source, progress)
    trainer.accelerator.wait_for_everyone()
    set_seed(int(config["seed"]) + trainer.accelerator.process_index)
    metrics = trainer.run(resume=resuming, record=lambda: record_changes(run_dir, config, system))
    skipped = read_yaml(run_dir / SKIPPED_FILE) if (run_dir / SKIPPED_FILE).exists() else {}
    return TrainingResult(run_dir, metrics, find_checkpoint(run_dir), {**skipped, "left_out": list(source.skipped)}, trainer.stopped_early)


def _make_system(config: Mapping[str, Any], settings: TrainingSettings, source: Any, run_dir: Path) -> System:
    """Build the system with its first weights, its processor and its adapters."""
    system = build_system(config["system"])
    prepare(system, config, source, run_dir)
    add_adapters(system, settings.adapters, "training.adapters")
    if settings.quantise is not None:
        simulate_precision(system, settings.quantise, key="training.quantise")
    return system


def _make_trainer(
    config: Mapping[str, Any], settings: TrainingSettings, system: System, source: Any, run_dir: Path, progress: Progress | None
) -> Trainer:
    """Connect the system with its data, its objective and its evaluation in a training loop."""
    objective = make_objective(config, system, settings)
    accelerator = make_accelerator(settings, run_dir)
    if isinstance(objective, SamplingObjective):
        objective.attach(system)
    system.to(accelerator.device)
    complete: Reference | Teacher | None = make_teacher(config, system)
    rollouts = None
    if isinstance(objective, SamplingObjective):
        rollouts = make_rollouts(objective, config, system, settings, run_dir, accelerator)
    elif objective is not None:
        complete = make_reference(objective, config, system, settings, run_dir, accelerator.device)
    evaluation = make_training_evaluation(config, settings, system, source)
    monitor = settings.monitor or (None if evaluation is None else evaluation.monitor)
    return Trainer(
        system,
        make_items(config, system, source, progress),
        replace(settings, monitor=monitor),
        run_dir=run_dir,
        seed=int(config["seed"]),
        save_model=save,
        evaluate=None
        if evaluation is None
        else lambda model: evaluate_on_ranks(evaluation, model, source, config["data"]["validation_split"])[1],
        progress=progress,
        num_workers=config["data"]["num_workers"],
        rollouts=rollouts,
        objective=objective,
        accelerator=accelerator,
        **({} if complete is None else {"complete": complete}),
    )


def _write_beginning(config: Mapping[str, Any], system: System, trainer: Trainer, source: Any, progress: Progress | None) -> None:
    """Write the files of a run that are known before its first step."""
    resuming = config.get("resume") is not None
    if not resuming:
        frozen = trainer.batches.complete if trainer.batches.rollouts is None else trainer.batches.rollouts.reference
        open_run_dir(trainer.run_dir, config, system, frozen.initial if isinstance(frozen, Reference) else None)
    with saving(trainer.run_dir):
        report_data(source, trainer.data, trainer.run_dir, progress)
