"""The table of tensors inside a loaded checkpoint: training scripts put it under a key, and wrappers put prefixes before its names.

Reference: timm ``models/_helpers.py`` (``load_state_dict``, ``clean_state_dict``), which also prefers the averaged weights.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from zoo.errors import WeightsError

log = logging.getLogger("zoo")

AVERAGES = ("state_dict_ema", "model_ema", "ema")  # exponential moving averages of the weights
TABLES = ("state_dict", "model_state_dict", "model", "module")
DEPTH = 3  # tables may lie in tables: {"model": {"state_dict": ...}}
COMPILED, PARALLEL = "_orig_mod.", "module."  # put into names by torch.compile and DistributedDataParallel
T = TypeVar("T")


def table_of(loaded: object, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a loaded checkpoint by their plain names.

    If a file holds the trained weights and their moving average, the average is taken and the log says so.

    Raises:
        WeightsError: no table of tensors is found.
    """
    table = _search(loaded, path, DEPTH)
    if table is None:
        held = f"a dict with the keys {', '.join(map(str, list(loaded)[:5]))}" if isinstance(loaded, Mapping) else type(loaded).__name__
        raise WeightsError(f"{path}: holds {held}, not a table of tensors by name; save model.state_dict() alone")
    tensors = {str(name): value for name, value in table.items() if isinstance(value, Tensor)}
    if len(tensors) < len(table):
        others = [str(name) for name, value in table.items() if not isinstance(value, Tensor)]
        log.warning("%s: %d entries that are no tensors are left out (%s)", path, len(others), ", ".join(others[:3]))
    return plain_names(tensors, path) | _sizes(loaded)


def _search(loaded: object, path: Path, depth: int) -> Mapping[str, object] | None:
    if not isinstance(loaded, Mapping):
        return None
    found = {key: _search(loaded[key], path, depth - 1) for key in (*AVERAGES, *TABLES) if key in loaded} if depth else {}
    chosen = [key for key, table in found.items() if table is not None]
    if not chosen:
        return loaded if any(isinstance(value, Tensor) for value in loaded.values()) else None
    if chosen[0] in AVERAGES and len(chosen) > 1:
        others = ", ".join(repr(key) for key in chosen[1:])
        log.warning("%s: holds %r and %s; the averaged weights %r are taken", path, chosen[0], others, chosen[0])
    return found[chosen[0]]


def _sizes(loaded: object) -> dict[str, Tensor]:
    """Return the sizes that openai-whisper writes beside its weights, as tensors named ``dims.NAME``."""
    sizes = loaded.get("dims") if isinstance(loaded, Mapping) else None
    numbers = sizes.items() if isinstance(sizes, Mapping) else ()
    return {f"dims.{name}": torch.tensor(value) for name, value in numbers if isinstance(value, int)}


def plain_names(tensors: Mapping[str, T], path: Path) -> dict[str, T]:
    """Return the same values without the prefixes that torch.compile and DistributedDataParallel put into names, in any order.

    Raises:
        WeightsError: two names are equal without their prefixes.
    """
    found: dict[str, T] = {}
    for name, value in tensors.items():
        plain = name.replace(COMPILED, "")
        while plain.startswith(PARALLEL):
            plain = plain.removeprefix(PARALLEL)
        if plain in found:
            raise WeightsError(f"{path}: holds {plain} twice, with and without the prefix {PARALLEL!r} or {COMPILED!r}; keep one of them")
        found[plain] = value
    return found
