"""Files that are not on this disk: ``s3://``, ``gs://``, ``https://``, ``hf://datasets/...`` and whatever else fsspec knows.

Two ways to read: ``read_range`` reads bytes of a large file where it lies (tar shards); ``local_file`` and ``local_folder`` copy what has
to be a file into the cache and give its path, so that all other code sees ordinary files. A copy appears whole or not at all, and is
taken again if the size or the version of the original changes. Broken connections are tried again. fsspec is an optional dependency;
names on this disk never reach this module.
"""

import asyncio
import functools
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from zoo.errors import ConfigError, DataError, first_line, name_choices
from zoo.storage.files import whole_file
from zoo.storage.lock import alone
from zoo.storage.places import cache_directory

T = TypeVar("T")
TRIES = 5
FIRST_WAIT_S = 0.2  # doubled after each try
PIECE_BYTES = 2**24  # of a copy per request: what a broken connection costs
COPIES_AT_ONCE = 16
PATIENCE_S = 24 * 3600.0  # for another process that copies the same folder
TABLES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".json")
EXTRAS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs", "https": "aiohttp", "http": "aiohttp"}
Problem = Callable[[str], Exception]


def is_remote(name: str | Path) -> bool:
    """Return True for a name with a scheme, as ``s3://bucket/key``; a path of this disk has none."""
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", str(name)) is not None


def is_remote_data(name: object) -> bool:
    """Return True for a remote name that is no model of the hub (``hf://OWNER/NAME``), which has a reader of its own."""
    if not isinstance(name, str) or not is_remote(name) or name.startswith("timm://"):
        return False
    return not name.startswith("hf://") or name.startswith("hf://datasets/")


def _opened(url: str) -> tuple[Any, str]:
    """Return the file system of a URL and the path in it; a forked process gets a file system of its own from fsspec.

    Raises:
        ConfigError: there is no such scheme, or its library is not installed.
    """
    scheme = url.partition("://")[0]
    try:
        from fsspec.core import url_to_fs
        from fsspec.registry import known_implementations
    except ImportError as error:
        raise ConfigError(f"{url}: remote files need fsspec; install it with: pip install 'multimodal-zoo[remote]'") from error
    try:
        return url_to_fs(url)
    except ImportError as error:
        package = EXTRAS.get(scheme, "its package of fsspec")
        raise ConfigError(f"{url}: {scheme}:// needs {package} ({first_line(error)}); pip install 'multimodal-zoo[remote]'") from error
    except ValueError as error:
        raise ConfigError(f"{url}: there is no scheme {scheme!r}; {name_choices(scheme, known_implementations)}") from error


@functools.cache
def _faults() -> tuple[type[BaseException], ...]:
    """Return the exceptions that file systems raise for a network: those of Python, and of the libraries that are installed."""
    found: list[type[BaseException]] = [OSError, asyncio.TimeoutError, EOFError]
    for module, name in (("aiohttp", "ClientError"), ("botocore.exceptions", "BotoCoreError"), ("botocore.exceptions", "ClientError")):
        try:
            found.append(vars(__import__(module, fromlist=[name]))[name])
        except ImportError:
            continue
    return tuple(found)


def retried(work: Callable[[], T], url: str, problem: Problem = DataError) -> T:
    """Call ``work``; if the connection breaks, wait and call it again.

    Raises:
        Exception: as ``problem`` makes it, with one line; the file does not exist, access is denied, or all tries failed.
    """
    for attempt in range(TRIES):
        try:
            return work()
        except FileNotFoundError as error:
            raise problem(f"{url}: there is no such file or folder; check the name") from error
        except PermissionError as error:
            raise problem(f"{url}: access is denied ({first_line(error)}); check the credentials") from error
        except _faults() as error:
            if attempt == TRIES - 1:
                reason = first_line(error) or type(error).__name__
                raise problem(
                    f"{url}: cannot be read after {TRIES} tries ({reason}); check the network and run the command again"
                ) from error
        time.sleep(FIRST_WAIT_S * 2**attempt)
    raise AssertionError  # the last try returns or raises


def stamp_of(url: str, problem: Problem = DataError) -> tuple[int, int]:
    """Return the size of a file in bytes, and a number that changes with its version.

    Raises:
        Exception: as ``problem`` makes it; the file cannot be looked at, or has no known size.
    """
    files, path = _opened(url)
    return _stamp(retried(lambda: files.info(path), url, problem), url, problem)


def _stamp(info: dict[str, Any], url: str, problem: Problem = DataError) -> tuple[int, int]:
    if info.get("type") == "directory":
        raise problem(f"{url}: is a folder, where a file is expected")
    if not isinstance(info.get("size"), int):
        raise problem(f"{url}: its server does not tell the size, without which a cut copy cannot be found; copy it to this disk")
    words = [str(info.get(key)) for key in ("ETag", "etag", "LastModified", "last_modified", "mtime", "updated", "created", "blob_id")]
    return info["size"], int.from_bytes(hashlib.blake2b("\0".join(words).encode(), digest_size=6).digest(), "big")


def read_range(url: str, offset: int, count: int, problem: Problem = DataError) -> bytes:
    """Read ``count`` bytes of a file from a byte offset; the range lies inside the file.

    Raises:
        Exception: as ``problem`` makes it, after several tries.
    """
    files, path = _opened(url)

    def read() -> bytes:
        found = files.cat_file(path, start=offset, end=offset + count) if count else b""
        if len(found) > count:  # a web server that ignores ranges sends the whole file
            found = found[offset : offset + count]
        if len(found) < count:
            raise EOFError(f"got {len(found)} of {count} bytes at byte {offset}")
        return found

    return retried(read, url, problem)


def matches(pattern: str) -> list[str]:
    """Return the URLs that match a pattern with ``*``, sorted.

    Raises:
        DataError: the folder cannot be listed.
    """
    files, path = _opened(pattern)
    return sorted(files.unstrip_protocol(found) for found in retried(lambda: files.glob(path), pattern))


def local_file(url: str, directory: str | Path | None = None) -> Path:
    """Return a local copy of a file, in the cache; it is copied if there is none or the original has changed.

    Args:
        directory: the cache; None takes that of ``zoo fetch``.

    Raises:
        DataError: the file cannot be read.
    """
    files, path = _opened(url)
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
        found = {name: info for name, info in _listing(url).items() if takes(name)}
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
    try:
        listed = _listing(folder)
    except DataError:  # a web server without listings: the rows then say which files are missing
        listed = {}
    beside = {name for name in listed if name in names}
    if beside:
        local_folder(folder, directory, takes=beside.__contains__)
    return table


def localised(name: str, directory: str | Path | None = None) -> str:
    """Return the name of a local file or folder for a remote one; a name on this disk stays as it is.

    Raises:
        DataError: it cannot be read.
    """
    if not is_remote_data(name):
        return name
    if name.lower().endswith(TABLES):
        return str(local_table(name, directory))
    files, path = _opened(name)
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


def upload(source: Path, url: str, *, last: str = "") -> None:
    """Write a local file or folder to a remote place; each file appears whole, and ``last`` after all others.

    Args:
        last: name of the file that says that the others are complete.

    Raises:
        DataError: it cannot be written; the local copy stays.
    """
    files, path = _opened(url)
    inside = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file() and not p.name.startswith("."))
    for each in sorted(inside, key=lambda each: each.name == last):
        place = path.rstrip("/") if source.is_file() else f"{path.rstrip('/')}/{each.relative_to(source).as_posix()}"
        try:
            retried(lambda each=each, place=place: files.put_file(str(each), place), url)
        except (DataError, NotImplementedError) as error:
            raise DataError(f"{url}: cannot be written ({first_line(error)}); the result is whole in {source}: copy it by hand") from error


def _listing(url: str) -> dict[str, dict[str, Any]]:
    """Return the files below a remote folder with their properties, by relative name, sorted."""
    files, path = _opened(url)
    found = retried(lambda: files.find(path, detail=True), url)
    root = files._strip_protocol(path).rstrip("/") + "/"
    return {name.removeprefix(root): info for name, info in sorted(found.items()) if name.startswith(root)}


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
    if not isinstance(info.get("size"), int):  # listings of web servers lack sizes
        files, path = _opened(url)
        info = retried(lambda: files.info(path), url)
    stamp, note = _stamp(info, url), target.with_name(f".{target.name}.stamp")
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
