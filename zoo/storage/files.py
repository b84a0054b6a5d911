"""Files that appear whole or not at all, and the names of the files of a checkpoint."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import yaml

from zoo.errors import DataError

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.yaml"


def read_yaml(path: Path) -> Any:
    """Read plain YAML; the safe loader refuses tags that build objects."""
    loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader  # the loader written in C is ten times as fast
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yield a fresh folder that becomes ``target`` when the block ends well; otherwise ``target`` stays as it was.

    A kill at any moment leaves the old folder, the new one, or (between two renames) the old one under ``NAME.old``,
    which the next writer or reader puts back with ``recover``.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    recover(target)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        yield fresh
        fresh.chmod(0o755)  # mkdtemp and safetensors create private files
        for path in fresh.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        sync_files(fresh.rglob("*"))
        old = _old(target)
        if target.exists():
            target.rename(old)
        fresh.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def recover(target: Path) -> None:
    """Give a directory its name back if a kill between two renames left it under another name."""
    if not target.exists() and _old(target).exists():
        _old(target).rename(target)


def sync_files(paths: Iterable[Path]) -> None:
    """Flush files to disk, so that a rename never publishes an empty one."""
    for path in paths:
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def write_text_atomically(path: Path, text: str) -> None:
    """Write a small file so that readers see the old or the new one, never half."""
    fresh = path.with_name(f".{path.name}.tmp")
    fresh.write_text(text, encoding="utf-8")
    sync_files([fresh])
    fresh.replace(path)


def write_whole(output: Path, write: Callable[[TextIO], object] | bytes) -> None:
    """Write a file that appears whole or not at all: bytes, or the text that ``write`` writes into it.

    Raises:
        DataError: the output cannot be written.
    """
    unfinished = output.with_name(f".{output.name}.{os.getpid()}.unfinished")
    try:
        if isinstance(write, bytes):
            unfinished.write_bytes(write)
        else:  # file names that are not UTF-8 are written as escapes, as JSON needs them
            with unfinished.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                write(file)
        os.replace(unfinished, output)
    except OSError as error:
        raise DataError(f"output: {output} cannot be written ({error.strerror}); check the folder's mode and the disk's space") from error
    finally:
        unfinished.unlink(missing_ok=True)
