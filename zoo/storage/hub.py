"""Files of a model in a local directory or on the Hugging Face hub."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.errors import ConfigError, WeightsError, first_line, name_choices
from zoo.storage import outside

CONFIG = "config.json"


def find_file(source: str, name: str) -> Path | None:
    """A file of a local directory or of a model on the hub (from the cache, or fetched into it); None if the model has none."""
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
    """Raise ConfigError for what can only be meant as a directory, so that a misspelt path never waits for a network."""
    if directory.parent != Path() and directory.parent.is_dir():
        beside = [path.name for path in directory.parent.iterdir() if (path / CONFIG).is_file()]
        raise ConfigError(f"transformers/{source}: no such directory; {name_choices(directory.name, beside)} (in {directory.parent})")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source):
        raise ConfigError(f"transformers/{source}: no such directory; give one that transformers saved, or a hub id OWNER/NAME")


def read_json_object(path: Path) -> dict[str, Any]:
    return outside.read_json_object(path, ConfigError)


def fetch_hub(name: str) -> Path:
    """The local folder of a model of the Hugging Face hub: from the cache, or fetched into it.

    Raises:
        WeightsError: no such model, or no network.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise WeightsError("weights: hf:// needs huggingface_hub; install it with: pip install 'multimodal-zoo[transformers]'") from error
    patterns = ["*.json", "*.safetensors", "*.txt", "*.model"]
    directory = Path(fetched_or_refused(lambda: snapshot_download(name, allow_patterns=patterns), f"hf://{name}"))
    if not any(directory.glob("*.safetensors")):  # only the oldest have none; many have both, and one is enough
        directory = Path(fetched_or_refused(lambda: snapshot_download(name, allow_patterns=[*patterns, "*.bin"]), f"hf://{name}"))
    return directory


def fetched_or_refused(fetch: Callable[[], Any], origin: str) -> Any:
    """Call a library that may fetch over the network; what it raises there becomes one line for a user."""
    try:
        return fetch()
    except (OSError, RuntimeError, ValueError) as error:  # no network, no such model, no weights for it
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{origin}: cannot be fetched ({reason}); check the name and the network, or give a local file") from error
