"""Squares of neighbouring places in a grid of tokens, joined by connectors that make one token of each."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from zoo.errors import DataError
from zoo.types import follow, on_host, send


def joined_squares(
    tokens: Float[Tensor, "batch num_tokens dim"],
    mask: Bool[Tensor, "batch num_tokens"],
    grids: Int64[Tensor, "batch 2"] | None,
    factor: int,
) -> tuple[Float[Tensor, "batch new_tokens square dim"], Bool[Tensor, "batch new_tokens"]]:
    """Return the tokens of each square of ``factor`` x ``factor`` places, row by row, and the mask of the squares.

    Args:
        tokens: row by row, with padding behind them if grids differ.
        mask: True at real tokens; without grids, an item has all tokens or none.
        grids: rows and columns of each item; None: all items have the same square grid.
        factor: side of the squares.

    Raises:
        DataError: the factor does not divide the rows and columns of a grid.
    """
    if not len(tokens):  # nothing, through which every parameter still gets a gradient of zero
        number = 1 if grids is not None else max(1, tokens.shape[1] // factor**2)
        nothing = tokens.new_zeros(0, number, factor**2, tokens.shape[2]) + tokens.sum()
        return nothing, torch.zeros(0, number, dtype=torch.bool, device=tokens.device)
    if grids is None:
        side = math.isqrt(tokens.shape[1])
        number = side**2 // factor**2
        return _squares(tokens, side, factor), follow(lambda mask: mask[:, :1].expand(-1, number), mask)
    sizes = on_host(grids).tolist()
    refuse_grids(sizes, factor)
    found = [_squares(item[None, : rows * columns], columns, factor)[0] for item, (rows, columns) in zip(tokens, sizes, strict=True)]
    lengths = torch.tensor([len(each) for each in found], device="cpu")
    real = torch.arange(int(lengths.max()), device="cpu")[None] < lengths[:, None]
    return nn.utils.rnn.pad_sequence(found, batch_first=True), send(real, tokens.device)


def refuse_grids(grids: Sequence[Sequence[int]], factor: int) -> None:
    """Raise DataError unless squares of ``factor`` x ``factor`` places fill each grid."""
    for rows, columns in grids:
        if rows % factor or columns % factor:
            raise DataError(
                f"a picture has {rows} x {columns} patches, which squares of {factor} x {factor} do not fill; cut pictures by tiler fit "
                f"with merge {factor}, or choose a connector that joins no squares (mlp, resampler)"
            )


def _squares(tokens: Float[Tensor, "batch num_tokens dim"], columns: int, factor: int) -> Float[Tensor, "batch new_tokens square dim"]:
    grid = tokens.unflatten(1, (-1, factor, columns // factor, factor))  # [B, rows, factor, columns, factor, dim]
    return grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def square_tokens(name: str, n: int, factor: int) -> int:
    """Return the number of squares in a square grid of ``n`` tokens.

    Raises:
        DataError: the tokens are no square grid that the squares fill.
    """
    reason = misfit(n, factor)
    if reason is not None:
        raise DataError(f"{name}: {reason}")
    return n // factor**2


def misfit(n: int, factor: int) -> str | None:
    """Return the reason why ``n`` tokens are not a square grid that ``factor`` x ``factor`` squares fill, or None if they are."""
    side = math.isqrt(n)
    if side**2 != n:
        return f"{n} tokens do not form a square grid"
    legal = [f for f in range(1, side + 1) if side % f == 0]
    return None if side % factor == 0 else f"factor {factor} does not divide the side of the {side} x {side} grid; allowed are {legal}"
