"""Parts of a benchmark: ``Job`` and ``Entry``."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from zoo.errors import ConfigError


@dataclass
class Job:
    """Two functions that do the same work, and a function that returns the difference of their outputs (called before timing)."""

    peer: Callable[[], object]
    ours: Callable[[], object]
    difference: Callable[[], float]


@dataclass(frozen=True)
class Entry:
    """One benchmark: ``make(size)`` builds the job; ``tolerance`` bounds the outputs' difference."""

    make: Callable[[int], Job]
    size: int
    peer: str
    tolerance: float
    system: str | None = None  # system whose card records the result


def need(module: str, package: str) -> ModuleType:
    """Import a module of a reference library.

    Raises:
        ConfigError: the library is not installed.
    """
    try:
        return __import__(module, fromlist=["_"])
    except ImportError as error:
        raise ConfigError(f"the benchmark needs {module!r} (not installed); install it with: pip install {package}") from error
