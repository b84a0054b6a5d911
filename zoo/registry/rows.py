"""Rows: the names that a user may create, read from the tables in ``conf/`` and those of plug-ins, without torch."""

import fnmatch
import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from zoo.errors import ConfigError, first_line, name_choices
from zoo.registry.plugins import ADVICE, NAME, OURS, RowFile, row_files
from zoo.storage.files import read_yaml
from zoo.storage.places import packaged_directory

MODALITIES = ("audio", "image", "text")
TABLES = ("encoder", "language", "head", "system")  # the kinds whose conf/ files are tables of rows
PROVIDED = ("timm/", "transformers/")  # prefixes of names whose rows the provider makes
PROVIDER = "zoo.interop.backbones.rows"  # imported only for such a name


@dataclass(frozen=True)
class Row:
    """One creatable name: ``arguments`` are the constructor keywords of part ``family``; the package ``distribution`` has the row."""

    name: str
    kind: str
    family: str
    modality: str | None
    arguments: dict[str, Any]
    distribution: str = OURS

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that the row's model takes: its own, or those of a system's encoders."""
        return tuple(self.arguments["encoders"]) if self.kind == "system" else (self.modality,) if self.modality else ()


@functools.cache
def own_rows(kind: str) -> dict[str, Row]:
    """Return this package's rows of a kind by name, in the order of the tables."""
    found: dict[str, Row] = {}
    for path in sorted((packaged_directory("conf") / kind).glob("*.yaml")):
        for row in _rows_of(read_yaml(path), kind, OURS):
            assert row.name not in found, f"{path}: {row.name!r} stands in two tables"
            found[row.name] = row
    return found


def rows(kind: str) -> dict[str, Row]:
    """Return all rows of a kind by name, in the order of the tables; those of plug-ins come last.

    Raises:
        ConfigError: a plug-in's table that cannot be read, or a name that two packages have.
    """
    files = tuple(file for each in TABLES for file in row_files(each))
    return _all_rows(files)[kind] if files else own_rows(kind)


@functools.cache
def _all_rows(files: tuple[RowFile, ...]) -> dict[str, dict[str, Row]]:
    found = {kind: dict(own_rows(kind)) for kind in TABLES}
    owners = {row.name: row for table in found.values() for row in table.values()}  # a name stands for one row of all kinds
    for file in files:
        for row in _rows_of(read_table(file), file.kind, file.distribution):
            if row.name in owners:
                other = owners[row.name]
                raise ConfigError(
                    f"row {row.name!r} is in {other.distribution} ({other.kind}) and in {row.distribution} ({row.kind}); {ADVICE}"
                )
            found[file.kind][row.name] = owners[row.name] = row
    return found


def _rows_of(table: Mapping[str, Any], kind: str, distribution: str) -> list[Row]:
    made = []
    for name, arguments in table["variants"].items():
        merged = {**table.get("shared", {}), **(arguments or {})}
        modality = merged.pop("modality", table.get("modality"))
        made.append(Row(name, kind, table["name"], modality, merged, distribution))
    return made


def read_table(file: RowFile) -> dict[str, Any]:
    """Read a plug-in's table of rows: ``name`` of a part, ``variants``, and where wanted ``shared`` and ``modality``.

    Raises:
        ConfigError: it is no such table, or a row's name has a dot, colon or slash.
    """
    table = read_plugin_yaml(file.path, file.distribution)
    variants = table.get("variants")
    if not isinstance(table.get("name"), str) or not isinstance(variants, dict):
        raise ConfigError(f"{file.path} of {file.distribution}: a table of rows needs 'name', a part, and 'variants', keywords by row")
    for name, arguments in variants.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ConfigError(f"{file.path} of {file.distribution}: row {name!r}; allowed in a name are letters, digits, _ and -")
        merged = {**(table.get("shared") or {}), **(arguments or {})} if isinstance(arguments, dict | None) else None
        if merged is None or (file.kind == "system" and not isinstance(merged.get("encoders"), dict)):
            raise ConfigError(f"{file.path} of {file.distribution}: row {name!r} needs a mapping of keywords, and of a system 'encoders'")
    return table


def read_plugin_yaml(path: Path, distribution: str) -> dict[str, Any]:
    """Read a plug-in's YAML file as plain data; tags that build objects are refused.

    Raises:
        ConfigError: it cannot be read, or holds no mapping.
    """
    try:
        content = read_yaml(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path} of {distribution} cannot be read ({first_line(error)}); reinstall or uninstall {distribution}"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} of {distribution} holds no mapping; reinstall or uninstall {distribution}")
    return content


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
    for find in (own_rows, rows):  # plug-ins are read only for a name that is not ours
        for each in kinds:
            if name in find(each):
                return find(each)[name]
    known = [row for each in kinds for row in rows(each)]
    raise ConfigError(f"there is no model {name!r}; {name_choices(str(name), known)} (see: zoo list)")


def list_models(pattern: str = "*", kind: str | None = None, modality: str | None = None, pretrained: bool = False) -> list[str]:
    """Return the names that ``create_model`` takes, sorted.

    Args:
        pattern: shell pattern, for example ``"*vit*"``. Only a pattern that begins with ``timm/`` lists timm's models:
            ``"timm/*resnet*"``, or with the tags of their weights ``"timm/resnet18.*"``.
        kind: "encoder", "language", "head" or "system"; None lists all.
        modality: "image", "audio" or "text"; None lists all.
        pretrained: list the names with the tags of published weights instead ("clip_vit_b32:openai").

    Raises:
        ConfigError: no such kind or modality.
    """
    if kind is not None and kind not in TABLES:
        raise ConfigError(f"kind: there is no {kind!r}; {name_choices(kind, TABLES)}")
    if modality is not None and modality not in MODALITIES:
        raise ConfigError(f"modality: there is no {modality!r}; {name_choices(modality, MODALITIES)}")
    if pretrained:
        from zoo.registry.pretrained import list_pretrained  # it reads the rows of this module

        return list_pretrained(pattern, kind, modality)
    if pattern.startswith("timm/"):
        return importlib.import_module(PROVIDER).list_names(pattern, kind, modality)
    chosen = [row for each in TABLES if kind in (None, each) for row in rows(each).values()]
    return sorted(row.name for row in chosen if fnmatch.fnmatchcase(row.name, pattern) and modality in (None, *row.modalities))
