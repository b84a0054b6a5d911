"""Models of ours as others' files: a transformers directory, or weights under timm's or a paper's names."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.interop import vig
from zoo.interop.base.image_preprocessing import preprocessor
from zoo.interop.clip import transformers_clip
from zoo.interop.vit import timm_vit, transformers_dinov2, transformers_vit
from zoo.processors.image import ImageProcessor
from zoo.registry import find_part
from zoo.registry.construct import build_part
from zoo.storage.hub import CONFIG as FOREIGN_CONFIG
from zoo.types import config_of, is_system, processor_of


@dataclass(frozen=True)
class Parts:
    """What is exported: an image encoder with its whole keywords, and perhaps a classifier."""

    encoder: nn.Module
    family: str
    arguments: Mapping[str, Any]
    head: nn.Module | None
    processor: ImageProcessor


def parts_of(model: nn.Module) -> Parts:
    """Take an image encoder, or a classifier of images, apart.

    Raises:
        ConfigError: it is neither.
    """
    system = model if is_system(model) else None
    encoder: Any = model if system is None else dict(system.encoders).get("image")
    config = config_of(model).get("encoder") if system is None else system.config["encoders"].get("image")
    alone = system is None or (len(system.encoders) == 1 and hasattr(system.head, "linear"))
    if config is None or not alone or encoder.modality != "image":
        raise ConfigError(f"export: {type(model).__name__} is no image encoder and no classifier of images; only these can be exported")
    keywords = {key: value for key, value in config.items() if key != "name"}
    defaults = {key: p.default for key, p in inspect.signature(find_part("encoder", config["name"])).parameters.items()}
    settings = {"image_size": encoder.image_size, **getattr(encoder, "preprocessing", {})}
    saved = processor_of(model)
    processor = saved["image"] if saved is not None else build_part("processor", {"name": "image", **settings}, "processor.image")
    return Parts(encoder, config["name"], {**defaults, **keywords}, None if system is None else cast(nn.Module, system.head), processor)


def _refuse_family(parts: Parts, family: str, format: str) -> None:
    if parts.family != family:
        raise ConfigError(f"format: {format!r} has no {parts.family!r}, only {family!r}; choose another, or save it with zoo.save")


def _to_timm(parts: Parts) -> tuple[dict[str, Any], dict[str, Tensor]]:
    _refuse_family(parts, "vit", "timm")
    head = {} if parts.head is None else timm_vit.classifier_from_zoo(_linear_only(parts.head, "timm"))
    registers = bool(parts.arguments["num_registers"])  # timm's carry no position, nor does the class token before them
    return {}, timm_vit.from_zoo(parts.encoder.state_dict(), no_embed_class=registers) | head


def _to_vig(parts: Parts) -> tuple[dict[str, Any], dict[str, Tensor]]:
    _refuse_family(parts, "vig", "vig")
    head = {} if parts.head is None else vig.classifier_from_zoo(parts.head.state_dict())
    return {}, vig.from_zoo(parts.encoder.state_dict()) | head


def _to_transformers(parts: Parts) -> tuple[dict[str, Any], dict[str, Tensor]]:
    _refuse_family(parts, "vit", "transformers")
    state = parts.encoder.state_dict()
    files = {"preprocessor_config.json": preprocessor(parts.processor)}
    if parts.head is not None:
        weights = _linear_only(parts.head, "transformers")
        names: Any = parts.head.class_names or [f"LABEL_{i}" for i in range(len(weights["linear.bias"]))]
        labels = {"id2label": {str(i): name for i, name in enumerate(names)}, "label2id": {name: i for i, name in enumerate(names)}}
        config = {**transformers_vit.config(parts.arguments), **labels, "architectures": ["ViTForImageClassification"]}
        tensors = transformers_vit.from_zoo(state, prefix="vit.") | transformers_vit.classifier_from_zoo(weights)
        return {**files, FOREIGN_CONFIG: config}, tensors
    reasons = []
    for origin in (transformers_vit, transformers_dinov2, transformers_clip):
        try:
            config = origin.config(parts.arguments)
        except ConfigError as error:
            reasons.append(str(error))
        else:
            return {**files, FOREIGN_CONFIG: config}, origin.from_zoo(state)
    raise ConfigError("format: 'transformers' has no model of this form: " + "; ".join(reasons))


def _linear_only(head: nn.Module, format: str) -> dict[str, Tensor]:
    state = head.state_dict()
    if set(state) != {"linear.weight", "linear.bias"}:
        raise ConfigError(f"format: {format!r} has plain linear classifiers only; this head also has {', '.join(sorted(state))}")
    return state


FORMATS: dict[str, Callable[[Parts], tuple[dict[str, Any], dict[str, Tensor]]]] = {
    "transformers": _to_transformers,
    "timm": _to_timm,
    "vig": _to_vig,
}
