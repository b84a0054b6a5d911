"""Directories: the cache of fetched files, and the folders that ship with the package."""

import os
from pathlib import Path

import zoo


def cache_directory(directory: str | Path | None = None) -> Path:
    """Return the directory of fetched folders: the one given, ``$ZOO_CACHE``, or ``~/.cache/zoo``."""
    return Path(directory or os.environ.get("ZOO_CACHE") or Path.home() / ".cache" / "zoo").expanduser().absolute()


def packaged_directory(name: str) -> Path:
    """Return the directory ``conf`` or ``assets``: inside the package in a wheel, beside it in a checkout."""
    package = Path(zoo.__file__).parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name
