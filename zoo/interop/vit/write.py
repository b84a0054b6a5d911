"""Image encoders of ours, perhaps with a classifier, under the names of transformers and timm."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.interop.base.format import Export
from zoo.interop.base.image_preprocessing import preprocessor
from zoo.interop.base.transformers_config import refuse_others
from zoo.interop.clip import naflex, transformers_clip
from zoo.interop.vit import timm_vit, transformers_dinov2, transformers_vit
from zoo.processors.image import ImageProcessor
from zoo.registry import find_part
from zoo.registry.construct import build_part
from zoo.storage.hub import CONFIG as FOREIGN_CONFIG
from zoo.types import Encoder, config_of, encoders_of, head_of, is_system, processor_of

MULTI_LABEL = "multi_label_classification"  # transformers' problem_type of classifiers with a sigmoid for each class


@dataclass(frozen=True)
class VisionParts:
    """An image encoder with all its keywords and its image processor, and perhaps the head of a system."""

    encoder: Encoder
    family: str
    arguments: Mapping[str, Any]
    head: nn.Module | None
    processor: ImageProcessor


def vision_parts(model: nn.Module) -> VisionParts | None:
    """Take an image encoder, or a classifier of images, apart; None for any other model."""
    encoders, config = encoders_of(model), config_of(model)
    words = config["encoders"].get("image") if is_system(model) else config.get("encoder")
    head = head_of(model)
    if set(encoders) != {"image"} or words is None or (is_system(model) and config["head"].get("name") != "classifier"):
        return None
    encoder = encoders["image"]
    keywords = {key: value for key, value in words.items() if key != "name"}
    defaults = {key: p.default for key, p in inspect.signature(find_part("encoder", words["name"])).parameters.items()}
    settings = {"image_size": encoder.image_size, **encoder.preprocessing}
    saved = processor_of(model)
    processor = saved["image"] if saved is not None else build_part("processor", {"name": "image", **settings}, "processor.image")
    return VisionParts(encoder, words["name"], {**defaults, **keywords}, head, processor)


def refuse_family(parts: VisionParts, family: str, format: str) -> None:
    """Raise ConfigError for an image encoder of another family than the target has."""
    if parts.family != family:
        raise ConfigError(f"format: {format!r} has no {parts.family!r}, only {family!r}; choose another, or save it with zoo.save")


def to_timm(parts: VisionParts) -> Export:
    """Return weights with the names of timm's ``VisionTransformer``, or its ``NaFlexVit``; timm has no file for the sizes.

    Raises:
        ConfigError: the head is no plain linear classifier, or there is no norm behind the last block.
    """
    refuse_others(parts.arguments, {"final_norm": (True,)}, "timm's VisionTransformer")
    head = {} if parts.head is None else _linear_only(parts.head, "timm")
    registers = bool(parts.arguments["num_registers"])  # timm's carry no position, nor does the class token before them

    def tensors() -> dict[str, Tensor]:
        any_size = transformers_clip.takes_any_size(parts.arguments)
        encoder = timm_vit.from_zoo(parts.encoder.state_dict(), no_embed_class=registers, any_size=any_size)
        return encoder | (timm_vit.classifier_from_zoo(head) if head else {})

    return Export({}, tensors)


def to_transformers(parts: VisionParts) -> Export:
    """Return the directory of the first model of transformers that has the encoder's form.

    Raises:
        ConfigError: transformers has no model of this form, or no image processor like ours.
    """
    if parts.head is not None:
        return _classifier(parts, {"preprocessor_config.json": preprocessor(parts.processor)})
    reasons = []
    for origin in (transformers_vit, transformers_dinov2, transformers_clip):
        try:
            config = origin.config(parts.arguments)
        except ConfigError as error:
            reasons.append(str(error))
        else:
            any_size = config["model_type"] == f"{naflex.KIND}_vision_model"
            images = (naflex.preprocessor if any_size else preprocessor)(parts.processor)
            files = {"preprocessor_config.json": images, FOREIGN_CONFIG: config}
            return Export(files, partial(_tensors, parts, origin, {"any_size": True} if any_size else {}))
    raise ConfigError("format: 'transformers' has no model of this form: " + "; ".join(reasons))


def _tensors(parts: VisionParts, origin: Any, keywords: Mapping[str, Any]) -> dict[str, Tensor]:
    return origin.from_zoo(parts.encoder.state_dict(), **keywords)


def _classifier(parts: VisionParts, files: Mapping[str, Any]) -> Export:
    head: Any = parts.head
    weights = _linear_only(head, "transformers")
    names = head.class_names or [f"LABEL_{i}" for i in range(len(weights["linear.bias"]))]
    labels: dict[str, Any] = {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
    if head.multi_label:
        labels["problem_type"] = MULTI_LABEL
    config = {**transformers_vit.config(parts.arguments), **labels, "architectures": ["ViTForImageClassification"]}

    def tensors() -> dict[str, Tensor]:
        encoder = transformers_vit.from_zoo(parts.encoder.state_dict(), prefix="vit.")
        return encoder | transformers_vit.classifier_from_zoo(weights)

    return Export({**files, FOREIGN_CONFIG: config}, tensors)


def _linear_only(head: nn.Module, format: str) -> dict[str, Tensor]:
    state = head.state_dict()
    if set(state) != {"linear.weight", "linear.bias"}:
        raise ConfigError(f"format: {format!r} has plain linear classifiers only; this head also has {', '.join(sorted(state))}")
    return state
