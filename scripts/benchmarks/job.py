"""What a benchmark consists of."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from zoo.errors import ConfigError


@dataclass
class Job:
    """Two callables that do the same work, and how far their outputs are apart (asked before anything is timed)."""

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
    system: str | None = None  # whose card the figure belongs to


def need(module: str, package: str) -> ModuleType:
    """Import a peer.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return __import__(module, fromlist=["_"])
    except ImportError as error:
        raise ConfigError(f"the peer {module!r} of this benchmark is not installed; install it with: pip install {package}") from error
