"""Inputs and outputs of a command that are not on this disk: copied before it runs, uploaded after it."""

import hashlib
import os
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.errors import ConfigError
from zoo.runs.jobs.launchers import PARENT
from zoo.storage.copies import localised
from zoo.storage.places import cache_directory
from zoo.storage.remote import is_remote_data, upload

INPUTS = ("folder", "paths", "labels_file", "index", "image", "audio", "file", "templates")  # options that name files or folders
LAST = "manifest.json"  # of an index: says that its other files are complete


def is_elsewhere(options: Namespace) -> bool:
    """Return True if an input or the output of a command line has a scheme, as ``s3://bucket/key``."""
    values = vars(options)
    return any("://" in str(values.get(name)) for name in (*INPUTS, "output"))


def run_on_this_disk(run: Callable[[Namespace], int], options: Namespace) -> int:
    """Run a command with local copies of its remote inputs; upload its output if that is remote.

    Raises:
        DataError: an input cannot be read.
        ConfigError, DataError: as ``uploaded``.
    """
    values = vars(options)
    for name in INPUTS:
        if name in values:
            values[name] = _local(values[name])
    url = values.get("output")
    if not is_remote_data(url):
        return run(options)

    def run_with(staged: Path) -> int:
        values["output"] = str(staged)
        return run(options)

    return uploaded(str(url), options, run_with)


def uploaded(url: str, options: Namespace, run: Callable[[Path], int]) -> int:
    """Run a command with a local output, and upload that; returns the command's status.

    Raises:
        ConfigError: the scheme cannot be written, or shares of several machines would not see each other.
        DataError: the output cannot be written; it is then whole on this disk.
    """
    if url.startswith(("http://", "https://", "hf://")):
        raise ConfigError(f"--output: {url}; results can be written to this disk, s3:// and gs://; name one of them")
    values, is_worker = vars(options), PARENT in os.environ
    if (values.get("shard") is not None and not is_worker) or values.get("launcher") not in (None, "local"):
        raise ConfigError(f"--output: {url}; the shares of several machines need a folder that all of them see; upload it afterwards")
    staged = staging_place(url)
    staged.parent.mkdir(parents=True, exist_ok=True)
    status = run(staged)
    if status in (0, 1) and not is_worker:
        upload(staged, url, last=LAST)
        if not values.get("json"):
            print(f"uploaded: {url}")
    return status


def staging_place(url: str) -> Path:
    """Return the local place of a remote output; it is kept, so that an interrupted job resumes there."""
    digest = hashlib.blake2b(url.rstrip("/").encode(), digest_size=8).hexdigest()
    return cache_directory() / "uploads" / digest / url.rstrip("/").rpartition("/")[2]


def _local(value: Any) -> Any:
    if isinstance(value, list):
        return [_local(each) for each in value]
    return localised(value) if is_remote_data(value) else value
