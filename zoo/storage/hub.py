"""Files of a model in a local directory or on the Hugging Face hub."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.errors import ConfigError, WeightsError, first_line, name_choices

CONFIG = "config.json"
PATTERNS = ("*.json", "*.jinja", "*.safetensors", "*.txt", "*.model")  # files that are downloaded from the hub


def find_file(source: str, name: str) -> Path | None:
    """Return a file of a local directory, or of a model on the hub (from the cache or downloaded); None if the model has no such file."""
    directory = Path(source).expanduser()
    if directory.is_dir():
        return directory / name if (directory / name).is_file() else None
    _refuse_missing_directory(source, directory)
    try:
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import RemoteEntryNotFoundError
    except ImportError as error:
        raise ConfigError(
            f"transformers/{source}: no such directory; a hub id needs huggingface_hub: pip install 'multimodal-zoo[transformers]'"
        ) from error
    try:
        cached = try_to_load_from_cache(source, name)
        if cached is not None and not isinstance(cached, str):
            return None  # the cache knows that the model has no such file
        return Path(cached or hf_hub_download(source, name))
    except RemoteEntryNotFoundError:
        return None
    except (OSError, ValueError) as error:  # offline, no such model, no access
        raise ConfigError(
            f"transformers/{source}: no such directory, and as a hub id its {name} is not in the local cache and cannot be fetched "
            f"({first_line(error)}); check the name and the network, or give a directory"
        ) from error


def _refuse_missing_directory(source: str, directory: Path) -> None:
    """Raise ConfigError for a name that can only be a directory, so that a misspelt path never waits for a network."""
    if directory.parent != Path() and directory.parent.is_dir():
        beside = [path.name for path in directory.parent.iterdir() if (path / CONFIG).is_file()]
        raise ConfigError(f"transformers/{source}: no such directory; {name_choices(directory.name, beside)} (in {directory.parent})")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source):
        raise ConfigError(f"transformers/{source}: no such directory; give one that transformers saved, or a hub id OWNER/NAME")


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        ConfigError: the file cannot be read or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({first_line(error)}); it should be the JSON that transformers saves") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: holds {type(found).__name__}; it should be the JSON object that transformers saves")
    return found


def fetch_hub(name: str) -> Path:
    """Return the local folder of a model of the Hugging Face hub, from the cache or downloaded.

    Args:
        name: ``owner/name``, or ``owner/name@revision`` with a branch, a tag or a commit.

    Raises:
        WeightsError: there is no such model or revision, or no network.
    """
    name, _, revision = name.partition("@")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise WeightsError("weights: hf:// needs huggingface_hub; install it with: pip install 'multimodal-zoo[transformers]'") from error
    origin = f"hf://{name}@{revision}" if revision else f"hf://{name}"

    def fetch(*more: str) -> Path:
        patterns = [*PATTERNS, *more]
        found = fetched_or_refused(lambda: snapshot_download(name, revision=revision or None, allow_patterns=patterns), origin)
        return Path(found)

    directory = fetch()
    # Only old models have no safetensors; many have both forms, of which one is enough.
    return directory if any(directory.glob("*.safetensors")) else fetch("*.bin")


def fetched_or_refused(fetch: Callable[[], Any], origin: str) -> Any:
    """Call a library that may use the network; its errors become one line for a user."""
    try:
        return fetch()
    except (OSError, RuntimeError, ValueError) as error:  # no network, no such model, no weights for it
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{origin}: cannot be fetched ({reason}); check the name and the network, or give a local file") from error
