"""Locks of files and folders that end with their process, even if it is killed."""

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from zoo.errors import ConfigError

fcntl: Any = import_module("fcntl") if os.name == "posix" else None  # Windows has none: no locks there

_ours: set[str] = set()  # files that this process holds: a lock of POSIX does not keep out its own process
TAKEN = (errno.EACCES, errno.EAGAIN)  # a lock is held by another process; other errors mean that the file system has no locks


@contextmanager
def alone(path: Path, message: str, *, patience_s: float = 0.0) -> Iterator[None]:
    """Lock a file for one process, and write into it which process that is; the file is made, and removed when the lock ends.

    The lock is one of POSIX (``lockf``): network file systems know it, and child processes do not inherit it, so that the workers of
    a killed process do not hold it. On a file system without locks, the process that the file names decides: on this machine it must
    have ended; one of another machine counts as running.

    Args:
        message: start of the error's text, for example "runs/a: another zoo train is writing to this run".
        patience_s: seconds to wait for a process that holds the lock.

    Raises:
        ConfigError: another process holds the lock; the text names the process and its machine.
        OSError: the file cannot be written.
    """
    if fcntl is None:
        yield
        return
    name = os.path.realpath(path)
    if name in _ours:  # not even opened: closing a second handle would end the lock
        raise ConfigError(f"{message} (this process); wait for it, or stop it")
    handle = _locked_soon(path, message, patience_s)
    _ours.add(name)
    try:
        note = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(note).encode(), 0)
        yield
    finally:
        with suppress(OSError):
            os.unlink(path)
        _ours.discard(name)
        os.close(handle)  # ends the lock


def _locked_soon(path: Path, message: str, patience_s: float) -> int:
    """Return an open and locked handle of a file; while another process holds the lock, wait for at most ``patience_s`` seconds."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return _locked(path, message)
        except ConfigError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.05)


def _locked(path: Path, message: str) -> int:
    """Return an open and locked handle of a file."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(handle, path, message)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(path)):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # the process before removed the file between our two steps; a new file needs a new lock


def _lock(handle: int, path: Path, message: str) -> None:
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except OSError as error:
        taken, note = error.errno in TAKEN, _note(handle)
    if taken or _may_run(note):
        name = f"process {note['pid']} on {note['host']}, since {note['since']}" if note else "no note says which process"
        advice = "wait for it, or stop it" if taken else f"if that process has ended, delete {path}"
        raise ConfigError(f"{message} ({name}); {advice}")


def _note(handle: int) -> dict[str, Any]:
    """Return the note of a lock file; empty if there is none, or if it is damaged."""
    try:
        note = json.loads(os.pread(handle, 4096, 0))
    except (OSError, ValueError):
        return {}
    whole = isinstance(note, dict) and {"host", "pid", "since"} <= note.keys() and isinstance(note["pid"], int)
    return note if whole else {}


def _may_run(note: dict[str, Any]) -> bool:
    return bool(note) and (note["host"] != socket.gethostname() or is_running(note["pid"]))


def is_running(pid: int) -> bool:
    """Return True if this machine has a process of this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # a process of another user
    return True


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Mark a folder as in use by this process, for ``is_held``; file systems without such locks are left without a mark."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def is_held(folder: Path) -> bool:
    """Return True if a living process holds the folder with ``held``."""
    if fcntl is None:
        return False
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in TAKEN
    finally:
        os.close(handle)
    return False
