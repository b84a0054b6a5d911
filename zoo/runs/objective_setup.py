"""Objective of a run and its frozen reference model, or the teacher of a head, built from the config."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from zoo.assembly.system import System
from zoo.errors import ConfigError
from zoo.registry.construct import build_part
from zoo.training.freeze import freeze
from zoo.training.reference import Reference, initial_tensors, read_initial
from zoo.training.settings import TrainingSettings
from zoo.training.teacher import Teacher
from zoo.types import LanguageHead, Objective, SamplingObjective, head_of


def make_objective(config: Mapping[str, Any], system: System, training: TrainingSettings) -> Any:
    """Build the objective that a config names; None if it names none, so that the head's own loss is trained.

    Raises:
        ConfigError: an unknown name or keyword, or a system, batch size or teacher that does not fit the objective.
    """
    settings = config.get("objective")
    if not settings:
        return None
    objective = build_part("objective", settings, "objective")
    objective.check(system, training.batch_size // int(os.environ.get("WORLD_SIZE", "1")))
    if isinstance(objective, SamplingObjective):
        _refuse_for_sampling(str(settings["name"]), training)
    if objective.needs_teacher and not config.get("teacher"):
        raise ConfigError(f"teacher: objective {settings['name']!r} learns from one; name a saved model with teacher=DIR")
    return objective


def _refuse_for_sampling(name: str, training: TrainingSettings) -> None:
    """Raise ConfigError if settings of a run do not go with answers that the model samples."""
    if training.parallel == "fsdp":
        raise ConfigError(f"training.parallel: 'fsdp' divides the weights, with which objective {name!r} samples; choose ddp")
    if training.accumulation == "grad_cache":
        raise ConfigError(f"training.accumulation: 'grad_cache' does not go with objective {name!r}; choose independent")
    if training.cache_features:
        raise ConfigError(f"training.cache_features: {training.cache_features}, but objective {name!r} reads whole inputs; set 0")


def make_reference(
    objective: Objective, config: Mapping[str, Any], system: System, settings: TrainingSettings, run_dir: Path, device: torch.device
) -> Reference:
    """Return the frozen model of an objective, which adds targets to each batch: the teacher, or the system with its first weights.

    Raises:
        ConfigError: the teacher reads other tokens than the system.
        WeightsError: a resumed run has lost the weights of its beginning.
    """
    from zoo.assembly.save_load import load  # imports the readers of weights, which a check does not need

    if config.get("teacher"):
        teacher: Any = load(config["teacher"], device=device)
        refuse_other_tokens(teacher, system, str(config["teacher"]))
        objective.check_teacher(system, teacher)
        return Reference(teacher, objective)
    if config.get("resume") is not None:
        return Reference(system, objective, read_initial(run_dir, device))
    freeze(system, settings.freeze)  # frozen weights need no copy
    return Reference(system, objective, initial_tensors(system))


def refuse_other_tokens(teacher: Any, system: Any, source: str, key: str = "teacher") -> None:
    """Raise ConfigError unless both processors make equal tensors of equal inputs, because the teacher reads the system's batches."""
    parts, ours = {} if teacher.processor is None else teacher.processor.parts, system.processor.parts
    if not isinstance(head_of(teacher), LanguageHead) or "conversation" not in parts:
        raise ConfigError(f"{key}: {source} is no multimodal language model; name a saved model whose head predicts tokens (llava)")
    missing = sorted(set(system.encoders) - set(teacher.encoders))
    if missing:
        raise ConfigError(f"{key}: {source} has no encoder of {', '.join(missing)}, which the system has; choose another")
    advice = (
        "; they must be equal, because it reads the system's batches: choose another teacher, or train on answers that it writes "
        "(zoo answer)"
    )
    if parts["conversation"].tokenizer.to_str() != ours["conversation"].tokenizer.to_str():
        raise ConfigError(f"{key}: {source} has another tokenizer than the system{advice}")
    for modality in system.encoders:
        for name, value in ours[modality].settings.items():
            if parts[modality].settings.get(name) != value:
                theirs = parts[modality].settings.get(name)
                raise ConfigError(f"{key}: {source} has processor.{modality}.{name} {theirs}, the system has {value}{advice}")


def make_teacher(config: Mapping[str, Any], system: System) -> Teacher | None:
    """Build the teacher that adds its embeddings to each batch; None if the config names none.

    Raises:
        ConfigError: the teacher's tokenizer differs from the student's.
    """
    if not config.get("teacher") or config.get("objective"):  # with an objective, the teacher is its reference model
        return None
    from zoo.assembly.save_load import load

    model: Any = load(config["teacher"])
    (modality,) = system.encoders
    theirs = model.processor
    ours = system.processor[modality]  # type: ignore[index]
    if theirs is not None and modality in theirs.parts and ours.tokenizer is not None:
        texts = [part.tokenizer.to_str() for part in (ours, theirs[modality])]
        if texts[0] != texts[1]:
            raise ConfigError(
                f"teacher: {config['teacher']} has another tokenizer than system.encoders.{modality}; start from weights with its own"
            )
    return Teacher(model, modality)
