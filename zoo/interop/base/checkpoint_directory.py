"""Directories of checkpoints that zoo wrote: find them, read their config and processor."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.data.system_processor import Processor, hash_files
from zoo.errors import WeightsError, name_choices
from zoo.registry.construct import refuse_code
from zoo.registry.schemas import read_model_config
from zoo.storage.files import CONFIG_FILE, WEIGHTS_FILE, recover
from zoo.storage.places import packaged_directory

FORMAT = 1  # version of the checkpoint directory


def find_weights(weights: str | Path, name: str | None = None) -> Path:
    """Return the path of weights; "bundled" or a bundled model's name is a folder of the packaged assets.

    Raises:
        WeightsError: "bundled", but the model has no bundled weights.
    """
    wanted = name if weights == "bundled" else str(weights)
    if wanted in bundled_names() and (weights == "bundled" or not Path(weights).exists()):
        return packaged_directory("assets") / str(wanted)
    if weights == "bundled":
        raise WeightsError(f"weights: no bundled weights for {name!r}; {name_choices(str(name), bundled_names())}")
    return Path(weights)


def bundled_names() -> list[str]:
    """Return the names of the models whose weights ship with zoo."""
    return sorted(path.parent.name for path in packaged_directory("assets").glob(f"*/{CONFIG_FILE}"))


def find_checkpoint(path: Path) -> Path:
    """Return the saved model of a directory: itself, or ``best`` or ``last`` inside a run directory.

    Raises:
        WeightsError: there is none.
    """
    for candidate in (path, path / "best", path / "last"):
        recover(candidate)
        if (candidate / WEIGHTS_FILE).is_file() and (candidate / CONFIG_FILE).is_file():
            return candidate
    if not path.exists():
        raise WeightsError(
            f"{path}: no such directory or file; give a run directory, a saved model, or one of: {', '.join(bundled_names())}"
        )
    raise WeightsError(f"{path}: holds no model ({CONFIG_FILE} and {WEIGHTS_FILE}, there or in best/ or last/)")


def read_config(directory: Path) -> dict[str, Any]:
    """Read and check a checkpoint's ``config.yaml``; keys that name code are refused.

    Raises:
        WeightsError: the file cannot be read, or has another format.
    """
    path = directory / CONFIG_FILE
    config = read_model_config(path)
    if config.get("format") != FORMAT:
        raise WeightsError(f"{path}: format is {config.get('format')!r}; this zoo reads format {FORMAT}")
    refuse_code(config)
    return config


def load_processor(directory: Path, config: Mapping[str, Any]) -> Processor | None:
    """Read the processor that was saved with the weights; one that was changed after saving is refused.

    Raises:
        WeightsError: the files are not those that were saved.
    """
    expected = config.get("processor_sha256")
    if expected is None:
        return None
    if hash_files(directory) != expected:
        raise WeightsError(
            f"{directory}: processor.json or tokenizer.json is not the one that these weights were saved with "
            f"(SHA-256 {hash_files(directory)[:12]}, expected {expected[:12]}); restore it, or save the model again"
        )
    return Processor.load(directory)
