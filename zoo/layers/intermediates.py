"""Outputs of the blocks inside an encoder, as tokens or as maps, for ``Encoder.intermediates``."""

from collections.abc import Sequence
from itertools import count
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo.errors import ConfigError, name_choices
from zoo.layers.select import find_layers

OUTPUTS = ("tokens", "map")


class _EnoughError(Exception):
    """Ends a forward pass after the last block that was asked for."""


def block_outputs(
    encoder: nn.Module, blocks: Sequence[nn.Module], x: Tensor, mask: Tensor | None, layers: Sequence[int] | None
) -> list[Float[Tensor, "batch num_tokens dim"]]:
    """Run an encoder and return the outputs of some of its blocks; blocks after the last chosen one are not computed.

    Args:
        encoder: called with ``x`` and ``mask``; it must run the blocks on padded tokens.
        blocks: in the order in which they run.
        x: input of the encoder.
        mask: True at real positions.
        layers: indices of blocks, 0 is the first and -1 the last; None chooses all.

    Raises:
        ConfigError: a block does not exist.
    """
    wanted = find_layers(layers, len(blocks))
    found: dict[int, Tensor] = {}
    calls, last = count(), max(wanted, default=-1)

    def keep(block: nn.Module, given: Any, output: Any) -> None:
        place = next(calls)  # counted, because one block may stand at several places (ALBERT)
        if place in wanted:
            found[place] = output[0] if isinstance(output, tuple) else output
        if place == last:
            raise _EnoughError

    hooks = [block.register_forward_hook(keep) for block in dict.fromkeys(blocks)]
    try:
        if wanted:
            encoder(x, mask)
    except _EnoughError:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return [found[place] for place in wanted]


def as_output(
    tokens: Sequence[Float[Tensor, "batch _ dim"]], output: str, pixels: Float[Tensor, "batch 3 height width"], prefix: int = 0
) -> list[Tensor]:
    """Return the tokens of an image encoder as they are, or as maps [batch, dim, rows, columns] without prefix tokens.

    Raises:
        ConfigError: ``output`` is another word.
    """
    refuse_output(output)
    return list(tokens) if output == "tokens" else [_map(each[:, prefix:], pixels) for each in tokens]


def _map(places: Float[Tensor, "batch places dim"], pixels: Tensor) -> Float[Tensor, "batch dim rows columns"]:
    """Return places in row-major order as a map; the grid has the proportions of the image."""
    number, (height, width) = places.shape[1], pixels.shape[-2:]
    rows = next(rows for rows in _by_proportion(number, height / width) if number % rows == 0)
    return places.transpose(1, 2).unflatten(2, (rows, number // rows))  # [batch, dim, rows, columns]


def _by_proportion(number: int, proportion: float) -> list[int]:
    """Return possible numbers of rows, the one whose grid is nearest to the proportion first: 8 places at 0.5 give 2 (x 4) first."""
    wanted = torch.tensor(number * proportion).sqrt().item()
    return sorted(range(1, number + 1), key=lambda rows: abs(rows - wanted))


def refuse_map(output: str, modality: str) -> None:
    """Raise ConfigError for maps of an encoder whose input has no rows and columns."""
    refuse_output(output)
    if output == "map":
        raise ConfigError(f"output: 'map' is of images; an encoder of {modality} gives 'tokens'")


def refuse_output(output: str) -> None:
    """Raise ConfigError for an unknown form of outputs."""
    if output not in OUTPUTS:
        raise ConfigError(f"output: there is no {output!r}; {name_choices(output, OUTPUTS)}")
