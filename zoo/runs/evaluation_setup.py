"""Evaluation of a run, built from its config."""

from collections.abc import Mapping
from typing import Any

from zoo.assembly.save_load import load
from zoo.errors import ConfigError
from zoo.registry import part_names
from zoo.registry.construct import build_part
from zoo.training.settings import TrainingSettings
from zoo.types import head_of


def make_evaluation(settings: Mapping[str, Any] | None, model: Any) -> Any:
    """Return the evaluation that a config names, or that of the model's head; None if neither names one.

    Keywords without a name, as of ``evaluation.limit=100``, are those of the head's evaluation. If the evaluation names a speech
    recognition model (``asr_model``), that model is loaded.

    Raises:
        ConfigError: an unknown name or keyword, or keywords without a name for a head that has no evaluation.
    """
    head = head_of(model)
    own = None if head is None else head.evaluation
    settings = {"name": own, **(settings or {})} if own else settings
    if settings and "name" not in settings:
        known = ", ".join(part_names("evaluation"))
        raise ConfigError(f"evaluation.{next(iter(settings))}: the model has no default evaluation; add evaluation=NAME, known: {known}")
    evaluation = build_part("evaluation", settings, "evaluation") if settings else None
    if evaluation is not None and isinstance(evaluation.asr_model, str):
        evaluation.connect(asr_model=load(evaluation.asr_model))
    return evaluation


def make_training_evaluation(config: Mapping[str, Any], settings: TrainingSettings, system: Any, source: Any) -> Any:
    """Return the evaluation that runs during training, or None; it is checked now and not at its first use.

    Raises:
        ConfigError: an unknown name or keyword, or the evaluation cannot use the system or the source.
    """
    evaluation = make_evaluation(config.get("evaluation"), system)
    if evaluation is None:
        return None
    evaluation.connect(weights_change=True)
    if settings.evaluate_every:
        source.split(config["data"]["validation_split"])
        evaluation.check(system, source)
    return evaluation
