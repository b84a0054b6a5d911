"""Check, before a model is saved, that its config describes it: a model built from the config must take exactly these weights."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import yaml
from torch import nn

from zoo.assembly.build import build_system
from zoo.assembly.create import example_inputs
from zoo.assembly.system import System
from zoo.errors import ConfigError, WeightsError
from zoo.layers.meta import meta_device
from zoo.registry.construct import build_part
from zoo.types import is_system, unchanged_generators

KINDS = ("encoder", "language", "head")  # of models that are saved alone
REMEDY = "make it a part of an installed package (entry points, see zoo.registry.plugins) and name it in the config, or save its state_dict"


def build_described(config: Mapping[str, Any], origin: str) -> nn.Module:
    """Build the model that the content of a ``config.yaml`` describes.

    Args:
        config: with "system", "encoder", "language" or "head".
        origin: of the config, for messages.

    Raises:
        ConfigError: parts that do not fit.
        WeightsError: the config describes no model.
    """
    if "system" in config:
        return build_system(config["system"])
    kind = next((kind for kind in KINDS if kind in config), None)
    if kind is None:
        raise WeightsError(f"{origin}: names no system and no encoder; it was not written by zoo.save")
    given = {"inputs": example_inputs(config[kind])} if kind == "head" else {}
    model = build_part(kind, config[kind], kind, **given)
    model.remember({kind: config[kind]})
    return model


def refuse_undescribed(model: nn.Module, config: Mapping[str, Any]) -> None:
    """Raise ConfigError, with the part's name, unless the config describes the classes, names and shapes of a model's weights."""
    classes, shapes = _described(yaml.safe_dump(dict(config), sort_keys=False))
    for part, made in _classes(model).items():
        if made is not (told := classes.get(part)):
            name = part or type(model).__name__
            other = "no such part" if told is None else f"a {told.__module__}.{told.__qualname__}"
            raise ConfigError(f"{name} is a {made.__module__}.{made.__qualname__}, but the model's config describes {other}; {REMEDY}")
    state = model.saved_tensors() if isinstance(model, System) else model.state_dict()
    ours = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in (*ours, *shapes):
        if ours.get(name) != shapes.get(name):
            raise ConfigError(
                f"{name}: has shape {_readable(ours.get(name))}, but the model's config describes {_readable(shapes.get(name))}; zoo.load "
                "could not load it: change the config with the weights, or build the model with zoo.create_model or zoo.create_system"
            )


def _readable(shape: tuple[int, ...] | None) -> str:
    return "no such weight" if shape is None else str(list(shape))


@lru_cache(maxsize=4)  # a training run saves the same config again and again
def _described(text: str) -> tuple[dict[str, type], dict[str, tuple[int, ...]]]:
    with unchanged_generators(), meta_device():
        model = build_described(yaml.safe_load(text), "config")
    return _classes(model), {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _classes(model: nn.Module) -> dict[str, type]:
    """Return the class of each part that a config names, by its dotted name; of a lone part under ""."""
    if not is_system(model):
        return {"": type(model)}
    found = {f"encoders.{modality}": type(encoder) for modality, encoder in model.encoders.items()}
    found |= {"head": type(model.head)}
    found |= {f"head.connectors.{modality}": type(connector) for modality, connector in model.head.connectors.items()}
    return found | ({} if model.head.language is None else {"head.language": type(model.head.language)})
