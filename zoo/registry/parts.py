"""Parts: classes registered under the name of their module, found without importing the others.

``zoo/encoders/vit.py`` registers the encoder ``vit``. Every file on the first level of a kind's room is a part; what parts share
lies in a folder beside them. Nothing here imports torch.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import zoo
from zoo.errors import ConfigError, name_choices

KINDS = {  # kind -> the room of its parts
    "encoder": "zoo.encoders",
    "language": "zoo.language",
    "head": "zoo.heads",
    "processor": "zoo.processors",
    "source": "zoo.sources",
    "evaluation": "zoo.evaluation",
    "objective": "zoo.training.objectives",
}

_parts: dict[tuple[str, str], type] = {}
T = TypeVar("T", bound=type)


def register(kind: str) -> Callable[[T], T]:
    """Register a class as a part of a kind, under the name of its module."""

    def add(part: T) -> T:
        name = part.__module__.rpartition(".")[2]
        assert (kind, name) not in _parts, f"{kind} {name!r} is registered twice"
        _parts[kind, name] = part
        return part

    return add


def label_of(part: object) -> str:
    """Return kind and name of a registered part, or of its class, for messages: ``encoder 'vit'``; of any other its class's name."""
    kind = part if isinstance(part, type) else type(part)
    return next((f"{key[0]} {key[1]!r}" for key, known in _parts.items() if known is kind), kind.__name__)


def part_names(kind: str) -> list[str]:
    """Return the names of all parts of a kind, read from its room without importing them."""
    room = Path(zoo.__file__).parent.joinpath(*KINDS[kind].split(".")[1:])
    return sorted(path.stem for path in room.glob("*.py") if path.stem != "__init__")


def find_part(kind: str, name: str, key: str = "name") -> type:
    """Import and return the class registered as ``name``.

    Args:
        kind: a key of ``KINDS``.
        name: of the part.
        key: config key that asked for it, for messages.

    Raises:
        ConfigError: no such part.
    """
    if not isinstance(name, str) or name not in part_names(kind):
        raise ConfigError(f"{key}: there is no {kind} {name!r}; {name_choices(str(name), part_names(kind))}")
    importlib.import_module(f"{KINDS[kind]}.{name}")
    return _parts[kind, name]
