"""The files and tables of ``conf/`` as a config source of Hydra, read when they are composed.

Every row of a table is an option of its group, so that ``encoder@system.encoders.image=vig_nano`` works for every name that
``zoo list`` shows, and ``=timm/resnet18`` for the backbones of other libraries. Nothing is stored in Hydra's global ConfigStore.
"""

import functools
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from zoo.errors import ConfigError
from zoo.registry import TABLES, Row, find_row, part_names, rows
from zoo.registry.plugins import ADVICE, OURS, RowFile, row_files
from zoo.registry.rows import is_provided, read_plugin_yaml
from zoo.registry.settings import SETTINGS, complete_settings
from zoo.storage.files import read_yaml
from zoo.storage.places import packaged_directory

PLAIN_GROUPS = ("data", "training", "evaluation", "objective", "experiment")
NULLABLE = ("data", "evaluation", "objective", "experiment")  # groups that may be unset, GROUP=null; ``zoo train`` needs data
UNSET = "none"  # unlisted option for which GROUP=null stands: Hydra takes names only
PART_GROUPS = ("evaluation", "objective")  # every part of these groups is an option, also without a file
_HEADER = re.compile(r"^#\s*@package\s+(\S+)", re.MULTILINE)
_LOCK = threading.Lock()


class ZooConfigs(ConfigSource):
    """Config source of the scheme ``zoo://``: ``encoder/vit_nano`` is a row, ``training/default`` a file, ``train`` an entry config."""

    @staticmethod
    def scheme() -> str:
        """Return the scheme that Hydra's search path names."""
        return "zoo"

    def available(self) -> bool:
        """Return True, because the package always carries ``conf/``."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Return True for the root and the groups of ``conf/``."""
        return config_path.strip("/") in ("", *TABLES, *PLAIN_GROUPS)

    def is_config(self, config_path: str) -> bool:
        """Return True for an option of a group, a backbone of another library and an entry config."""
        group, option = _split(config_path)
        return option in options(group) or (group in TABLES and is_provided(option)) or (group in NULLABLE and option == UNSET)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:  # type: ignore[override]
        """Return the options of a group and, at the root, the groups."""
        group = config_path.strip("/")
        groups = [] if group or results_filter == ObjectType.CONFIG else [*TABLES, *PLAIN_GROUPS]
        return sorted([*groups, *([] if results_filter == ObjectType.GROUP else options(group))])

    def load_config(self, config_path: str) -> ConfigResult:
        """Return the config of an option.

        Raises:
            ConfigLoadError: the group has no such option.
            ConfigError: a backbone of another library that cannot be used.
        """
        if not self.is_config(config_path):
            raise ConfigLoadError(f"there is no config {config_path!r}")
        group, option = _split(config_path)
        node, package = _option(group, option)
        return ConfigResult(provider=self.provider, path="zoo://", config=OmegaConf.create(dict(node)), header={"package": package})


class ZooSearchPath(SearchPathPlugin):
    """Plug-in of Hydra that appends ``zoo://`` to every search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append our source; the name "schema" lets Hydra put the folder of ``--config-dir`` before it, so that a user's files win."""
        search_path.append(provider="schema", path="zoo://")


def register_configs() -> None:
    """Make ``conf/`` known to Hydra; only the first call of a process does anything."""
    with _LOCK:
        plugins = Plugins.instance()
        if ZooSearchPath not in plugins.discover(SearchPathPlugin):
            plugins.register(ZooConfigs)
            plugins.register(ZooSearchPath)


def options(group: str) -> list[str]:
    """Return the names of the options of a group; of the root (``""``) those of the entry configs."""
    if group in TABLES:
        return list(rows(group))
    if group not in ("", *PLAIN_GROUPS):
        return []
    parts = part_names(group) if group in PART_GROUPS else []
    return sorted({*_files_of(group), *parts})


def entry_keys() -> set[str]:
    """Return the keys at the top level of our entry configs."""
    files = _files(packaged_directory("conf"))
    return {key for name in ("train", "evaluate", "system") for key in files[name][0]}


def _split(config_path: str) -> tuple[str, str]:
    """Split ``encoder/timm/resnet18.yaml`` into group and option: ``("encoder", "timm/resnet18")``; an entry config has no group."""
    path = config_path.removesuffix(".yaml").strip("/")
    group, slash, option = path.partition("/")
    return (group, option) if slash else ("", group)


def _option(group: str, option: str) -> tuple[Mapping[str, Any], str | None]:
    """Return the config of an option and the package that its file names in a header, if any."""
    if group in TABLES:
        try:
            row = find_row(option, group)
        except ConfigError as error:
            raise ConfigError(f"{group}={option}: {error}") from error
        return (_system_node(row) if group == "system" else {"name": row.family, **row.arguments}), None
    if option == UNSET and group in NULLABLE and option not in options(group):
        return {}, None
    node, package = _files_of(group).get(option, ({"name": option}, None))
    return (complete_settings(group, node) if group in SETTINGS else node), package


def _files_of(group: str) -> dict[str, tuple[dict[str, Any], str | None]]:
    """Read the options in our files of a group and in those of plug-ins.

    Raises:
        ConfigError: a file of a plug-in cannot be read, or two distributions have an option of the same name.
    """
    ours, of_plugins = packaged_directory("conf") / group, row_files(group)
    return _with_plugins(ours, of_plugins) if of_plugins else _files(ours)


@functools.cache
def _with_plugins(folder: Path, of_plugins: tuple[RowFile, ...]) -> dict[str, tuple[dict[str, Any], str | None]]:
    found = dict(_files(folder))
    owners = dict.fromkeys(found, OURS)
    for file in of_plugins:
        read_plugin_yaml(file.path, file.distribution)
        for name, node, package in _options_of_file(file.path):
            if name in owners:
                raise ConfigError(f"{file.kind}={name} is in {owners[name]} and in {file.distribution}; {ADVICE}")
            found[name], owners[name] = (node, package), file.distribution
    return found


@functools.cache
def _files(folder: Path) -> dict[str, tuple[dict[str, Any], str | None]]:
    """Read the options in the files of a folder, each with the package of its header."""
    return {name: (node, package) for path in sorted(folder.glob("*.yaml")) for name, node, package in _options_of_file(path)}


def _options_of_file(path: Path) -> Iterator[tuple[str, dict[str, Any], str | None]]:
    """Yield one option, or of a table (``variants``) several options, each with the keys that they share."""
    header, node = _HEADER.search(path.read_text(encoding="utf-8")), read_yaml(path) or {}
    package = header[1] if header else None
    if "variants" not in node:
        yield path.stem, node, package
        return
    for name, own in node["variants"].items():
        yield name, {**node.get("shared", {}), **own}, None


def _system_node(row: Row) -> dict[str, Any]:
    """Return a system's row as Hydra needs it: the names of its parts as a defaults list."""
    arguments = dict(row.arguments)
    defaults: list[Any] = [{f"/encoder@encoders.{modality}": name} for modality, name in arguments.pop("encoders").items()]
    defaults.append({"/head@head": arguments.pop("head")})
    if "language" in arguments:  # the language model of its head
        defaults.append({"/language@head.language": arguments.pop("language")})
    return {"defaults": [*defaults, "_self_"], "name": row.name, **arguments}
