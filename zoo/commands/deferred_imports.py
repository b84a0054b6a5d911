"""Modules of torch that ``import torch`` loads and no command uses at its start: loaded at their first use instead.

``torch.export`` takes a tenth of the time of ``import torch``. Python's own ``importlib.util.LazyLoader`` does not help: it loads a module
when ``inspect`` reads the ``__file__`` of all modules, which happens during ``import torch``.
"""

import sys
import threading
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

DEFERRED = ("torch.export",)
_lock = threading.RLock()


class _Unloaded(ModuleType):
    """Module that runs its file when a name is read that it does not have yet."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":  # what ``inspect`` looks for
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        with _lock:
            if type(self) is _Unloaded:
                spec = self.__spec__
                assert spec is not None and isinstance(spec.loader, _Deferring)
                self.__class__ = ModuleType
                spec.loader = self.__loader__ = spec.loader.loader
                spec.loader.exec_module(self)
        return getattr(self, name)


class _Deferring(Loader):
    """Loader that makes an unloaded module, and holds the loader that will run its file."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Unloaded(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Finder:
    """Finder of the modules in ``DEFERRED``."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in DEFERRED else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Deferring(spec.loader)
        return spec


def defer_imports() -> None:
    """Defer the modules of ``DEFERRED``; calls after ``import torch`` change nothing."""
    if "torch" not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
