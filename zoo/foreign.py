"""Directories that transformers saved, as configs of ours: what ``zoo.load`` builds before it converts the weights."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from zoo.backbones import CONFIG as FOREIGN_CONFIG
from zoo.backbones import read_preprocessing
from zoo.convert import transformers_clip, transformers_dinov2, transformers_vit
from zoo.errors import ConfigError, WeightsError, name_choices

VISION: dict[str, ModuleType] = {  # by model_type
    "vit": transformers_vit,
    "dinov2": transformers_dinov2,
    "dinov2_with_registers": transformers_dinov2,
    "clip_vision_model": transformers_clip,
    "siglip_vision_model": transformers_clip,
}


def describe(directory: Path, keys: Iterable[str]) -> dict[str, Any]:
    """The content of the ``config.yaml`` that the same model has here: an encoder, or a system where it has a classifier.

    Args:
        keys: names of its weights.

    Raises:
        WeightsError: its ``config.json`` cannot be read.
        ConfigError: an architecture or preprocessing that we do not have.
    """
    path = directory / FOREIGN_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = None if "architecture" in config else config["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: not a config of transformers ({error!r}); fetch the directory again") from error
    if kind is None:
        raise ConfigError(f"{path}: a model of timm; use zoo.create_model('timm/{config['architecture']}', weights={str(directory)!r})")
    if kind not in VISION:
        raise ConfigError(
            f"{path}: model_type {kind!r} cannot be converted to parts of ours; {name_choices(str(kind), VISION)}. As it is, any vision "
            f"model can be used as the encoder transformers/{directory}"
        )
    keys = list(keys)
    encoder = {"name": "vit", **VISION[kind].arguments(config, keys), "preprocessing": _preprocessing(directory)}
    classifier = any(key.startswith("classifier.") for key in keys)
    return {"system": _classifier(directory, config, encoder)} if classifier else {"encoder": encoder}


def _preprocessing(directory: Path) -> dict[str, Any]:
    found = read_preprocessing(str(directory))
    return {} if found is None else {"image_size": found[0], **found[1]}


def _classifier(directory: Path, config: Mapping[str, Any], encoder: dict[str, Any]) -> dict[str, Any]:
    labels = config.get("id2label") or {}
    names = [str(name) for _, name in sorted(labels.items(), key=lambda pair: int(pair[0]))]
    head = {"name": "classifier", "num_classes": len(names) or config.get("num_labels", 2), "class_names": names or None}
    return {"name": directory.resolve().name, "encoders": {"image": encoder}, "head": head, "processor": {"image": {}}}
