"""Selection of layers of an encoder, and of the tokens of a layer."""

from collections.abc import Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor

from zoo.errors import ConfigError


def select_places(tokens: Shaped[Tensor, "batch num_tokens *dim"], prefix: int, *, first: bool) -> Shaped[Tensor, "batch shown *dim"]:
    """Return the patch tokens, which come after ``prefix`` other tokens (class token, registers).

    Args:
        tokens: all tokens of a layer, or their mask.
        prefix: number of tokens before the patches.
        first: True also keeps the very first token (the class token), if there is a prefix.
    """
    places = tokens[:, prefix:]
    return torch.cat([tokens[:, :1], places], dim=1) if first and prefix else places  # [B, 1 + places, dim]


def find_layers(layers: Sequence[int] | None, depth: int) -> list[int]:
    """Return indices of layers with negative ones, which count from the end, made positive; None gives all layers.

    Raises:
        ConfigError: an index is out of range.
    """
    if layers is None:
        return list(range(depth))
    if isinstance(layers, str | int) or not all(isinstance(i, int) and -depth <= i < depth for i in layers):
        raise ConfigError(f"layers: got {layers!r}; allowed is a list of numbers from {-depth} to {depth - 1}: there are {depth} blocks")
    return [i % depth for i in layers]


def find_state(layer: int | None, depth: int) -> int:
    """Return the number of blocks before a hidden state, which is numbered as in transformers' ``hidden_states``; None is the last.

    With 12 blocks, 0 gives 0 (the input of the first block), -1 and 12 give 12 (all blocks), -2 gives 11.

    Raises:
        ConfigError: ``layer`` is out of range.
    """
    if layer is None:
        return depth
    if not -depth - 1 <= layer <= depth:
        raise ConfigError(
            f"layer {layer}: there are {depth} blocks; allowed is {-depth - 1} to {depth} (0 is the input of the first block, -1 the last "
            "block's output without the final norm), or null for the last block's output after the final norm"
        )
    return layer % (depth + 1)
