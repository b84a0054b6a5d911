"""Modules of torch that ``import torch`` loads and no command uses at its start: loaded at their first use instead.

``torch.export`` takes a tenth of the time of ``import torch``. Any access to the module, also the import of a module below it, loads it.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

DEFERRED = ("torch.export",)


class _Deferring:
    """Finder that puts Python's lazy loader before the loader of the modules in ``DEFERRED``."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in DEFERRED:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


def defer_imports() -> None:
    """Defer the modules of ``DEFERRED``; calls after ``import torch`` change nothing."""
    if "torch" not in sys.modules and not any(isinstance(finder, _Deferring) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Deferring())
