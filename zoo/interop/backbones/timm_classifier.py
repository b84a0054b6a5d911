"""Image classifiers that timm saved: its own encoder, and its linear classifier as the head ``classifier`` with the class names."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ConfigError
from zoo.interop.base.format import Description
from zoo.interop.base.placing import below
from zoo.interop.base.source import Source
from zoo.storage.hub import CONFIG

ARCHITECTURE = "architecture"  # key of timm's config.json
RESIZES = {"center": "crop", "squash": "squash", "border": "border"}  # from timm's crop_mode to ``resize`` of our image processor


def describe_classifier(source: Source) -> Description | None:
    """Return the system of a directory that timm saved; None for any other directory, and for an encoder alone.

    Raises:
        ConfigError: the classifier is not one linear layer after the pooled features.
    """
    config, path = source.config, f"{source.directory}/{CONFIG}"
    if ARCHITECTURE not in config or "model_type" in config or not config.get("num_classes"):
        return None
    told, number = dict(config.get("pretrained_cfg") or {}), int(config["num_classes"])
    name = _layer_name(told, source, path)
    if source.shapes[f"{name}.weight"][1] != config.get("num_features", source.shapes[f"{name}.weight"][1]):
        raise ConfigError(
            f"{path}: {config[ARCHITECTURE]} widens its features between pooling and classifier, which our head 'classifier' does not; "
            f"{_alone(config, source)}"
        )
    size = {"image_size": told["input_size"][-1]} if told.get("input_size") else {}
    head = {"name": "classifier", "num_classes": number, "class_names": class_names(config, number)}
    encoder = {"name": "timm", "model": config[ARCHITECTURE], **size}
    return Description(
        {"system": {"encoders": {"image": encoder}, "head": head, "processor": {"image": _images(told)}, "name": source.name}}
    )


def read_classifier(source: Source, part: str) -> dict[str, Tensor]:
    """Return the tensors of a described system, or of one of its parts."""
    name = _layer_name(dict(source.config.get("pretrained_cfg") or {}), source, source.origin)
    placed, tensors = {}, dict(source.tensors)
    weight, bias = tensors.pop(f"{name}.weight"), tensors.pop(f"{name}.bias", None)
    placed |= {f"encoders.image.model.{key}": tensor for key, tensor in tensors.items()}
    placed["head.linear.weight"] = weight.flatten(1)  # [classes, dim], also of a 1x1 convolution
    placed["head.linear.bias"] = torch.zeros(len(weight), dtype=weight.dtype) if bias is None else bias
    return below(placed, part)


def class_names(config: Mapping[str, Any], number: int) -> list[str] | None:
    """Return the names that the config tells, or those of ImageNet if the number of classes is of one of its subsets."""
    told = {**(config.get("pretrained_cfg") or {}), **config}
    names, texts = told.get("label_names"), told.get("label_descriptions") or {}
    if isinstance(names, Mapping):
        names = [name for _, name in sorted(names.items(), key=lambda pair: int(pair[0]))]
    if isinstance(names, list) and len(names) == number:
        return [str(texts.get(name, name)) for name in names]
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": number})
    if subset is None:
        return None
    info = ImageNetInfo(subset)  # reads its tables when it is made
    return [info.index_to_description(index) for index in range(number)]


def _layer_name(told: Mapping[str, Any], source: Source, path: str) -> str:
    name = told.get("classifier")
    if not isinstance(name, str) or f"{name}.weight" not in source.shapes:
        raise ConfigError(
            f"{path}: its classifier is {name!r}, which is not one linear layer among its weights; {_alone(source.config, source)}"
        )
    return name


def _alone(config: Mapping[str, Any], source: Source) -> str:
    return f"load the encoder alone: zoo.create_model('timm/{config[ARCHITECTURE]}', weights={str(source.directory)!r})"


def _images(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the image processor that the config tells; the rest is timm's default for the model."""
    ours = {"mean": "mean", "std": "std", "interpolation": "interpolation", "crop_pct": "crop_fraction"}
    found = {word: told[key] for key, word in ours.items() if key in told}
    return found | ({"resize": RESIZES[told["crop_mode"]]} if told.get("crop_mode") in RESIZES else {})
