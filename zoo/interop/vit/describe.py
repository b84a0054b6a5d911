"""Describe a vision tower of transformers as a config of ours."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from zoo.interop.base.library_files import image_keywords_of
from zoo.interop.clip import transformers_clip
from zoo.interop.vit import transformers_dinov2, transformers_vit

VISION: dict[str, ModuleType] = {  # by model_type
    "vit": transformers_vit,
    "dinov2": transformers_dinov2,
    "dinov2_with_registers": transformers_dinov2,
    "clip_vision_model": transformers_clip,
    "siglip_vision_model": transformers_clip,
}


def describe_vision(directory: Path, config: Mapping[str, Any], keys: list[str]) -> dict[str, Any]:
    encoder = {"name": "vit", **VISION[config["model_type"]].arguments(config, keys), "preprocessing": image_keywords_of(directory)}
    classifier = any(key.startswith("classifier.") for key in keys)
    return {"system": _classifier(directory, config, encoder)} if classifier else {"encoder": encoder}


def _classifier(directory: Path, config: Mapping[str, Any], encoder: dict[str, Any]) -> dict[str, Any]:
    labels = config.get("id2label") or {}
    names = [str(name) for _, name in sorted(labels.items(), key=lambda pair: int(pair[0]))]
    head = {"name": "classifier", "num_classes": len(names) or config.get("num_labels", 2), "class_names": names or None}
    return {"name": directory.resolve().name, "encoders": {"image": encoder}, "head": head, "processor": {"image": {}}}
