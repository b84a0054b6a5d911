"""Which layers a caller asks for."""

from collections.abc import Sequence

from zoo.errors import ConfigError


def choose_layers(layers: Sequence[int] | None, depth: int) -> list[int]:
    """Layer numbers from 0; None means all, negative numbers count from the end (-1 is the last).

    Raises:
        ConfigError: none asked for, or one that is not there.
    """
    chosen = list(range(depth)) if layers is None else [int(layer) for layer in layers]
    outside = [layer for layer in chosen if not -depth <= layer < depth]
    if outside or not chosen:
        asked = f"{outside[0]} is not there" if outside else "none is named"
        raise ConfigError(f"layers: {asked}; allowed are 0 to {depth - 1}, or -{depth} to -1 from the end")
    return [layer % depth for layer in chosen]
