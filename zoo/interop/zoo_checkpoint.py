"""Checkpoints that zoo wrote, and files of tensors under our own names."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from zoo.data.system_processor import Processor, hash_files
from zoo.errors import WeightsError, name_choices
from zoo.interop.base.files import HARMLESS
from zoo.interop.base.format import CONFIG_SAYS, UNSAID, Description, Format
from zoo.layers.adapters import KEY as ADAPTERS
from zoo.layers.adapters import can_be_folded, merged_tensors
from zoo.registry import register
from zoo.registry.construct import refuse_code
from zoo.registry.schemas import read_model_config
from zoo.storage.files import CONFIG_FILE, WEIGHTS_FILE, recover
from zoo.storage.places import packaged_directory
from zoo.types import is_system

if TYPE_CHECKING:
    from zoo.interop.base.source import Source

FORMAT = 1  # version of the checkpoint directory


@register("format")
class ZooCheckpoint(Format):
    """Directories that ``zoo.save`` wrote; also weights alone under our names, whose model the user names.

    ``zoo.save`` writes them, because it takes every model and builds it again from the config.
    """

    files = {"*": HARMLESS}

    def recognises(self, source: "Source") -> float:
        """Return 1 for a directory with ``config.yaml``, and a little for every other source: our names look like no other library's."""
        return CONFIG_SAYS if source.own_config is not None else UNSAID

    def describe(self, source: "Source") -> Description:
        """Return the saved config and processor."""
        if source.own_config is None or source.directory is None:
            from zoo.interop.base.recognise import library_config, not_described  # they look up every format, this one too

            if source.directory is not None:
                library_config(source, self)
            raise not_described(source)
        saved = load_processor(source.directory, source.own_config)
        return Description(dict(source.own_config), saved=saved, tells_processing=saved is not None)

    def read(self, source: "Source", part: str = "", into: nn.Module | None = None) -> Mapping[str, Tensor]:
        """Return the tensors of a part; adapters are merged into the weights if the model that takes them has no adapters."""
        from zoo.interop.base.placing import below, whole_system

        config = (source.own_config or {}).get("system")
        if config is not None and not part and into is not None and not is_system(into):
            raise whole_system(source, config["encoders"])
        tensors = below(source.tensors, part) or dict(source.tensors)  # a lone encoder's file has no prefix
        adapters = (config or {}).get(ADAPTERS)
        if into is None or adapters is None or not can_be_folded(adapters) or tensors.keys() == into.state_dict().keys():
            return tensors
        return below(merged_tensors(source.tensors, adapters), part)


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
