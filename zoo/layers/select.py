"""Which layers a caller asks for, and which of their tokens."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from zoo.errors import ConfigError


def select_places(tokens: Float[Tensor, "batch num_tokens dim"], prefix: int, *, first: bool) -> Float[Tensor, "batch shown dim"]:
    """The tokens behind a prefix of some that stand for no place (class token, registers), and before them perhaps the very first."""
    places = tokens[:, prefix:]
    return torch.cat([tokens[:, :1], places], dim=1) if first and prefix else places  # [B, 1 + places, dim]


def find_layers(layers: Sequence[int] | None, depth: int) -> list[int]:
    """Indices of layers as in Python, negative ones counted from the end, to those from the start; None to all.

    Raises:
        ConfigError: an index that is no layer.
    """
    if layers is None:
        return list(range(depth))
    if isinstance(layers, str | int) or not all(isinstance(i, int) and -depth <= i < depth for i in layers):
        raise ConfigError(f"layers: got {layers!r}; allowed is a list of numbers from {-depth} to {depth - 1}: there are {depth} blocks")
    return [i % depth for i in layers]


def find_state(layer: int | None, depth: int) -> int:
    """How many blocks stand before a hidden state, as transformers numbers ``hidden_states``; None is the last.

    Of 12 blocks 0 gives 0 (what enters the first), -1 and 12 give 12 (all), -2 gives 11.

    Raises:
        ConfigError: there is no such state.
    """
    if layer is None:
        return depth
    if not -depth - 1 <= layer <= depth:
        raise ConfigError(
            f"layer {layer}: there are {depth} blocks; allowed is {-depth - 1} to {depth} (0 is what enters the first, -1 the last block's "
            "output without the final norm), or null for the last, normalised"
        )
    return layer % (depth + 1)
