"""Location of the cache of downloaded files."""

import os
from pathlib import Path


def cache_directory(directory: str | Path | None = None) -> Path:
    """Return the cache directory as an absolute path: ``directory`` if given, else ``$ZOO_CACHE``, else ``~/.cache/zoo``."""
    return Path(directory or os.environ.get("ZOO_CACHE") or Path.home() / ".cache" / "zoo").expanduser().absolute()
