"""Rows: the names that a user may create, read from the tables in ``conf/`` without torch."""

import fnmatch
import functools
import importlib
from dataclasses import dataclass
from typing import Any

from zoo.errors import ConfigError, name_choices
from zoo.storage.files import read_yaml
from zoo.storage.places import packaged_directory

MODALITIES = ("audio", "image", "text")
TABLES = ("encoder", "language", "head", "system")  # the kinds whose conf/ files are tables of rows
PROVIDED = ("timm/", "transformers/")  # prefixes of names whose rows the provider makes
PROVIDER = "zoo.interop.backbones.rows"  # imported only for such a name


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
        """The modalities that the row's model takes: its own, or those of a system's encoders."""
        return tuple(self.arguments["encoders"]) if self.kind == "system" else (self.modality,) if self.modality else ()


@functools.cache
def rows(kind: str) -> dict[str, Row]:
    """Return all rows of a kind by name, in the order of the tables."""
    found: dict[str, Row] = {}
    for path in sorted((packaged_directory("conf") / kind).glob("*.yaml")):
        table = read_yaml(path)
        for name, arguments in table["variants"].items():
            assert name not in found, f"{path}: {name!r} stands in two tables"
            merged = {**table.get("shared", {}), **(arguments or {})}
            modality = merged.pop("modality", table.get("modality"))
            found[name] = Row(name, kind, table["name"], modality, merged)
    return found


def is_provided(name: object) -> bool:
    """Return True for a name of another library's model, for example ``timm/resnet18``."""
    return isinstance(name, str) and name.startswith(PROVIDED)


def find_row(name: str, kind: str | None = None) -> Row:
    """Return the row of a name.

    Raises:
        ConfigError: no table has it (near matches are listed), or it names a directory of transformers that cannot be used.
    """
    kinds = (kind,) if kind else TABLES
    if is_provided(name):
        row = importlib.import_module(PROVIDER).find_row(name, kinds)
        if row is not None:
            return row
    for each in kinds:
        if name in rows(each):
            return rows(each)[name]
    known = [row for each in kinds for row in rows(each)]
    raise ConfigError(f"there is no model {name!r}; {name_choices(str(name), known)} (see: zoo list)")


def list_models(pattern: str = "*", kind: str | None = None, modality: str | None = None) -> list[str]:
    """Return the names that ``create_model`` takes, sorted.

    Args:
        pattern: shell pattern, for example ``"*vit*"``. Only a pattern that begins with ``timm/`` lists timm's models:
            ``"timm/*resnet*"``, or with the tags of their weights ``"timm/resnet18.*"``.
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
        return importlib.import_module(PROVIDER).list_names(pattern, kind, modality)
    chosen = [row for each in TABLES if kind in (None, each) for row in rows(each).values()]
    return sorted(row.name for row in chosen if fnmatch.fnmatchcase(row.name, pattern) and modality in (None, *row.modalities))
