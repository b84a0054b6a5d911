"""Which layers a caller asks for."""

from collections.abc import Sequence

from zoo.errors import ConfigError


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
