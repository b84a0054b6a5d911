"""Sources of a run's first weights, as its config names them."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from zoo.errors import ConfigError, name_choices


def weight_sources(config: Mapping[str, Any], system: nn.Module) -> dict[str, str]:
    """Return the source of a run's first weights by part: ``{"encoders.image": "runs/clip"}``; the part "" is the whole system.

    Raises:
        ConfigError: the system has no such part, or a source is not a string.
    """
    sources = dict(_flattened(config.get("weights") or {}, ""))
    parts = dict(system.named_modules())
    for part, source in sources.items():
        key = f"weights.{part}".rstrip(".")
        if part not in parts:
            as_deep = [name for name in parts if name and name.count(".") <= part.count(".")]
            raise ConfigError(f"{key}: the system has no part {part!r}; {name_choices(part, as_deep)}")
        if not isinstance(source, str):
            raise ConfigError(f"{key}: got {source!r}; give a run directory, a saved model or a file of weights")
    return sources


def _flattened(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield ``{"encoders": {"image": X}}`` as ``("encoders.image", X)``; None is left out."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _flattened(value, f"{key}.{name}".strip("."))
    elif node is not None:
        yield key, node
