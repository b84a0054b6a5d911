"""Weighted means of the weights of models with one architecture: WiSE-FT, model soups.

Papers: Wortsman et al. 2021, "Robust fine-tuning of zero-shot models" (arXiv 2109.01903), section 3: ``(1 - a) * before + a * after``.
Wortsman et al. 2022, "Model soups" (arXiv 2203.05482), section 2: the uniform mean of several fine-tunes.
"""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.assembly.same_arithmetic import differing_keywords
from zoo.assembly.save_load import load
from zoo.assembly.system import System
from zoo.data.system_processor import hash_files
from zoo.errors import ConfigError, WeightsError
from zoo.types import config_of, processor_of

TRAINING_ONLY = ("Dropout", "DropPath", "Identity")  # classes of modules that change nothing outside training
COUNTER = "num_batches_tracked"  # of BatchNorm, which reads it only while it trains
TOLERANCE = 1e-6  # of the sum of the weights: several fractions that were rounded to few digits
State = Mapping[str, Tensor]


def interpolate(sources: Sequence[str | Path], weights: Sequence[float] | None = None) -> nn.Module:
    """Load models of one architecture and return the model whose weights are the weighted mean of theirs.

    The running statistics of BatchNorm are averaged like weights. A text tokenizer and every other preprocessing must be equal.

    Args:
        sources: two or more, as ``zoo.load`` takes them.
        weights: one share for each source, from 0 to 1, with the sum 1; None gives each the same.

    Raises:
        ConfigError: fewer than two sources, or unusable weights.
        WeightsError: the models differ in architecture or preprocessing; the first difference is named.
    """
    shares = checked_shares(weights, len(sources))
    models = load_models(sources)
    return with_state(models[0], mix([state_of(model) for model in models], shares))


def load_models(sources: Sequence[str | Path]) -> list[nn.Module]:
    """Load models in fp32 on the CPU, and refuse those that differ from the first one in architecture or preprocessing."""
    if len(sources) < 2:
        raise ConfigError(f"models: got {len(sources)}; give two or more models of one architecture")
    models: list[nn.Module] = [load(source) for source in sources]
    for model, source in zip(models[1:], sources[1:], strict=True):
        refuse_other_architecture(models[0], model, str(sources[0]), str(source))
    return models


def checked_shares(weights: Sequence[float] | None, count: int) -> list[float]:
    """Return the share of each model: equal shares for None, and ``[1 - a, a]`` for one number and two models.

    Raises:
        ConfigError: the number of weights is wrong, one is not from 0 to 1, or their sum is not 1.
    """
    if weights is None:
        return [1 / max(count, 1)] * count
    shares = [1 - weights[0], weights[0]] if count == 2 and len(weights) == 1 else list(weights)
    if len(shares) != count:
        allowed = f"{count} numbers, one for each model" + (", or one number, the share of the second model" if count == 2 else "")
        raise ConfigError(f"weights: got {len(weights)} numbers for {count} models; allowed are {allowed}")
    if wrong := [share for share in shares if not 0 <= share <= 1]:
        raise ConfigError(f"weights: got {wrong[0]:g}; allowed are numbers from 0 to 1")
    if not math.isclose(sum(shares), 1, abs_tol=TOLERANCE):
        raise ConfigError(f"weights: the sum of {', '.join(f'{share:g}' for share in shares)} is {sum(shares):g}; it must be 1")
    return shares


def mix(states: Sequence[State], shares: Sequence[float]) -> dict[str, Tensor]:
    """Return the weighted sum of tensors by name; tensors of integers must be equal.

    Example: ``{"w": [1, 3]}`` and ``{"w": [5, 3]}`` with shares 0.75 and 0.25 give ``{"w": [2, 3]}``.

    Raises:
        WeightsError: tensors of integers or booleans differ.
    """
    mixed = {}
    for name, first in states[0].items():
        tensors = [state[name] for state in states]
        if first.is_floating_point() or first.is_complex():
            total = sum(share * tensor for share, tensor in zip(shares, tensors, strict=True) if share)  # 0 * inf would be NaN
            mixed[name] = torch.as_tensor(total, dtype=first.dtype)
            continue
        if not name.endswith(COUNTER) and not all(torch.equal(first, tensor) for tensor in tensors[1:]):
            raise WeightsError(f"{name}: holds {first.dtype} values that differ between the models, which have no mean")
        mixed[name] = first
    return mixed


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the tensors that ``zoo.save`` writes, so that ``with_state`` changes none of them."""
    state = model.saved_tensors() if isinstance(model, System) else model.state_dict()
    return {name: tensor.clone() for name, tensor in state.items()}


def with_state(model: nn.Module, state: State) -> nn.Module:
    """Copy tensors into a model in place and return it."""
    model.load_state_dict(state, strict=not isinstance(model, System) or model.training_only is None)
    return model


def refuse_other_architecture(first: nn.Module, other: nn.Module, name: str, other_name: str) -> None:
    """Raise WeightsError with the first difference of two models: a module, a tensor, a keyword of a config, or their preprocessing.

    Keywords are compared beside the tensors, because some leave the shapes as they are (heads, activation). Dropout may differ.
    """
    found = chain(
        _module_differences(first, other),
        _tensor_differences(first, other),
        differing_keywords(first, {"system": config_of(other)} if isinstance(other, System) else config_of(other)),
        _processor_differences(first, other),
    )
    if difference := next(found, None):
        key, ours, theirs = difference
        raise WeightsError(
            f"{other_name}: has another architecture than {name}, so that their weights have no mean: {key} is {ours} in {name} and "
            f"{theirs} in {other_name}; give models that were trained from the same weights"
        )


def _module_differences(first: nn.Module, other: nn.Module) -> Iterator[tuple[str, Any, Any]]:
    ours, theirs = ({name: type(module).__name__ for name, module in model.named_modules()} for model in (first, other))
    for name in dict.fromkeys([*ours, *theirs]):
        kinds = ours.get(name, "missing"), theirs.get(name, "missing")
        if kinds[0] != kinds[1] and not set(kinds) & set(TRAINING_ONLY):
            yield name or "the model", *kinds


def _tensor_differences(first: nn.Module, other: nn.Module) -> Iterator[tuple[str, Any, Any]]:
    ours, theirs = (
        {name: f"{tensor.dtype} {list(tensor.shape)}" for name, tensor in model.state_dict().items()} for model in (first, other)
    )
    for name in dict.fromkeys([*ours, *theirs]):
        if ours.get(name) != theirs.get(name):
            yield name, ours.get(name, "missing"), theirs.get(name, "missing")


def _processor_differences(first: nn.Module, other: nn.Module) -> Iterator[tuple[str, Any, Any]]:
    hashes = [_hash_of(model) for model in (first, other)]
    if hashes[0] != hashes[1]:
        yield "the hash of the preprocessing (image settings, tokenizer)", hashes[0], hashes[1]


def _hash_of(model: nn.Module) -> str:
    """Return the hash of the files of a system's processor; that of a lone part is in its config."""
    processor = processor_of(model)
    if not isinstance(model, System) or processor is None:
        return "none"
    with tempfile.TemporaryDirectory() as folder:
        processor.save(Path(folder))
        return hash_files(Path(folder))[:8]
