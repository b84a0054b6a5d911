"""Files that are not on this disk: ``s3://``, ``gs://``, ``https://``, ``hf://datasets/...`` and other schemes that fsspec knows.

``read_range`` reads bytes of a large file where it lies, as tar shards need it; ``zoo.storage.copies`` copies what has to be a file of
this disk. Broken connections are tried again. fsspec is an optional dependency; paths of this disk never reach this module.
"""

import functools
import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from zoo.errors import ConfigError, DataError, first_line, name_choices

T = TypeVar("T")
TRIES = 5
FIRST_WAIT_S = 0.2  # doubled after each try
WEB = ("http://", "https://")
EXTRAS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs", "https": "aiohttp", "http": "aiohttp"}
LIBRARY_FAULTS = (
    *(("aiohttp", "ClientError"), ("httpx", "HTTPError"), ("gcsfs.retry", "HttpError")),
    *(("botocore.exceptions", "BotoCoreError"), ("botocore.exceptions", "ClientError")),
)
Problem = Callable[[str], Exception]


def is_remote(name: str | Path) -> bool:
    """Return True for a name with a scheme, as ``s3://bucket/key``; a path of this disk has none."""
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", str(name)) is not None


def is_remote_data(name: object) -> bool:
    """Return True for a remote name that is no model of the hub (``hf://OWNER/NAME``), which has a reader of its own."""
    if not isinstance(name, str) or not is_remote(name) or name.startswith("timm://"):
        return False
    return not name.startswith("hf://") or name.startswith("hf://datasets/")


def open_url(url: str) -> tuple[Any, str]:
    """Return the file system of a URL and the path in it; a forked process gets a file system of its own from fsspec.

    Raises:
        ConfigError: there is no such scheme, or its library is not installed.
    """
    scheme = url.partition("://")[0]
    try:
        from fsspec.core import url_to_fs
        from fsspec.registry import known_implementations
    except ImportError as error:
        raise ConfigError(f"{url}: remote files need fsspec; install it with: zoo install remote") from error
    try:
        return url_to_fs(url)
    except ImportError as error:
        package = EXTRAS.get(scheme, "its package of fsspec")
        raise ConfigError(f"{url}: {scheme}:// needs {package} ({first_line(error)}); zoo install remote") from error
    except ValueError as error:
        raise ConfigError(f"{url}: there is no scheme {scheme!r}; {name_choices(scheme, known_implementations)}") from error


def open_url_now(url: str) -> tuple[Any, str]:
    """Return what ``open_url`` does, without the listings that fsspec remembers: the originals may have changed since."""
    files, path = open_url(url)
    files.invalidate_cache()
    return files, path


@functools.cache
def _faults() -> tuple[type[BaseException], ...]:
    """Return the exceptions that file systems raise for a network: those of Python, and of the libraries that are installed."""
    found: list[type[BaseException]] = [OSError, EOFError]  # TimeoutError is an OSError
    for module, name in LIBRARY_FAULTS:
        try:
            found.append(vars(__import__(module, fromlist=[name]))[name])
        except (ImportError, KeyError):
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
    files, path = open_url_now(url)
    return stamp_in(retried(lambda: files.info(path), url, problem), url, problem)


def stamp_in(info: dict[str, Any], url: str, problem: Problem = DataError) -> tuple[int, int]:
    """Return the stamp of ``stamp_of`` from the properties that fsspec gives for a file.

    Raises:
        Exception: as ``problem`` makes it; it is a folder, or its size is unknown.
    """
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
    files, path = open_url(url)

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
    files, path = open_url_now(pattern)
    return sorted(files.unstrip_protocol(found) for found in retried(lambda: files.glob(path), pattern))


def list_folder(url: str) -> dict[str, dict[str, Any]]:
    """Return the files below a remote folder with their properties, by relative name, sorted."""
    if url.startswith(WEB):
        raise DataError(f"{url}: a web server has no folders that could be listed; name its files")
    files, path = open_url_now(url)
    found = retried(lambda: files.find(path, detail=True), url)
    root = path.rstrip("/") + "/"
    return {name.removeprefix(root): info for name, info in sorted(found.items()) if name.startswith(root)}


def upload(source: Path, url: str, *, last: str = "") -> None:
    """Write a local file or folder to a remote place; each file appears whole, and ``last`` after all others.

    Args:
        last: name of the file that says that the others are complete.

    Raises:
        DataError: it cannot be written; the local copy stays.
    """
    files, path = open_url(url)
    inside = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file() and not p.name.startswith("."))
    for each in sorted(inside, key=lambda each: each.name == last):
        place = path.rstrip("/") if source.is_file() else f"{path.rstrip('/')}/{each.relative_to(source).as_posix()}"
        try:
            retried(lambda each=each, place=place: files.put_file(str(each), place), url)
        except (DataError, NotImplementedError) as error:
            raise DataError(f"{url}: cannot be written ({first_line(error)}); the result is whole in {source}: copy it by hand") from error
