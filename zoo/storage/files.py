"""Files that appear whole or not at all, and the names of the files of a checkpoint."""

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import yaml

from zoo.errors import DataError, WeightsError
from zoo.storage.lock import held, is_held, is_running
from zoo.storage.outside import refuse_special

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.yaml"


def read_yaml(path: Path) -> Any:
    """Read plain YAML; the safe loader refuses tags that build objects."""
    loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader  # the loader written in C is ten times as fast
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yield a fresh folder that becomes ``target`` when the block ends well; otherwise ``target`` stays as it was.

    A kill at any moment leaves the old folder, the new one, or (between two renames) the old one under ``.NAME.*.old``, which the next
    writer or reader puts back with ``recover``. The next writer also removes what killed writers left. If ``target`` is a symbolic
    link, the folder that it points to is replaced and the link is kept.
    """
    target = real_path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    recover(target)
    _sweep(target)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        with held(fresh):
            yield fresh
            fresh.chmod(0o755)  # mkdtemp and safetensors make what they write private
            for path in fresh.rglob("*"):
                path.chmod(0o755 if path.is_dir() else 0o644)
            sync_files(fresh.rglob("*"))
            _replace(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def real_path(path: Path) -> Path:
    """Return the path that a chain of symbolic links ends at; the file or folder need not exist."""
    return Path(os.path.realpath(path))


def _replace(fresh: Path, target: Path) -> None:
    """Rename ``fresh`` to ``target``; a folder that stands there is first moved aside and then removed."""
    while True:
        old = fresh.with_suffix(".old")  # the random part of the name of ``fresh`` makes it unique
        if target.exists():
            target.rename(old)
        try:
            fresh.rename(target)
            break
        except OSError as error:  # a reader put the old folder back between the two renames
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not target.is_dir():
                raise
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _leftovers(target: Path, suffix: str) -> list[Path]:
    """Return what killed writers left of a folder, oldest first: ``.last.tmp``, ``.last.k3x9.tmp``."""
    name = re.compile(rf"\.{re.escape(target.name)}(\.[a-z0-9_]{{8}})?{re.escape(suffix)}")  # 8: as mkdtemp draws
    found = [path for path in target.parent.iterdir() if name.fullmatch(path.name)] if target.parent.is_dir() else []
    return sorted(found, key=lambda path: path.lstat().st_mtime_ns)


def _sweep(target: Path) -> None:
    """Remove the unfinished and the replaced folders of killed writers; those of a writer that still runs are kept."""
    for path in [*_leftovers(target, ".tmp"), *_leftovers(target, ".old")]:
        if path.is_symlink():
            path.unlink(missing_ok=True)
        elif path.is_dir() and not is_held(path):
            shutil.rmtree(path, ignore_errors=True)


def recover(target: Path) -> None:
    """Give a directory its name back if a kill between two renames left it under another name."""
    target = real_path(target)
    if not target.exists() and (old := _leftovers(target, ".old")):
        with suppress(OSError):  # another reader was faster, or this one may not write
            old[-1].rename(target)


def sync_files(paths: Iterable[Path]) -> None:
    """Flush files to disk, so that a rename never publishes an empty one."""
    for path in paths:
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, so that a rename survives a power failure; some file systems cannot, which is ignored."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def hash_of_files(directory: Path, names: Iterable[str]) -> str:
    """Return the SHA-256 of the names and contents of those files of a directory that exist, in the given order.

    Raises:
        WeightsError: one of them is a folder, a pipe or a device.
    """
    digest = hashlib.sha256()
    for name in names:
        path = directory / name
        if path.exists():
            refuse_special(path, WeightsError)  # a pipe would block
            digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def create_folder_of(output: Path, option: str = "--output") -> None:
    """Create the missing folders of a file that a command will write; call this before the work starts, so that no result is lost.

    Args:
        output: the file.
        option: name of the option that gave it, for the message.

    Raises:
        DataError: the folder cannot be created, or is a file.
    """
    folder = real_path(output).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "a file has this name" if folder.exists() else error.strerror
        raise DataError(f"{option}: the folder {folder} cannot be created ({reason}); give a file in another folder") from error


def write_text_atomically(path: Path, text: str) -> None:
    """Write a small file so that readers see the old or the new one, never half; a symbolic link is kept."""
    path = real_path(path)
    fresh = path.with_name(f".{path.name}.tmp")
    if fresh.is_dir() and not fresh.is_symlink():
        shutil.rmtree(fresh)
    try:
        fresh.write_text(text, encoding="utf-8")
        sync_files([fresh])
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)  # half a file would only fill a disk that is full already
        raise


def write_whole(output: Path, write: Callable[[TextIO], object] | bytes) -> None:
    """Write a file that appears whole or not at all: bytes, or the text that ``write`` writes into it.

    Raises:
        DataError: the output cannot be written.
    """
    output = real_path(output)
    unfinished = output.with_name(f".{output.name}.{os.getpid()}.unfinished")
    try:
        _sweep_unfinished(output)
        if isinstance(write, bytes):
            unfinished.write_bytes(write)
        else:  # file names that are not UTF-8 are written as escapes, as JSON needs them
            with unfinished.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                write(file)
        sync_files([unfinished])
        os.replace(unfinished, output)
    except OSError as error:
        raise DataError(f"output: {output} cannot be written ({error.strerror}); check the folder's mode and the disk's space") from error
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write that becomes ``path`` when the block ends well; several processes, also of several machines, may do so at once.

    Raises:
        OSError: the folder cannot be written.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    fresh = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        fresh.chmod(0o644)  # mkstemp makes what it writes private
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _sweep_unfinished(output: Path) -> None:
    """Remove the unfinished files of writers that were killed; a file's name holds the id of its process."""
    name = re.compile(rf"\.{re.escape(output.name)}\.(\d+)\.unfinished")
    with suppress(OSError):  # if the folder cannot be written, writing the output says so
        for path in output.parent.iterdir():
            if (found := name.fullmatch(path.name)) and not is_running(int(found[1])):
                path.unlink(missing_ok=True)
