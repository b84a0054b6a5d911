"""The table of tensors inside a loaded checkpoint: training scripts put it under a key, and wrappers put prefixes before its names.

Reference: timm ``models/_helpers.py`` (``load_state_dict``, ``clean_state_dict``), which also prefers the averaged weights.
"""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from zoo.errors import WeightsError, name_choices

log = logging.getLogger("zoo")

AVERAGES = ("state_dict_ema", "model_ema", "ema")  # exponential moving averages of the weights
TABLES = ("state_dict", "model_state_dict", "model", "module")
DEPTH = 3  # tables may lie in tables: {"model": {"state_dict": ...}}
COMPILED, PARALLEL = "_orig_mod.", "module."  # put into names by torch.compile and DistributedDataParallel
COUNTERS = ("n_averaged",)  # of torch.optim.swa_utils.AveragedModel
WRAPPERS = ("model.", "encoder.", "backbone.", "net.", "network.", PARALLEL)  # attributes in which training code keeps a model
T = TypeVar("T")


def table_of(loaded: object, path: Path, key: str = "") -> dict[str, Tensor]:
    """Return the tensors of a loaded checkpoint by their plain names.

    If a file holds the trained weights and their moving average, the average is taken and the log says so.

    Args:
        loaded: content of the file.
        path: of the file, for messages.
        key: takes only the tensors under this key, or under several with dots between them; see ``tensors_below``.

    Raises:
        WeightsError: no table of tensors is found, or several under keys of which none is usual.
    """
    words = key.split(".") if key else []
    while words and isinstance(loaded, Mapping) and words[0] in loaded:
        loaded = loaded[words.pop(0)]
    table = _search(loaded, path, DEPTH)
    if table is None:
        held = f"a dict with the keys {', '.join(map(str, list(loaded)[:5]))}" if isinstance(loaded, Mapping) else type(loaded).__name__
        raise WeightsError(f"{path}: holds {held}, not a table of tensors by name; save model.state_dict() alone")
    tensors = {str(name): value for name, value in table.items() if isinstance(value, Tensor)}
    if len(tensors) < len(table):
        others = [str(name) for name, value in table.items() if not isinstance(value, Tensor)]
        log.warning("%s: %d entries that are no tensors are left out (%s)", path, len(others), ", ".join(others[:3]))
    return tensors_below(plain_names(tensors, path), ".".join(words), path) | _sizes(loaded)


def _search(loaded: object, path: Path, depth: int) -> Mapping[str, object] | None:
    if not isinstance(loaded, Mapping):
        return None
    found = {key: _search(loaded[key], path, depth - 1) for key in (*AVERAGES, *TABLES) if key in loaded} if depth else {}
    chosen = [key for key, table in found.items() if table is not None]
    if not chosen:
        return loaded if any(isinstance(value, Tensor) for value in loaded.values()) else _only_table(loaded, path)
    if chosen[0] in AVERAGES and len(chosen) > 1:
        others = ", ".join(repr(key) for key in chosen[1:])
        log.warning(
            "%s: holds %r and %s; the averaged weights %r are taken; %s#%s takes the others",
            *(path, chosen[0], others, chosen[0], path, chosen[1]),
        )
    return found[chosen[0]]


def _only_table(loaded: Mapping[str, object], path: Path) -> Mapping[str, object] | None:
    """Return the table of tensors under a key that is no usual one, if there is one alone.

    Raises:
        WeightsError: there are several.
    """
    found = {str(key): value for key, value in loaded.items() if isinstance(value, Mapping) and _is_table(value)}
    if len(found) > 1:
        names = list(found)
        raise WeightsError(f"{path}: holds tables of tensors under {', '.join(names[:5])}; name the one to take: {path}#{names[0]}")
    return next(iter(found.values()), None)


def _is_table(value: Mapping[object, object]) -> bool:
    return len(value) > 0 and all(isinstance(name, str) for name in value) and any(isinstance(tensor, Tensor) for tensor in value.values())


def shared_wrapper(names: Collection[str]) -> str:
    """Return the first word that all names share, if training code keeps a model under such a word; else nothing."""
    return next((word for word in WRAPPERS if names and all(name.startswith(word) for name in names)), "")


def tensors_below(tensors: Mapping[str, T], key: str, path: Path) -> dict[str, T]:
    """Return the values whose names begin with ``KEY.``, without it; all of them for an empty key. The log counts those left out.

    Raises:
        WeightsError: there are none.
    """
    if not key:
        return dict(tensors)
    chosen = {name.removeprefix(f"{key}."): value for name, value in tensors.items() if name.startswith(f"{key}.")}
    if not chosen:
        known = dict.fromkeys(name.split(".")[0] for name in tensors)
        raise WeightsError(f"{path}#{key}: the file holds nothing under {key!r}; {name_choices(key, list(known))}")
    if len(chosen) < len(tensors):
        others = [name for name in tensors if not name.startswith(f"{key}.")]
        log.warning("%s#%s: %d tensors beside it are left out (%s)", path, key, len(others), ", ".join(others[:3]))
    return chosen


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
        if name in COUNTERS:
            log.warning("%s: the counter %s is left out", path, name)
            continue
        plain = name.replace(COMPILED, "")
        while plain.startswith(PARALLEL):
            plain = plain.removeprefix(PARALLEL)
        if plain in found:
            raise WeightsError(f"{path}: holds {plain} twice, with and without the prefix {PARALLEL!r} or {COMPILED!r}; keep one of them")
        found[plain] = value
    return found
