"""``zoo``: multimodal models made of parts.

Everything public is found here and loaded when it is first used, so that ``import zoo`` and ``zoo list`` need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from zoo.errors import ConfigError, DataError, WeightsError, ZooError

if TYPE_CHECKING:
    from zoo.build import create_model, create_system, load, save
    from zoo.exports.exporting import export
    from zoo.inspection import Summary, check, summarize
    from zoo.registry import list_models
    from zoo.system import System
    from zoo.types import Batch, Encoded, HeadOutput

__version__ = "0.1.0"

_HOMES = {
    "list_models": "zoo.registry",
    "create_model": "zoo.build",
    "create_system": "zoo.build",
    "load": "zoo.build",
    "save": "zoo.build",
    "export": "zoo.exports.exporting",
    "summarize": "zoo.inspection",
    "check": "zoo.inspection",
    "Summary": "zoo.inspection",
    "System": "zoo.system",
    "Batch": "zoo.types",
    "Encoded": "zoo.types",
    "HeadOutput": "zoo.types",
}

__all__ = [
    "Batch",
    "ConfigError",
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
    "list_models",
    "load",
    "save",
    "summarize",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
