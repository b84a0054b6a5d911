"""Parts: registered classes, found by name without importing the others.

``zoo/encoders/vit.py`` registers the encoder ``vit``. Every file on the first level of a kind's room is a part; what parts share
lies in folders beside them. A part of several files is a folder with a file named as the kind: ``zoo/interop/clip/format.py`` registers
the format ``clip``. Other installed packages offer parts too (``zoo.registry.plugins``). Nothing here imports torch.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import zoo
from zoo.errors import ConfigError, name_choices
from zoo.registry.plugins import ADVICE, GROUPS, OURS, Plugin, plugins

KINDS = {  # kind -> the room of its parts
    "encoder": "zoo.encoders",
    "language": "zoo.language",
    "head": "zoo.heads",
    "processor": "zoo.processors",
    "connector": "zoo.layers.connectors",
    "tiler": "zoo.layers.tilers",
    "source": "zoo.sources",
    "evaluation": "zoo.evaluation",
    "objective": "zoo.training.objectives",
    "reward": "zoo.evaluation.rewards",
    "format": "zoo.interop",
}
BASES = {  # kind -> its base class, imported only to hold a class against it
    "encoder": "zoo.types:Encoder",
    "language": "zoo.types:LanguageModel",
    "head": "zoo.types:Head",
    "processor": "zoo.types:ModalityProcessor",
    "connector": "zoo.types:Connector",
    "tiler": "zoo.types:Tiler",
    "source": "zoo.types:Source",
    "evaluation": "zoo.types:Evaluation",
    "objective": "zoo.types:Objective",
    "reward": "zoo.types:Reward",
    "format": "zoo.interop.base.format:Format",
}
BASE = "base"  # folder of a room's base class and of what its parts share

_parts: dict[tuple[str, str], type] = {}
T = TypeVar("T", bound=type)


def register(kind: str) -> Callable[[T], T]:
    """Register a class of this package as a part, under the name of its module, or of its folder if the module is named as the kind.

    Raises:
        ConfigError: no such kind, a module outside the room of the kind, or a class that does not derive from the kind's base class.
    """
    if kind not in KINDS:
        raise ConfigError(f"register: there is no kind {kind!r}; {name_choices(kind, KINDS)}")

    def add(part: T) -> T:
        name = part.__module__.removesuffix(f".{kind}").rpartition(".")[2]
        if part.__module__ not in (f"{KINDS[kind]}.{name}", f"{KINDS[kind]}.{name}.{kind}"):
            raise ConfigError(
                f"register: {_full_name(part)} lies outside {KINDS[kind]}, so that no config could find it; to offer a {kind} from another "
                f'package, leave @register out and put [project.entry-points."{GROUPS[kind]}"] NAME = '
                f'"{part.__module__}:{part.__qualname__}" into its pyproject.toml, then install it'
            )
        _refuse_other_base(part, kind, f"{kind} {name!r}")
        assert (kind, name) not in _parts, f"{kind} {name!r} is registered twice"
        _parts[kind, name] = part
        return part

    return add


def label_of(part: object) -> str:
    """Return kind and name of a registered part, or of its class, for messages: ``encoder 'vit'``; of any other its class's name."""
    kind = part if isinstance(part, type) else type(part)
    return next((f"{key[0]} {key[1]!r}" for key, known in _parts.items() if known is kind), kind.__name__)


def own_names(kind: str) -> list[str]:
    """Return the names of this package's parts of a kind, read from its room without importing them."""
    room = _room(kind)
    folders = [path.parent.name for path in room.glob(f"*/{kind}.py") if path.parent.name != BASE]
    return sorted([*folders, *(path.stem for path in room.glob("*.py") if path.stem != "__init__")])


def _room(kind: str) -> Path:
    return Path(zoo.__file__).parent.joinpath(*KINDS[kind].split(".")[1:])


def part_names(kind: str) -> list[str]:
    """Return the names of all parts of a kind, those of plug-ins included, without importing them.

    Raises:
        ConfigError: a plug-in has a name that this package or another plug-in has too.
    """
    ours, theirs = own_names(kind), plugins(kind)
    for name in ours:
        if name in theirs:
            raise ConfigError(f"{kind} {name!r} is in {OURS} and in {theirs[name].distribution}; {ADVICE}")
    return sorted([*ours, *theirs])


def find_plugin(kind: str, name: object) -> Plugin | None:
    """Return the plug-in that offers a part; None if the part is this package's, or if there is none."""
    return None if not isinstance(name, str) or name in own_names(kind) else plugins(kind).get(name)


def find_part(kind: str, name: str, key: str = "name") -> type:
    """Import and return the class of a part.

    Args:
        kind: a key of ``KINDS``.
        name: of the part.
        key: config key that asked for it, for messages.

    Raises:
        ConfigError: no such part, or a plug-in whose class cannot be imported or is not of this kind.
    """
    if isinstance(name, str) and name in own_names(kind):
        inside = f".{kind}" if (_room(kind) / name).is_dir() else ""
        importlib.import_module(f"{KINDS[kind]}.{name}{inside}")
        return _parts[kind, name]
    plugin = find_plugin(kind, name)
    if plugin is None:
        raise ConfigError(f"{key}: there is no {kind} {name!r}; {name_choices(str(name), part_names(kind))}")
    part = plugin.load()
    _refuse_other_base(part, kind, str(plugin))
    _parts[kind, name] = part  # for name_of
    return part


def name_of(kind: str, part: type) -> str:
    """Return the name under which a class that was found or registered is known."""
    return next((name for (its_kind, name), its_part in _parts.items() if its_part is part and its_kind == kind), part.__name__)


def _refuse_other_base(part: object, kind: str, label: str) -> None:
    module, _, name = BASES[kind].partition(":")
    base = vars(importlib.import_module(module))[name]
    if not isinstance(part, type):
        raise ConfigError(f"{label}: got {part!r}, which is no class; name a subclass of {module}.{name}")
    if not issubclass(part, base):
        raise ConfigError(f"{label}: {_full_name(part)} is no subclass of {module}.{name}; derive it from that class")


def _full_name(part: type) -> str:
    return f"{part.__module__}.{part.__qualname__}"
