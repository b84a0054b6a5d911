"""Parts and rows of other installed packages, found through their entry points.

A package offers a class and a file of rows in its ``pyproject.toml``::

    [project.entry-points."zoo.encoders"]
    swin = "zoo_swin.encoder:Swin"
    [project.entry-points."zoo.rows"]
    encoder_swin = "zoo_swin/conf/encoder/swin.yaml"

Only ``importlib.metadata`` is read here. A class is imported when its name is used, and rows are read without importing anything.
``ZOO_PLUGINS=0`` turns all of this off.
"""

import functools
import importlib
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlparse

from zoo.errors import ConfigError

GROUPS = {  # kind -> its group of entry points
    "encoder": "zoo.encoders",
    "language": "zoo.language",
    "head": "zoo.heads",
    "processor": "zoo.processors",
    "connector": "zoo.connectors",
    "tiler": "zoo.tilers",
    "source": "zoo.sources",
    "evaluation": "zoo.evaluations",
    "objective": "zoo.objectives",
    "reward": "zoo.rewards",
    "format": "zoo.formats",
}
ROWS = "zoo.rows"
ROW_KINDS = ("encoder", "language", "head", "system", "data", "training", "evaluation", "objective", "experiment")  # folders of conf/
SWITCH = "ZOO_PLUGINS"
OURS = "multimodal-zoo"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")  # no dots, colons and slashes: a config gives names, never paths to code
ADVICE = f"uninstall one of the two, or set {SWITCH}=0 to use no plug-ins"


@dataclass(frozen=True)
class Plugin:
    """A class that another distribution offers as a part; it is not imported yet."""

    kind: str
    name: str
    target: str  # "package.module:Class"
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} of {self.distribution} {self.version}"

    def load(self) -> Any:
        """Import and return the object that should be a class.

        Raises:
            ConfigError: its module or class is missing.
        """
        module, _, attribute = self.target.partition(":")
        try:
            return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"{self}: {self.target} cannot be imported ({error}); install its requirements, or another version"
            ) from error


@dataclass(frozen=True)
class RowFile:
    """A YAML file with rows that another distribution offers, for example ``conf/encoder/swin.yaml``: the folder names the kind."""

    kind: str
    path: Path
    distribution: str


def is_on() -> bool:
    """Return False if the environment turns plug-ins off."""
    return os.environ.get(SWITCH) != "0"


def plugins(kind: str) -> Mapping[str, Plugin]:
    """Return the parts of a kind that other installed packages offer, by name.

    Raises:
        ConfigError: a name that two packages offer, or one with a dot, colon or slash.
    """
    return _plugins(kind, *_state())


def row_files(kind: str) -> tuple[RowFile, ...]:
    """Return the files of rows of a kind that other installed packages offer.

    Raises:
        ConfigError: a file that is no YAML file of its distribution.
    """
    return tuple(file for file in _row_files(*_state()) if file.kind == kind)


def normalised(distribution: str) -> str:
    """Return a distribution's name as package indexes compare it: ``Zoo_Swin`` is ``zoo-swin``."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _state() -> tuple[bool, tuple[str, ...]]:
    """Return what the installed packages depend on, as the key of a cache."""
    return is_on(), tuple(sys.path)


@functools.cache
def _entry_points(enabled: bool, path: tuple[str, ...]) -> Mapping[str, tuple[tuple[EntryPoint, Distribution], ...]]:
    """Return the entry points of each of our groups with their distributions, sorted by distribution and name."""
    found: dict[str, list[tuple[EntryPoint, Distribution]]] = {group: [] for group in (*GROUPS.values(), ROWS)}
    if enabled:
        installed = entry_points()  # once: each call reads the files of every distribution
        for group, points in found.items():
            points += [(point, point.dist) for point in installed.select(group=group) if point.dist is not None]
            points.sort(key=lambda pair: (normalised(pair[1].name), pair[0].name))
    return MappingProxyType({group: tuple(points) for group, points in found.items()})


@functools.cache
def _plugins(kind: str, enabled: bool, path: tuple[str, ...]) -> Mapping[str, Plugin]:
    found: dict[str, Plugin] = {}
    for point, distribution in _entry_points(enabled, path)[GROUPS[kind]]:
        plugin = Plugin(kind, point.name, point.value, distribution.name, distribution.version)
        if not NAME.fullmatch(point.name):
            raise ConfigError(f"{plugin}: allowed in a name are letters, digits, _ and -; rename it in its package, or set {SWITCH}=0")
        if point.name in found:
            raise ConfigError(f"{kind} {point.name!r} is in {found[point.name].distribution} and in {plugin.distribution}; {ADVICE}")
        found[point.name] = plugin
    return MappingProxyType(found)


@functools.cache
def _row_files(enabled: bool, path: tuple[str, ...]) -> tuple[RowFile, ...]:
    found = []
    for point, distribution in _entry_points(enabled, path)[ROWS]:
        file = _path_of_rows(point.value)
        place = _place_in(distribution, file)
        if place is None or file.suffix != ".yaml" or file.parent.name not in ROW_KINDS:
            raise ConfigError(
                f"rows {point.name!r} of {distribution.name} {distribution.version}: {point.value!r} is no YAML file of that distribution; "
                f"name one that its RECORD lists, as package/conf/KIND/NAME.yaml with KIND of {', '.join(ROW_KINDS)}, or set {SWITCH}=0"
            )
        found.append(RowFile(file.parent.name, place, distribution.name))
    return tuple(found)


def _path_of_rows(value: str) -> PurePosixPath:
    """Return the path that an entry point names.

    Some build tools allow only ``module:attribute`` there, so ``zoo_swin.conf.encoder:swin.yaml`` is read as
    ``zoo_swin/conf/encoder/swin.yaml``.
    """
    folder, colon, name = value.partition(":")
    return PurePosixPath(folder.replace(".", "/"), name) if colon else PurePosixPath(value)


def _place_in(distribution: Distribution, path: PurePosixPath) -> Path | None:
    """Return where a file of a distribution lies; None if the distribution does not hold it."""
    if path.is_absolute() or ".." in path.parts:
        return None
    if distribution.read_text("RECORD") is not None and path in map(PurePosixPath, distribution.files or ()):
        place = Path(str(distribution.locate_file(path)))
        return place if place.is_file() else None
    for root in _editable_roots(distribution):  # an editable install records no file of the package
        place = (root / path).resolve()
        if place.is_relative_to(root.resolve()) and place.is_file():
            return place
    return None


def _editable_roots(distribution: Distribution) -> list[Path]:
    """Return the folders that hold the packages of an editable install; none for any other."""
    origin: Any = json.loads(distribution.read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        return []
    project = Path(unquote(urlparse(origin["url"]).path))
    return [project, project / "src"]
