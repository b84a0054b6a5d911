"""Protocol of a progress display of a training run."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Protocol of a progress display."""

    def update(self, step: int, values: dict[str, float]) -> None: ...

    def prepare(self, done: int, total: int, what: str = "frozen encoders") -> None: ...

    def say(self, facts: Mapping[str, Any]) -> None: ...
