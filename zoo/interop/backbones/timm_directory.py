"""Image encoders that timm saved: ``config.json`` with an ``architecture``, and weights under timm's names."""

from typing import Any

from zoo.errors import ConfigError
from zoo.interop.backbones.rows import list_timm
from zoo.interop.base.format import Description
from zoo.interop.base.source import Source
from zoo.layers.hosted_backbone import timm_preprocessing
from zoo.storage.hub import CONFIG

TIMM = "architecture"  # key of timm's config.json
KNOWN_ARGUMENTS = ("img_size", "global_pool", "num_classes")  # of timm's ``model_args``; sizes and pool are read elsewhere


def describe_timm(source: Source) -> Description | None:
    """Return the encoder that timm saved in a directory; None for another library's directory, and for a model with a classifier.

    The tag of the weights goes along if timm knows it.

    Raises:
        ConfigError: the model was built with arguments that its name does not say.
    """
    config = source.config
    if TIMM not in config or "model_type" in config or config.get("num_classes"):
        return None
    others = sorted(set(config.get("model_args") or {}) - set(KNOWN_ARGUMENTS))
    if others:
        raise ConfigError(f"{source.directory}/{CONFIG}: model_args: {', '.join(others)}: an encoder 'timm' is built by its name alone")
    told: dict[str, Any] = {"crop_mode": "center", "crop_pct": 1.0, **(config.get("pretrained_cfg") or {})}
    name, tag = str(config[TIMM]), told.get("tag")
    model = f"{name}.{tag}" if f"timm/{name}.{tag}" in list_timm(f"timm/{name}.*") else name
    size = {"image_size": told["input_size"][-1]} if told.get("input_size") else {}
    images = {"preprocessing": timm_preprocessing(told)} if {"mean", "std", "interpolation"} <= set(told) else {}
    pool = {"pool": config["global_pool"]} if config.get("global_pool") else {}
    return Description({"encoder": {"name": "timm", "model": model, **size, **images, **pool}})
