"""Local copies of remote files: in the cache, whole or absent, and up to date.

A copy is taken again if the size or the version of the original has changed. All other code then sees ordinary files, which it maps into
memory, seeks in and reads from several processes as always.
"""

import hashlib
import json
import mimetypes
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from zoo.errors import DataError
from zoo.storage.files import whole_file
from zoo.storage.lock import alone
from zoo.storage.places import cache_directory
from zoo.storage.remote import WEB, is_remote_data, list_folder, open_url, open_url_now, read_range, retried, stamp_in

PIECE_BYTES = 2**24  # of a copy per request: what a broken connection costs
COPIES_AT_ONCE = 16
PATIENCE_S = 24 * 3600.0  # for another process that copies the same folder
TABLES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".json")


def local_file(url: str, directory: str | Path | None = None) -> Path:
    """Return a local copy of a file, in the cache; it is copied if there is none or the original has changed.

    Args:
        directory: the cache; None takes that of ``zoo fetch``.

    Raises:
        DataError: the file cannot be read.
    """
    files, path = open_url_now(url)
    info = retried(lambda: files.info(path), url)
    target = place_of(url, directory)
    _copy(url, info, target)
    return target


def local_folder(
    url: str, directory: str | Path | None = None, *, takes: Callable[[str], bool] = lambda name: True, advance: Any = None
) -> Path:
    """Return a folder of the cache that holds copies of the files below a remote folder; only new and changed files are copied.

    Args:
        takes: returns True for the relative names of the files to copy.
        advance: progress callback, called with the number of files that were just copied or found.

    Raises:
        DataError: the folder cannot be listed, holds no such file, or a file cannot be read.
    """
    url = url.rstrip("/")
    target = place_of(url, directory)
    target.mkdir(parents=True, exist_ok=True)
    with alone(target.parent / f".{target.name}.lock", f"{url}: another process is copying it", patience_s=PATIENCE_S):
        found = {name: info for name, info in list_folder(url).items() if takes(name)}
        if not found:
            raise DataError(f"{url}: there is no such folder, or no file in it can be used; check the name")
        copied = {target / name for name in found}
        _remove_others(target, copied, takes)
        with ThreadPoolExecutor(COPIES_AT_ONCE) as pool:
            for _ in pool.map(lambda item: _copy(f"{url}/{item[0]}", item[1], target / item[0]), found.items()):
                if advance is not None:
                    advance(1)
    return target


def local_table(url: str, directory: str | Path | None = None) -> Path:
    """Return a local copy of a table (CSV or JSON lines), with copies of the files that its cells name beside it.

    Raises:
        DataError: a file cannot be read.
    """
    table, folder = local_file(url, directory), url.rpartition("/")[0]
    names = {os.path.normpath(cell) for cell in _cells(table)}
    if folder.startswith(WEB):  # which has no listing: what looks like a picture or a recording is fetched
        wanted = [name for name in names if _is_medium(name)]
        with ThreadPoolExecutor(COPIES_AT_ONCE) as pool:
            list(pool.map(lambda name: _copy_if_there(f"{folder}/{name}", directory), wanted))
    elif beside := names & list_folder(folder).keys():
        local_folder(folder, directory, takes=beside.__contains__)
    return table


def _is_medium(name: str) -> bool:
    """Return True for a relative path whose suffix is that of a picture or a recording."""
    kind = mimetypes.guess_type(name)[0] or ""
    return kind.startswith(("image/", "audio/", "video/")) and not name.startswith(("/", "..")) and "://" not in name


def _copy_if_there(url: str, directory: str | Path | None) -> None:
    """Copy a file; if it is missing, the reader of the table tells it for its row."""
    files, path = open_url(url)
    if retried(lambda: files.exists(path), url):
        local_file(url, directory)


def localised(name: str, directory: str | Path | None = None) -> str:
    """Return the name of a local file or folder for a remote one; a name on this disk stays as it is.

    Raises:
        DataError: it cannot be read.
    """
    if not is_remote_data(name):
        return name
    if name.lower().endswith(TABLES):
        return str(local_table(name, directory))
    files, path = open_url_now(name)
    info = retried(lambda: files.info(path), name)
    if info.get("type") == "directory" or name.endswith("/"):
        return str(local_folder(name, directory))
    return str(local_file(name, directory))


def place_of(url: str, directory: str | Path | None = None) -> Path:
    """Return the place of a copy in the cache: the scheme, then the path; names that a disk cannot hold are replaced by their hash."""
    scheme, _, path = url.partition("://")
    words = [word for word in path.split("/") if word]
    safe = re.compile(r"[\w .@+=,()-]{1,200}")
    words = [w if safe.fullmatch(w) and w not in (".", "..") else hashlib.blake2b(w.encode(), digest_size=16).hexdigest() for w in words]
    return cache_directory(directory) / "remote" / scheme.lower() / Path(*words)


def _remove_others(folder: Path, wanted: set[Path], takes: Callable[[str], bool]) -> None:
    """Remove copies of files that the original has no longer, and the folders that are empty without them."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what is inside a folder comes before it
        if path.is_file() and not path.name.startswith(".") and path not in wanted and takes(path.relative_to(folder).as_posix()):
            path.unlink()
            path.with_name(f".{path.name}.stamp").unlink(missing_ok=True)
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _copy(url: str, info: dict[str, Any], target: Path) -> None:
    """Copy a file unless the copy is up to date; its stamp lies beside it."""
    stamp, note = stamp_in(info, url), target.with_name(f".{target.name}.stamp")
    with suppress(OSError, ValueError):
        if tuple(json.loads(note.read_text(encoding="ascii"))) == stamp and target.stat().st_size == stamp[0]:
            return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as file:
            for offset in range(0, stamp[0], PIECE_BYTES):
                file.write(read_range(url, offset, min(PIECE_BYTES, stamp[0] - offset)))
        # The time of a copy says which version it is, on every machine, so that lists with times are the same everywhere.
        os.utime(target, ns=(stamp[1], stamp[1]))
        with whole_file(note) as file:
            file.write(json.dumps(stamp).encode())
    except OSError as error:
        raise DataError(
            f"{target}: the copy of {url} cannot be written ({error.strerror or error}); make room, or set ZOO_CACHE"
        ) from error


def _cells(table: Path) -> Iterator[str]:
    """Yield all texts of a CSV or JSON-lines table; lines that cannot be read are left to the reader of the table."""
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        if table.suffix.lower() in (".csv", ".tsv", ".tab"):
            for line in file:
                yield from (cell.strip().strip('"') for cell in re.split(r"[,\t;|]", line))
            return
        for line in file:
            try:
                yield from _texts(json.loads(line))
            except (ValueError, RecursionError):
                continue


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        return [value]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (text for each in inside for text in _texts(each))
