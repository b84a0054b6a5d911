"""Files of a model in a local directory or on the Hugging Face hub (``HF_ENDPOINT``), from its cache or downloaded."""

import logging
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import ConfigError, WeightsError, ZooError, name_choices
from zoo.storage import outside
from zoo.storage.hub_faults import faults, is_unreachable, reason_of

log = logging.getLogger("zoo")

CONFIG = "config.json"
OWNED = r"[\w-][\w.-]*/[\w-][\w.-]*"  # OWNER/NAME
INSTALL = "zoo install transformers"


def is_hub_id(text: str) -> bool:
    """Return True for ``OWNER/NAME`` or ``OWNER/NAME@REVISION``, which is also a path's form."""
    return re.fullmatch(rf"{OWNED}(@\S+)?", text) is not None


@dataclass(frozen=True)
class Repository:
    """A model of the hub at one commit.

    Attributes:
        origin: as the user named it, for messages.
        name: ``owner/name``.
        revision: branch, tag or commit that the user asked for; empty for the default branch.
        files: names of its files: all of them, or those in the cache if the hub cannot be reached.
        cached: True if only the cache is read.
    """

    origin: str
    name: str
    revision: str
    files: tuple[str, ...]
    cached: bool = False

    def fetch(self, names: Iterable[str]) -> Path:
        """Return the local folder that holds the named files; those that are missing there are downloaded.

        Raises:
            WeightsError: a file cannot be downloaded.
        """
        from huggingface_hub import snapshot_download

        patterns = [re.sub(r"([*?[])", r"[\1]", name) for name in names]
        try:
            found = snapshot_download(
                self.name,
                revision=self.revision or None,
                allow_patterns=patterns,
                local_files_only=self.cached,
                tqdm_class=_bars_on_terminals(),
            )
        except faults() as error:
            raise WeightsError(f"{self.origin}: cannot be fetched: {reason_of(error, self.name, self.revision)}") from error
        return Path(found)


def _bars_on_terminals() -> type:
    """Return the library's progress bar, which is drawn on a terminal alone: a log file is no place for it."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords | {"disable": keywords.get("disable") or not sys.stderr.isatty()})

    return Bar


def find_repository(name: str, origin: str) -> Repository:
    """Ask the hub which files a model has; if it cannot be reached, the newest copy in the cache is used.

    Args:
        name: ``owner/name``, or ``owner/name@revision`` with a branch, a tag or a commit.
        origin: as the user named it, for messages.

    Raises:
        WeightsError: there is no such model or revision, no access, or neither a network nor a copy in the cache.
    """
    name, _, revision = name.partition("@")
    if not re.fullmatch(rf"{OWNED}|[\w-][\w.-]*", name):
        raise WeightsError(f"{origin}: is no name of a model on the hub; write hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise WeightsError(f"weights: hf:// needs huggingface_hub; install it with: {INSTALL}") from error
    try:
        info = HfApi().model_info(name, revision=revision or None, timeout=10)
        return Repository(origin, name, revision, tuple(each.rfilename for each in info.siblings or ()))
    except faults() as error:
        cached = _cached_files(name, revision) if is_unreachable(error) else None
        if cached is None:
            raise WeightsError(f"{origin}: cannot be fetched: {reason_of(error, name, revision)}") from error
        _tell_cached(origin, cached[0], error)
        return Repository(origin, name, revision, cached[1], cached=True)


def _cached_files(name: str, revision: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the commit in the cache and the names of its files; None if there is no copy."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=[], local_files_only=True))
    except faults():
        return None
    files = tuple(path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    return (folder.name, files) if files else None


def _tell_cached(origin: str, commit: str, error: BaseException) -> None:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return  # the user asked for it
    why = "does not give it" if isinstance(error, HfHubHTTPError) and error.response.status_code < 500 else "cannot be reached"
    log.warning("%s: the hub %s; using commit %s of the cache, which may be old", origin, why, commit[:12])


def find_file(source: str, name: str) -> Path | None:
    """Return a file of a local directory, or of a model on the hub (from the cache or downloaded); None if the model has no such file.

    Args:
        source: a directory, or ``OWNER/NAME``, perhaps with ``@REVISION``.
        name: of the file.

    Raises:
        ConfigError: there is neither such a directory nor such a model, or it cannot be fetched.
    """
    directory = Path(source).expanduser()
    if directory.is_dir():
        return directory / name if (directory / name).is_file() else None
    _refuse_missing_directory(source, directory)
    try:
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import RemoteEntryNotFoundError
    except ImportError as error:
        raise ConfigError(f"{source}: no such directory; a hub id needs huggingface_hub: {INSTALL}") from error
    model, _, revision = source.partition("@")
    try:
        cached = try_to_load_from_cache(model, name, revision=revision or None)
        if cached is not None and not isinstance(cached, str):
            return None  # the cache knows that the model has no such file
        return Path(cached or hf_hub_download(model, name, revision=revision or None))
    except RemoteEntryNotFoundError:
        return None
    except faults() as error:  # offline, no such model, no access
        raise ConfigError(
            f"{source}: no such directory, and as a hub id its {name} is not in the local cache and cannot be fetched: "
            f"{reason_of(error, model, revision)}"
        ) from error


def _refuse_missing_directory(source: str, directory: Path) -> None:
    """Raise ConfigError for a name that can only be a directory, so that a misspelt path never waits for a network."""
    if directory.parent != Path() and directory.parent.is_dir():
        beside = [path.name for path in directory.parent.iterdir() if (path / CONFIG).is_file()]
        raise ConfigError(f"{source}: no such directory; {name_choices(directory.name, beside)} (in {directory.parent})")
    if not is_hub_id(source):
        raise ConfigError(f"{source}: no such directory; give one that transformers saved, or a hub id OWNER/NAME")


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        ConfigError: the file cannot be read or holds something else.
    """
    return outside.read_json_object(path, ConfigError)


def fetched_or_refused(fetch: Callable[[], Any], origin: str, name: str) -> Any:
    """Call a library that may use the hub; its errors become one line for a user.

    Args:
        fetch: the call.
        origin: as the user named it, for messages.
        name: ``owner/name``, or the library's own name.
    """
    try:
        return fetch()
    except ZooError:
        raise
    except faults() as error:  # no network, no such model, no weights for it
        raise WeightsError(f"{origin}: cannot be fetched: {reason_of(error, name)}; a local file may be given instead") from error
