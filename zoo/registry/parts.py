"""Parts: classes registered under the name of their module, found without importing the others.

``zoo/encoders/vit.py`` registers the encoder ``vit``. Every file on the first level of a kind's room is a part; what parts share
lies in a folder beside them. A part of several files is a folder with a file named as the kind: ``zoo/interop/clip/format.py`` registers
the format ``clip``. Nothing here imports torch.
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
    "format": "zoo.interop",
}

BASE = "base"  # folder of a room's base class and of what its parts share

_parts: dict[tuple[str, str], type] = {}
T = TypeVar("T", bound=type)


def register(kind: str) -> Callable[[T], T]:
    """Register a class as a part of a kind, under the name of its module, or of its folder if the module is named as the kind."""

    def add(part: T) -> T:
        *_, folder, name = part.__module__.split(".")
        name = folder if name == kind else name
        assert (kind, name) not in _parts, f"{kind} {name!r} is registered twice"
        _parts[kind, name] = part
        return part

    return add


def part_names(kind: str) -> list[str]:
    """Return the names of all parts of a kind, read from its room without importing them."""
    room = _room(kind)
    folders = [path.parent.name for path in room.glob(f"*/{kind}.py") if path.parent.name != BASE]
    return sorted([*folders, *(path.stem for path in room.glob("*.py") if path.stem != "__init__")])


def _room(kind: str) -> Path:
    return Path(zoo.__file__).parent.joinpath(*KINDS[kind].split(".")[1:])


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
    inside = f".{kind}" if (_room(kind) / name).is_dir() else ""
    importlib.import_module(f"{KINDS[kind]}.{name}{inside}")
    return _parts[kind, name]
