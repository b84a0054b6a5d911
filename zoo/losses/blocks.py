"""The similarities of a large batch a block at a time: memory grows with the batch, not with its square."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor

TILE = 1024  # rows and columns of a block on a CPU: two blocks stay in its cache (measured against 256, 512 and 2048)
TILE_OF_ACCELERATOR = 4096  # launches cost more there than memory traffic
PLAIN = 512  # rows up to which all logits at once cost no more time than blocks


def places(first: Float[Tensor, "rows dim"], second: Float[Tensor, "columns dim"]) -> Iterator[tuple[slice, slice]]:
    """Yield the rows and columns of each block."""
    tile = TILE if first.device.type == "cpu" else TILE_OF_ACCELERATOR
    for top in range(0, len(first), tile):
        for left in range(0, len(second), tile):
            yield slice(top, min(top + tile, len(first))), slice(left, min(left + tile, len(second)))


def blocks(
    first: Float[Tensor, "rows dim"], second: Float[Tensor, "columns dim"], factor: float
) -> Iterator[tuple[slice, slice, Float[Tensor, "_ _"]]]:
    """Yield rows, columns and ``factor * first[rows] @ second[columns].T``, each the caller's to keep and to overwrite."""
    for rows, columns in places(first, second):
        product = first.new_empty(rows.stop - rows.start, columns.stop - columns.start)
        yield rows, columns, product.addmm_(first[rows], second[columns].T, beta=0, alpha=factor)


def full_precision(tensor: Tensor) -> AbstractContextManager:
    """Switch autocast off: logits of bf16 have steps of 0.1 at a temperature of 1/20 and above."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.autocast_mode.is_autocast_available(kind) else nullcontext()


def is_small(first: Float[Tensor, "rows dim"]) -> bool:
    """Whether the plain form serves: few rows, or a type too narrow for sums over many."""
    return len(first) <= PLAIN or first.dtype.itemsize < 4


def scaled_gradients(
    first: Float[Tensor, "rows dim"],
    second: Float[Tensor, "columns dim"],
    grad_first: Float[Tensor, "rows dim"] | None,
    grad_second: Float[Tensor, "columns dim"] | None,
    factor: float,
    amount: Float[Tensor, ""],
) -> tuple[Float[Tensor, "rows dim"] | None, Float[Tensor, "columns dim"] | None, Float[Tensor, ""]]:
    """Gradients for both sides and for the factor, from the products of the logits' gradients with the other side.

    They are changed in place. The factor's is the sum of all logits' gradients times cosines, which either side gives.
    """
    given, side = (grad_first, first) if grad_first is not None else (grad_second, second)
    parts = [(ours * theirs).sum() for ours, theirs in zip(given.split(TILE), side.split(TILE), strict=True)]  # type: ignore[union-attr]
    grad_factor = amount * torch.stack(parts).sum()
    for given in (grad_first, grad_second):
        if given is not None:
            given.mul_(amount * factor)
    return grad_first, grad_second, grad_factor
