"""Similarities of a large batch, computed one block at a time, so that memory grows with the batch and not with its square."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor

TILE = 1024  # rows and columns of a block on a CPU: two blocks stay in its cache (measured against 256, 512 and 2048)
TILE_OF_ACCELERATOR = 4096  # on a GPU, kernel launches cost more than memory traffic
PLAIN = 512  # rows up to which all logits at once cost no more time than blocks


def places(first: Float[Tensor, "rows dim"], second: Float[Tensor, "columns dim"]) -> Iterator[tuple[slice, slice]]:
    """Yield the row slice and the column slice of each block."""
    tile = TILE if first.device.type == "cpu" else TILE_OF_ACCELERATOR
    for top in range(0, len(first), tile):
        for left in range(0, len(second), tile):
            yield slice(top, min(top + tile, len(first))), slice(left, min(left + tile, len(second)))


def blocks(
    first: Float[Tensor, "rows dim"], second: Float[Tensor, "columns dim"], factor: float
) -> Iterator[tuple[slice, slice, Float[Tensor, "_ _"]]]:
    """Yield rows, columns and ``factor * first[rows] @ second[columns].T`` of each block; the caller may keep or overwrite the block."""
    for rows, columns in places(first, second):
        product = first.new_empty(rows.stop - rows.start, columns.stop - columns.start)
        yield rows, columns, product.addmm_(first[rows], second[columns].T, beta=0, alpha=factor)


def full_precision(tensor: Tensor) -> AbstractContextManager:
    """Return a context without autocast, because bf16 logits have steps of 0.1 if the logit scale is 20 or more."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.autocast_mode.is_autocast_available(kind) else nullcontext()


def is_small(first: Float[Tensor, "rows dim"]) -> bool:
    """True if the plain form should be used: the batch has few rows, or its dtype is too narrow for sums over many blocks."""
    return len(first) <= PLAIN or first.dtype.itemsize < 4


def scaled_gradients(
    first: Float[Tensor, "rows dim"],
    second: Float[Tensor, "columns dim"],
    grad_first: Float[Tensor, "rows dim"] | None,
    grad_second: Float[Tensor, "columns dim"] | None,
    factor: float,
    amount: Float[Tensor, ""],
) -> tuple[Float[Tensor, "rows dim"] | None, Float[Tensor, "columns dim"] | None, Float[Tensor, ""]]:
    """Return the gradients of both sides and of the factor.

    Args:
        first: unit vectors of the rows.
        second: unit vectors of the columns.
        grad_first: gradients of the logits times ``second``; scaled in place. None if no gradient of ``first`` is needed.
        grad_second: the same for ``second``. At least one of both is given.
        factor: logit scale.
        amount: factor on all gradients.
    """
    # The gradient of the factor is sum(grad_logits * first @ second.T) = sum(grad_first * first) = sum(grad_second * second).
    given, side = (grad_first, first) if grad_first is not None else (grad_second, second)
    parts = [(ours * theirs).sum() for ours, theirs in zip(given.split(TILE), side.split(TILE), strict=True)]  # type: ignore[union-attr]
    grad_factor = amount * torch.stack(parts).sum()
    for given in (grad_first, grad_second):
        if given is not None:
            given.mul_(amount * factor)
    return grad_first, grad_second, grad_factor
