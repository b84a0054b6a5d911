"""The evaluation of a run, from its config."""

from collections.abc import Mapping
from typing import Any

from zoo.assembly.save_load import load
from zoo.registry.construct import build_part
from zoo.types import head_of


def make_evaluation(words: Mapping[str, Any] | None, model: Any) -> Any:
    """The evaluation that a config names, or the one that the model's head names; None where neither does.

    One that asks another model, by its name in ``judge``, is given the model.
    """
    own = getattr(head_of(model), "evaluation", None)
    words = words or ({"name": own} if own else None)
    evaluation = build_part("evaluation", words, "evaluation") if words else None
    if evaluation is not None and isinstance(name := getattr(evaluation, "judge", None), str):
        evaluation.judge = load(name)
    return evaluation
