"""``zoo``: multimodal models made of parts.

Everything public is found here and loaded when it is first used, so that ``import zoo`` and ``zoo list`` need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from zoo.errors import ConfigError, ContractError, DataError, WeightsError, ZooError

if TYPE_CHECKING:
    from zoo.assembly.create import create_model, create_system
    from zoo.assembly.export import export
    from zoo.assembly.interpolation import interpolate
    from zoo.assembly.save_load import load, save
    from zoo.assembly.summary import Summary, summarize
    from zoo.assembly.system import System
    from zoo.registry import list_models
    from zoo.runs.check import check
    from zoo.runs.push import push
    from zoo.types import Batch, Encoded, HeadOutput

__version__ = "0.1.0"

_HOMES = {
    "list_models": "zoo.registry",
    "create_model": "zoo.assembly.create",
    "create_system": "zoo.assembly.create",
    "load": "zoo.assembly.save_load",
    "save": "zoo.assembly.save_load",
    "export": "zoo.assembly.export",
    "interpolate": "zoo.assembly.interpolation",
    "summarize": "zoo.assembly.summary",
    "check": "zoo.runs.check",
    "push": "zoo.runs.push",
    "Summary": "zoo.assembly.summary",
    "System": "zoo.assembly.system",
    "Batch": "zoo.types",
    "Encoded": "zoo.types",
    "HeadOutput": "zoo.types",
}

__all__ = [
    "Batch",
    "ConfigError",
    "ContractError",
    "DataError",
    "Encoded",
    "HeadOutput",
    "Summary",
    "System",
    "WeightsError",
    "ZooError",
    "__version__",
    "check",
    "create_model",
    "create_system",
    "export",
    "interpolate",
    "list_models",
    "load",
    "push",
    "save",
    "summarize",
]


def __getattr__(name: str) -> Any:
    if name == "testing":  # a room, not a name in one
        return import_module("zoo.testing")
    if name not in _HOMES:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "testing"})
