"""Types of the files that zoo itself writes: a saved model's config, a run's config, and a processor's settings.

Such a file may come from anybody, so its types are checked before a part is built. Constructor keywords are checked later, against the
part that is built (``zoo.registry.construct``).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from zoo.errors import ConfigError, WeightsError, ZooError
from zoo.storage.checked import check
from zoo.storage.outside import read_json_object, read_yaml_object, shown

Part = dict[str, Any]
MAX_LAYERS = 10_000  # the deepest model in use has a few hundred
LAYERS = ("depth", "num_layers", "num_hidden_layers", "n_layer", "encoder_layers", "decoder_layers", "num_decoder_layers")


class SystemFile(TypedDict, total=False):
    """Node ``system`` of a config."""

    name: str | int
    encoders: dict[str, Part]
    head: Part
    processor: dict[str, Part | None] | None
    adapters: dict[str, Part | None] | None


class ModelFile(TypedDict, total=False):
    """Content of ``config.yaml`` beside saved weights."""

    format: int
    system: SystemFile
    encoder: Part
    language: Part
    head: Part
    processor_sha256: str | None
    requires: list[dict[str, str | None]]


class TrainingFile(TypedDict, total=False):
    """Node ``training`` of a run's config, as far as code reads it before the settings are constructed."""

    max_steps: int
    batch_size: int
    checkpoint_every: int
    evaluate_every: int
    adapters: dict[str, dict[str, Any] | None] | None


class DataFile(TypedDict, total=False):
    """Node ``data`` of a run's config."""

    source: Part


class RunFile(TypedDict, total=False):
    """Content of ``config.yaml`` of a run directory."""

    system: SystemFile
    data: DataFile
    training: TrainingFile
    seed: int
    run_dir: str | None
    resume: str | None


NEEDED = {"train": ("system", "data", "training", "seed"), "evaluate": ("checkpoint",)}


class ComposedFile(RunFile, total=False):
    """Composed config of ``zoo train`` or ``zoo evaluate``; a group may be null."""

    data: DataFile | None
    evaluation: Part | None
    objective: Part | None
    weights: dict[str, Any] | str | None
    teacher: str | None
    checkpoint: str
    evaluations: list[str | dict[str, Any]] | str | None
    output: str | None
    device: str


def check_composed(config: dict[str, Any], config_name: str) -> dict[str, Any]:
    """Return a composed config if its nodes have the types that code relies on.

    Raises:
        ConfigError: a node is missing, or of another type.
    """
    for key in NEEDED.get(config_name, ()):
        if key not in config:
            raise ConfigError(f"{key}: is missing in the config; leave out the override ~{key}")
    check(config, ComposedFile, "config", ConfigError, "correct the override or the config file")
    if config_name == "train":
        for key, node in (("system", config["system"]), ("data", config["data"]), ("data.source", (config["data"] or {}).get("source"))):
            if not isinstance(node, Mapping):
                raise ConfigError(
                    f"{key}: got {shown(node)}; a run needs one: choose it, for example with data=digits system=clip_vit_nano"
                )
    refuse_depth(config.get("system"), "config", ConfigError, "system")
    return config


def read_model_config(path: Path) -> dict[str, Any]:
    """Read the ``config.yaml`` of a saved model.

    Raises:
        WeightsError: not plain YAML, a value of the wrong type, an interpolation, or an absurd number of layers.
    """
    found = read_yaml_object(path, WeightsError)
    check(found, ModelFile, path, WeightsError, "save the model again")
    refuse_interpolations(found, path, WeightsError)
    refuse_depth(found, path, WeightsError)
    return found


def read_run_file(path: Path) -> dict[str, Any]:
    """Read the ``config.yaml`` of a run.

    Raises:
        ConfigError: not plain YAML, a value of the wrong type, or an interpolation.
    """
    found = read_yaml_object(path, ConfigError)
    check(found, RunFile, path, ConfigError, "restore the file that zoo train wrote")
    refuse_interpolations(found, path, ConfigError)
    return found


def read_processor_settings(path: Path) -> dict[str, dict[str, Any]]:
    """Read ``processor.json``: keywords by name of a processor.

    Raises:
        WeightsError: not a JSON object of objects.
    """
    return check(read_json_object(path, WeightsError), dict[str, dict[str, Any]], path, WeightsError, "save the model again")


def refuse_interpolations(config: Any, origin: object, error: type[ZooError], key: str = "") -> None:
    """Raise an error for ``${...}`` in a saved config: ``${oc.env:HOME}`` would read the environment of the user who loads it."""
    if isinstance(config, Mapping):
        for name, value in config.items():
            refuse_interpolations(value, origin, error, f"{key}.{name}".strip("."))
    elif isinstance(config, list):
        for number, value in enumerate(config):
            refuse_interpolations(value, origin, error, f"{key}[{number}]")
    elif isinstance(config, str) and "${" in config:
        raise error(
            f"{origin}: {key}: got {shown(config)}, an interpolation; a saved config holds plain values only: write the value itself"
        )


def refuse_depth(config: Any, origin: object, error: type[ZooError], key: str = "") -> None:
    """Raise an error for a number of layers that would keep the constructor busy for ever."""
    if not isinstance(config, Mapping):
        return
    for name, value in config.items():
        here = f"{key}.{name}".strip(".")
        if name in LAYERS and isinstance(value, int) and value > MAX_LAYERS:
            raise error(f"{origin}: {here}: got {shown(value)} layers; allowed are at most {MAX_LAYERS:,}: correct the config")
        refuse_depth(value, origin, error, here)
