"""Names to parts: registered classes, and the rows of the tables in ``conf/`` that give them arguments.

A *part* is a class with a registered name; its module has the same name (``zoo/encoders/vit.py`` registers ``vit``), so a
part is found without importing the others. A *row* is a name that a user may create (``vit_base_patch16_224``): one line
of a family's table in ``conf/``, or a backbone of another library (``timm/resnet18``, see ``zoo.backbones``). Reading rows
imports neither torch nor any part.
"""

import fnmatch
import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from zoo.backbones import MODALITY, describe, describe_language, is_backbone, is_language, list_timm
from zoo.errors import ConfigError, name_choices

PACKAGES = {
    "encoder": "zoo.encoders",
    "language": "zoo.language",
    "head": "zoo.heads",
    "processor": "zoo.data",
    "source": "zoo.data.sources",
    "evaluation": "zoo.evaluation",
    "objective": "zoo.objectives",
}
MODALITIES = ("audio", "image", "text")
PROCESSORS = (*MODALITIES, "conversation", "speech", "transcript")
TABLES = ("encoder", "language", "head", "system")  # the kinds whose conf/ files are tables of rows

_parts: dict[tuple[str, str], type] = {}
T = TypeVar("T", bound=type)


@dataclass(frozen=True)
class Row:
    """One creatable name: ``arguments`` are the constructor keywords of part ``family``."""

    name: str
    kind: str
    family: str
    modality: str | None
    arguments: dict[str, Any]

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the row's model takes: its own modality, or those of a system's encoders."""
        return tuple(self.arguments["encoders"]) if self.kind == "system" else (self.modality,) if self.modality else ()


def register(kind: str) -> Callable[[T], T]:
    """Register a class under the name of its module."""

    def add(part: T) -> T:
        name = part.__module__.rpartition(".")[2]
        assert (kind, name) not in _parts, f"{kind} {name!r} is registered twice"
        _parts[kind, name] = part
        return part

    return add


def part_names(kind: str) -> list[str]:
    """The names of all parts of a kind, read from the folder without importing them."""
    folder = Path(__file__).parent.joinpath(*PACKAGES[kind].split(".")[1:])
    if kind == "processor":  # named after its modality; the rest of zoo/data/ holds other things
        return [name for name in PROCESSORS if (folder / f"{name}.py").exists()]
    if kind == "language":  # beside the models lies what all of them are asked with
        return sorted(path.stem for path in (packaged_directory("conf") / kind).glob("*.yaml"))
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def find_part(kind: str, name: str, key: str = "name") -> type:
    """Import and return the class registered as ``name``.

    Raises:
        ConfigError: no such part; ``key`` is the config key that asked for it.
    """
    if not isinstance(name, str) or name not in part_names(kind):
        raise ConfigError(f"{key}: there is no {kind} {name!r}; {name_choices(str(name), part_names(kind))}")
    importlib.import_module(f"{PACKAGES[kind]}.{name}")
    return _parts[kind, name]


def packaged_directory(name: str) -> Path:
    """Where ``conf`` or ``assets`` lies: inside the package in a wheel, beside it in a checkout."""
    inside = Path(__file__).parent / name
    return inside if inside.is_dir() else Path(__file__).parent.parent / name


def read_yaml(path: Path) -> Any:
    """Read plain YAML; tags that build objects are refused by the safe loader."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)


@functools.cache
def rows(kind: str) -> dict[str, Row]:
    """All rows of a kind by name, in the order of the tables."""
    found: dict[str, Row] = {}
    for path in sorted((packaged_directory("conf") / kind).glob("*.yaml")):
        table = read_yaml(path)
        for name, arguments in table["variants"].items():
            assert name not in found, f"{path}: {name!r} stands in two tables"
            merged = {**table.get("shared", {}), **(arguments or {})}
            modality = merged.pop("modality", table.get("modality"))
            found[name] = Row(name, kind, table["name"], modality, merged)
    return found


def find_row(name: str, kind: str | None = None) -> Row:
    """Return the row of a name.

    Raises:
        ConfigError: no table has it; near matches are listed. Or a directory of transformers that cannot be used.
    """
    kinds = (kind,) if kind else TABLES
    if "language" in kinds and is_backbone(name) and (kind == "language" or is_language(name)):
        family, arguments = describe_language(name)
        return Row(name, "language", family, "text", arguments)
    if "encoder" in kinds and is_backbone(name):
        family, arguments = describe(name)
        return Row(name, "encoder", family, MODALITY, arguments)
    for each in kinds:
        if name in rows(each):
            return rows(each)[name]
    known = [row for each in kinds for row in rows(each)]
    raise ConfigError(f"there is no model {name!r}; {name_choices(str(name), known)} (see: zoo list)")


def list_models(pattern: str = "*", kind: str | None = None, modality: str | None = None) -> list[str]:
    """Names that ``create_model`` takes, sorted.

    Args:
        pattern: shell pattern, for example ``"*vit*"``; one that begins with ``timm/`` lists timm's models, which others leave
            out: ``"timm/*resnet*"``, and with their tags of weights ``"timm/resnet18.*"``.
        kind: "encoder", "language", "head" or "system"; None lists all.
        modality: "image", "audio" or "text"; None lists all.

    Raises:
        ConfigError: no such kind or modality.
    """
    if kind is not None and kind not in TABLES:
        raise ConfigError(f"kind: there is no {kind!r}; {name_choices(kind, TABLES)}")
    if modality is not None and modality not in MODALITIES:
        raise ConfigError(f"modality: there is no {modality!r}; {name_choices(modality, MODALITIES)}")
    if pattern.startswith("timm/"):
        return sorted(list_timm(pattern)) if kind in (None, "encoder") and modality in (None, MODALITY) else []
    chosen = [row for each in TABLES if kind in (None, each) for row in rows(each).values()]
    return sorted(row.name for row in chosen if fnmatch.fnmatchcase(row.name, pattern) and modality in (None, *row.modalities))
