"""Where fetched files lie."""

import os
from pathlib import Path


def cache_directory(directory: str | Path | None = None) -> Path:
    """Where fetched folders lie: the directory given, ``$ZOO_CACHE``, or ``~/.cache/zoo``."""
    return Path(directory or os.environ.get("ZOO_CACHE") or Path.home() / ".cache" / "zoo").expanduser().absolute()
