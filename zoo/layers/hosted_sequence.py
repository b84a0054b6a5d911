"""Helpers for encoders that wrap a text or audio model of transformers: padding that changes nothing, and a trial of a tiny copy.

Some of the library's models do not mask their padding, or not everywhere. They are run for one length of item at a time.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor, nn

from zoo.errors import ConfigError, first_line
from zoo.layers.hosted_probe import FAILURES, TinyCopyError, plain_cpu, shrunk, tiny_model
from zoo.layers.hosted_transformers import quiet_and_offline
from zoo.types import Encoded, on_host

TOLERANCE = 1e-5  # of the largest value; a share of padding that is not masked was above 1e-3 in every model seen

# Encode items, with a mask of the real places or None, with the given model.
Encode = Callable[[Any, Tensor, Tensor | None], Encoded]


@dataclass(frozen=True)
class Facts:
    """Facts about an encoder of transformers, found in a trial.

    Attributes:
        pads: True if padding at the end changes nothing.
        pools: True if the model gives a pooled vector of its own.
        unused: names of the parameters on which no output depends, without their layer numbers.
    """

    pads: bool
    pools: bool
    unused: frozenset[str]


def find_facts(parsed: Any, build: Callable[[Any], nn.Module], encode: Encode, items: Callable[[Any], tuple[Tensor, int]]) -> Facts | None:
    """Try a tiny copy of a config.

    Args:
        parsed: transformers' config.
        build: builds the model of a config.
        encode: encodes with that model; without a mask all places are real.
        items: makes two items of equal length for a model, and the number of places that the second keeps where it is padded.

    Returns:
        The facts; None if transformers cannot build a tiny copy.

    Raises:
        ConfigError: the model cannot encode its own input.
    """
    with plain_cpu(), quiet_and_offline():
        try:
            model = tiny_model(shrunk(parsed), build)
        except (*FAILURES, TinyCopyError, ConfigError):
            return None
        return try_out(model, encode, items)


def facts_of(model: Any, encode: Encode, items: Callable[[Any], tuple[Tensor, int]]) -> Facts:
    """Try a model itself, because it has no tiny copy; without values (meta device) it is taken for one that masks its padding."""
    if next(model.parameters()).is_meta:
        return Facts(pads=True, pools=False, unused=frozenset())
    with plain_cpu():
        facts = try_out(model.eval(), encode, items)
    model.zero_grad(set_to_none=True)
    return facts


def shapes_alone(model: nn.Module, num_tokens: int, rows: int, dim: int, mask: Tensor | None) -> Encoded:
    """Return tokens and pooled vectors on the meta device, on which the library's models, which read values, cannot run.

    Every trainable parameter is connected to them, as it is in a run.
    """
    reached = sum((p.sum() * 0 for p in model.parameters() if p.requires_grad), torch.zeros((), device="meta"))
    tokens = torch.empty(rows, num_tokens, dim, device="meta") + reached
    real = torch.ones(rows, num_tokens, dtype=torch.bool, device="meta") if mask is None else mask
    return Encoded(tokens, tokens.mean(1), real)


def try_out(model: Any, encode: Encode, items: Callable[[Any], tuple[Tensor, int]], *, padded: bool = True) -> Facts:
    """Encode two items, the second of them alone and padded too; the facts are those of ``find_facts``.

    Args:
        padded: False for models whose items all have one length; these run on the meta device too.
    """
    x, count = items(model)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            whole = encode(model, x, None)
            # A plain sum after a norm has no gradient, and would make parameters look unused.
            outputs = [whole.tokens, *([] if whole.pooled is None else [whole.pooled])]
            sum((value * torch.linspace(0.5, 1.5, value.shape[-1], device=x.device)).sum() for value in outputs).backward()  # type: ignore[union-attr]
    except FAILURES as error:
        raise ConfigError(f"transformers cannot run it: {type(error).__name__}: {first_line(error)}") from error
    named = [(_without_numbers(key), p) for key, p in model.named_parameters() if p.requires_grad]
    used = {key for key, parameter in named if parameter.grad is not None}
    return Facts(padded and _pads(model, encode, x, count), whole.pooled is not None, frozenset(key for key, _ in named) - used)


def _pads(model: Any, encode: Encode, x: Tensor, count: int) -> bool:
    mask = torch.ones(len(x), x.shape[-1], dtype=torch.bool)
    mask[1, count:] = False
    try:
        alone, both = encode(model, x[1:, ..., :count], None), encode(model, x, mask)
    except FAILURES:
        return False
    found, expected = both.tokens[1][both.mask[1]], alone.tokens[0]
    if found.shape != expected.shape:
        return False
    return float((found - expected).abs().max()) < TOLERANCE * max(1.0, float(expected.abs().max()))


def _without_numbers(key: str) -> str:
    return re.sub(r"\.\d+\.", ".", key)


def freeze_unused(model: nn.Module, unused: frozenset[str]) -> None:
    """Freeze parameters on which no output depends, so that every trainable parameter gets a gradient (DDP needs this)."""
    for key, parameter in model.named_parameters():
        if _without_numbers(key) in unused:
            parameter.requires_grad_(False)


def one_length_at_a_time(
    x: Shaped[Tensor, "batch *axes length"], mask: Bool[Tensor, "batch length"], call: Callable[[Tensor], Encoded]
) -> Encoded:
    """Encode items without their padding, those of equal length together.

    Args:
        x: items that are padded on any side along the last axis.
        call: encodes items of equal length.
    """
    lengths = on_host(mask).sum(1).tolist()
    parts: list[tuple[int, Encoded, int]] = []  # row, its group, its place in the group
    for length in sorted(set(lengths)):
        rows = [row for row, number in enumerate(lengths) if number == length]
        group = call(torch.stack([x[row][..., mask[row]] for row in rows]))
        parts += [(row, group, place) for place, row in enumerate(rows)]
    parts.sort(key=lambda part: part[0])
    longest = max(group.tokens.shape[1] for _, group, _ in parts)
    tokens = torch.stack([_extended(group.tokens[place], longest) for _, group, place in parts])
    real = torch.stack([_extended(group.mask[place], longest) for _, group, place in parts])
    pooled = [group.pooled[place] for _, group, place in parts if group.pooled is not None]
    return Encoded(tokens, torch.stack(pooled) if pooled else None, real)


def _extended(row: Tensor, length: int) -> Tensor:
    """Return a row with zeros (False) after it."""
    return torch.cat([row, row.new_zeros(length - len(row), *row.shape[1:])])


def is_padded_at_the_end(mask: Bool[Tensor, "batch length"]) -> bool:
    """Return True if no real place follows padding."""
    mask = on_host(mask)
    return bool((mask[:, 1:] <= mask[:, :-1]).all())
