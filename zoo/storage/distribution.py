"""The installed package itself: its version, its extras and the versions that were tested together. No torch."""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement

import zoo
from zoo.errors import ConfigError, name_choices

NAME = "multimodal-zoo"
CONSTRAINTS = "constraints.txt"


def version() -> str:
    """Return the version of the installed package."""
    return importlib.metadata.version(NAME)


def extras() -> list[str]:
    """Return the names of the optional sets of packages, for example "vision" and "audio"."""
    return sorted(importlib.metadata.metadata(NAME).get_all("Provides-Extra") or [])


def requirements(extra: str) -> list[Requirement]:
    """Return the packages of one extra; an extra that it names in turn is replaced by its packages.

    Raises:
        ConfigError: there is no such extra.
    """
    if extra not in extras():
        raise ConfigError(f"extra: {extra!r} is unknown; {name_choices(extra, extras(), most=40)}")
    found: dict[str, Requirement] = {}
    for line in importlib.metadata.requires(NAME) or []:
        wanted = Requirement(line)
        if wanted.marker is None or "extra" not in str(wanted.marker) or not wanted.marker.evaluate({"extra": extra}):
            continue
        wanted.marker = None
        inner = [each for name in sorted(wanted.extras) for each in requirements(name)] if wanted.name == NAME else [wanted]
        found |= {str(each): each for each in inner}
    return list(found.values())


def constraints() -> str:
    """Return the text of ``constraints.txt``: the checkout's, or the copy that an installed package carries.

    Raises:
        ConfigError: the package was installed without it.
    """
    beside = Path(zoo.__file__).parents[1] / CONSTRAINTS
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    text = importlib.metadata.distribution(NAME).read_text(f"extra_metadata/{CONSTRAINTS}")
    if text is None:
        raise ConfigError(f"{NAME}: its {CONSTRAINTS} is missing, so the tested versions are unknown; install the package again")
    return text


def tested_versions() -> dict[str, str]:
    """Return package name -> version, for the set of versions that is tested together."""
    lines = [line.partition("#")[0].strip() for line in constraints().splitlines()]
    return {name.strip(): number.strip() for name, sign, number in (line.partition("==") for line in lines) if sign}


def installed_version(package: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def missing(packages: Sequence[Requirement]) -> list[str]:
    """Return the names of the packages that are not installed."""
    return [each.name for each in packages if installed_version(each.name) is None]
