"""Helpers for parts that wrap a model of transformers: parse its config and load its weights strictly, without output.

Reference: transformers 5.17. Nothing here runs code shipped with a model, reads pickle files, or uses the network.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError, WeightsError, name_choices

DTYPES = ("dtype", "torch_dtype")  # keys of a config that are dropped: the run chooses the dtype, not the checkpoint


def import_transformers() -> ModuleType:
    """Return the module transformers, which is an optional dependency.

    Raises:
        ConfigError: transformers is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ConfigError("config: transformers is not installed; install it with: zoo install transformers") from error
    return transformers


@contextmanager
def quiet_and_offline() -> Iterator[None]:
    """Silence transformers and keep it offline inside this context.

    Transformers prints messages while it builds and loads models, and some of its models would download another one from the hub.
    """
    from huggingface_hub import constants
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with patch.object(constants, "HF_HUB_OFFLINE", True):
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def parse_config(config: Mapping[str, Any], refused: Mapping[str, str], example: str) -> Any:
    """Return the ``PretrainedConfig`` of a parsed ``config.json``.

    Args:
        config: the parsed ``config.json``.
        refused: model types that cannot be used, and the reason.
        example: a model type that can be used, for messages.

    Raises:
        ConfigError: the config refers to custom code (``auto_map``) or quantised weights, its ``model_type`` is unknown or cannot be used
            here, or transformers rejects a value.
    """
    library = import_transformers()
    settings = {key: value for key, value in config.items() if key not in DTYPES}
    kind = settings.pop("model_type", None)
    parts = [("config", config), *((f"config.{key}", value) for key, value in config.items() if isinstance(value, Mapping))]
    for where, part in parts:
        if "auto_map" in part:
            raise ConfigError(
                f"{where}.auto_map: {part['auto_map']!r} names code, which is never run; choose a model that is part of transformers"
            )
    if kind not in library.CONFIG_MAPPING:
        near = name_choices(kind, library.CONFIG_MAPPING) if isinstance(kind, str) else f"a config names one, for example {example}"
        raise ConfigError(f"config.model_type: transformers has no {kind!r}; {near}")
    if kind in refused:
        raise ConfigError(f"config.model_type: {kind!r} cannot be used here: {refused[kind]}")
    if "quantization_config" in settings:
        raise ConfigError("config.quantization_config: quantised weights cannot be used; give a directory with unquantised weights")
    from huggingface_hub.errors import StrictDataclassError

    try:
        with quiet_and_offline():
            parsed = library.AutoConfig.for_model(kind, **settings)
    except (AttributeError, KeyError, OSError, StrictDataclassError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(f"config: transformers rejects this config for model_type {kind!r}: {reason}") from error
    parsed.return_dict = True  # outputs are read by name; some configs ask for tuples
    return parsed


def first_number(config: Any, keys: Sequence[str], default: int | None = None) -> int:
    """Return the first of the keys that a config has as a whole number above 0.

    Raises:
        ConfigError: it has none of them, and there is no default.
    """
    for key in keys:
        try:
            number = getattr(config, key, None)
        except RuntimeError:  # transformers' error for a value that differs from layer to layer (Gemma 4)
            continue
        if isinstance(number, int) and number > 0:
            return number
    if default is None:
        raise ConfigError(f"config (model_type {config.model_type}): gives no {' or '.join(keys)}, so it is no model of one stack")
    return default


def read_into(model: nn.Module, directory: str | Path, tensors: Mapping[str, Tensor] | None = None, **keywords: Any) -> nn.Module:
    """Return a model of the same class and config with the weights of a directory.

    Transformers reads the weights, and renames those of older checkpoints.

    Args:
        model: an instance of the class, with its config.
        directory: a directory with safetensors files.
        tensors: the weights, if they are not those of the directory's files as they are.
        keywords: further arguments of ``from_pretrained``.

    Raises:
        WeightsError: the files cannot be read, a weight is missing or has another shape, or a weight does not belong to the model.
    """
    read = type(model).from_pretrained  # type: ignore[attr-defined]
    keywords = {"config": model.config, "dtype": torch.get_default_dtype(), **keywords}
    careful = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        with torch.device("cpu"), quiet_and_offline():
            given = {"state_dict": dict(tensors)} if tensors is not None else {}
            place = str(directory) if tensors is None else None
            found, report = read(place, **given, **keywords, **careful)  # mismatched sizes are refused below, with their names
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{directory}: cannot be read as {type(model).__name__} ({reason})") from error
    _refuse_misfits(found, report, directory)
    return found


def _refuse_misfits(model: nn.Module, report: Mapping[str, Any], directory: str | Path) -> None:
    """Raise WeightsError if weights are missing, have another shape, or are left over inside the model (unused heads may be)."""
    # A checkpoint of a whole model has keys with a prefix ("vit.encoder..."), one of the backbone has none.
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    inside = {name for name, _ in model.named_children()}
    left = sorted(key for key in report["unexpected_keys"] if key.removeprefix(prefix).split(".")[0] in inside)
    resized = sorted(f"{key} {list(theirs)} -> {list(ours)}" for key, theirs, ours in report["mismatched_keys"])
    for word, keys in (("missing", sorted(report["missing_keys"])), ("resized", resized), ("left over", left)):
        if keys:
            hint = "; the checkpoint has no pooling layer: set pooler=false" if all("pooler" in key for key in keys) else ""
            raise WeightsError(f"{directory}: {len(keys)} weights {word} for {type(model).__name__} ({', '.join(keys[:3])}){hint}")
