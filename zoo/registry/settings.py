"""Settings classes of config groups: their fields are the keys of the group, and their defaults the values."""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

SETTINGS = {"training": ("zoo.training.settings", "TrainingSettings")}  # config group -> module and dataclass; imported when it is used
MISSING = "???"  # Hydra's mark of a value that the user must give


def settings_class(group: str) -> Any:
    """Import and return the settings class of a config group. Its module must not import torch."""
    module, name = SETTINGS[group]
    return getattr(importlib.import_module(module), name)


def complete_settings(group: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Add the defaults of a group's settings to the values of a config file, in the order of the fields."""
    defaults = {field.name: _default(field) for field in dataclasses.fields(settings_class(group))}
    return {**defaults, **given}


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    if field.default is dataclasses.MISSING:
        return MISSING
    return list(field.default) if isinstance(field.default, tuple) else field.default
