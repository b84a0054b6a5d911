"""Sizes before memory: a config that asks for more than its weights hold, or than the machine has, is refused before it is built.

A config can ask for any number of parameters. If a bound from its numbers is small, nothing is done; else the model is built on the meta
device, where it takes no memory, and its size is compared.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo.errors import ConfigError, WeightsError
from zoo.layers.meta import meta_device
from zoo.registry.schemas import LAYERS

SUSPICIOUS_BYTES = 2**28  # a smaller model is built at once
SLACK = 2  # factor between parameters of a config and numbers in its weights: weights may leave out tied tensors or be quantised
CGROUP = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def refuse_too_large(config: Mapping[str, Any], build: Callable[[], nn.Module], key: str) -> None:
    """Raise ConfigError if a model needs more memory than this machine has.

    Args:
        build: builds the model; called on the meta device.
        key: config key, for the message.
    """
    if torch.get_default_device().type == "meta" or _bound(config) < SUSPICIOUS_BYTES:
        return
    needed, present = _bytes_of(build), machine_memory()
    if needed > present:
        raise ConfigError(
            f"{key}: the config describes a model of {_readable(needed)}, this machine has {_readable(present)} of memory; lower depth, "
            "dim or vocab_size, or use a larger machine"
        )


def refuse_larger_than_weights(
    config: Mapping[str, Any], build: Callable[[], nn.Module], shapes: Callable[[], Mapping[str, tuple[int, ...]]], origin: str
) -> None:
    """Raise WeightsError if a config describes far more numbers than the weights beside it hold, which their headers tell.

    Args:
        shapes: returns the shape of each tensor.
    """
    if torch.get_default_device().type == "meta" or _bound(config) < SUSPICIOUS_BYTES:
        return
    held = 4 * sum(_product(shape) for shape in shapes().values())
    needed = _bytes_of(build)
    if needed > SLACK * held + SUSPICIOUS_BYTES:
        raise WeightsError(
            f"{origin}: the config describes a model of {_readable(needed)}, the weights beside it hold {_readable(held)} (as fp32); the "
            "two do not belong together: fetch the directory again"
        )


def machine_memory() -> int:
    """Return the memory of this machine or of the container in bytes; where it is unknown, a petabyte."""
    try:
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, ValueError):  # not on Windows
        found = [2**50]
    for path in map(Path, CGROUP):
        try:
            found.append(int(path.read_text()))
        except (OSError, ValueError):  # not in a container, or "max"
            pass
    return min(found)


def _bytes_of(build: Callable[[], nn.Module]) -> int:
    with meta_device():
        model = build()
    return sum(tensor.numel() * tensor.element_size() for tensor in [*model.parameters(), *model.buffers()])


def _bound(config: Mapping[str, Any]) -> int:
    """Return about the largest size in bytes that the numbers of a config can make: its two largest numbers times its layers."""
    numbers = sorted((value for name, value in _numbers(config) if name not in LAYERS), reverse=True)
    layers = sum(value for name, value in _numbers(config) if name in LAYERS)
    largest = [*numbers, 1, 1]
    return 4 * largest[0] * largest[1] * (1 + layers)


def _numbers(config: Any, name: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from _numbers(value, str(key))
    elif isinstance(config, list | tuple):
        for value in config:
            yield from _numbers(value, name)
    elif type(config) is int:
        yield name, abs(config)


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product


def _readable(count: int) -> str:
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= scale:
            return f"{count / scale:,.3g} {unit}" if count < 1e15 else f"{count / scale:,.0f} {unit}"
    return f"{count} B"
