"""Fetched folders are verified when they are used: files that changed since they were fetched are noticed.

``zoo fetch`` writes size and SHA-256 of each file into ``FILES.json``. The first use in a process compares the hashes; later uses compare
size and time, which takes no reading.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from zoo.errors import WeightsError
from zoo.storage.checked import check
from zoo.storage.outside import Fault, read_json_object, shown
from zoo.storage.progress import Advance, progress

LIST = "FILES.json"
BLOCK = 1 << 20  # bytes that are read at once
_seen: dict[Path, tuple[tuple[str, int, int], ...]] = {}  # folder -> name, size and time of each file when its hashes were compared


def write_list(folder: Path) -> None:
    """Write the SHA-256 of each file of a folder into ``FILES.json`` in it."""
    hashes = {name: file_hash(folder / name) for name in _names(folder)}
    (folder / LIST).write_text(json.dumps(hashes, indent=2) + "\n", encoding="utf-8")


def verify(folder: Path, error: Fault = WeightsError, pins: Mapping[str, str] | None = None) -> None:
    """Raise an error if a file of a fetched folder was changed or removed.

    Args:
        pins: hashes of files that are known without ``FILES.json``, which folders of older versions lack.

    Raises:
        ZooError: as ``error`` makes it, with the file's name.
    """
    path, folder = folder / LIST, folder.resolve()
    listed = read_json_object(path, error) if path.exists() else {}
    expected = {**check(listed, dict[str, str], path, error, f"remove {folder} and fetch it again"), **(pins or {})}
    now = _stamps(folder, expected, error)
    if _seen.get(folder) == now:
        return
    with progress(f"verify {folder.name}", sum(size for _, size, _ in now)) as advance:
        for name, wanted in expected.items():
            found = file_hash(folder / name, advance)
            if found != wanted:
                raise error(
                    f"{folder / name}: was changed after it was fetched (SHA-256 {found[:12]}, expected {shown(wanted[:12])}); remove the "
                    f"folder {folder} and run: zoo fetch {folder.name}"
                )
    _seen[folder] = now


def verify_if_fetched(path: Path, error: Fault = WeightsError) -> None:
    """Verify the fetched folder that a file or folder lies in, if it lies in one."""
    for folder in (path, *path.parents[:2]):
        if (folder / LIST).is_file():
            verify(folder, error)
            return


def _names(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file() and file.name != LIST)


def _stamps(folder: Path, names: dict[str, str], error: Fault) -> tuple[tuple[str, int, int], ...]:
    """Return name, size and time of each listed file.

    Raises:
        ZooError: a file is missing, or lies outside the folder.
    """
    found = []
    for name in sorted(names):
        file = folder / name
        if not file.is_file() or not file.resolve().is_relative_to(folder):
            raise error(f"{file}: is missing in the fetched folder; remove {folder} and run: zoo fetch {folder.name}")
        status = file.stat()
        found.append((name, status.st_size, status.st_mtime_ns))
    return tuple(found)


def file_hash(path: Path, advance: Advance = lambda num_bytes: None) -> str:
    """Return the SHA-256 of a file; ``advance`` receives the number of bytes of each block."""
    digest = hashlib.sha256()
    block = memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
            advance(count)
    return digest.hexdigest()
