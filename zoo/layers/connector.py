"""Construction of connectors by name, and what connectors share. The connectors themselves: ``zoo/layers/connectors/``, one file each."""

import inspect
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zoo.errors import ConfigError, name_choices
from zoo.registry import find_part, part_names
from zoo.registry.construct import checked_value
from zoo.types import Connector


def build_connector(kind: str | Mapping[str, Any], *, in_dim: int, out_dim: int, num_tokens: int | None) -> Connector:
    """Return a connector, given its name or a mapping with its name and options: ``{kind: resampler, num_latents: 32}``.

    Args:
        kind: a registered connector, or a mapping with the key ``kind``. The option ``newline: true``, which every connector takes, adds
            the learned vector that some tilers put at the end of a row.
        in_dim: width of the encoder's tokens.
        out_dim: width of the language model.
        num_tokens: tokens per item, in a grid (images); None if the number differs between items, ordered in time (audio).

    Raises:
        ConfigError: the name or an option is unknown, or the connector cannot process tokens of this kind.
    """
    options = {"kind": kind} if isinstance(kind, str) else dict(kind)
    name, newline = options.pop("kind", None), options.pop("newline", False)
    if name not in part_names("connector"):
        raise ConfigError(f"there is no connector {name!r}; {name_choices(str(name), part_names('connector'))}")
    part: Any = find_part("connector", name)
    options = _checked_options(part, name, options)
    connector = part(in_dim=in_dim, out_dim=out_dim, **options)
    part.refuse(num_tokens, options)
    if checked_value("newline", newline, bool):
        connector.newline = nn.Parameter(torch.empty(out_dim))
        nn.init.normal_(connector.newline, std=out_dim**-0.5)  # as LLaVA-NeXT
    return connector


def _checked_options(part: type[Connector], kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options of a connector, defaults included; the constructor's keywords are the options, so no list of them is needed."""
    known = {name: p for name, p in inspect.signature(part).parameters.items() if name not in ("in_dim", "out_dim")}
    hints = typing.get_type_hints(part.__init__)
    for name in options:
        if name not in known:
            raise ConfigError(f"{name}: connector {kind!r} has no such option; {name_choices(name, known)}")
    given = {name: checked_value(name, value, hints.get(name, Any)) for name, value in options.items()}
    return {name: p.default for name, p in known.items() if p.default is not p.empty} | given


def cannot(name: str, reason: str, others: Sequence[str]) -> ConfigError:
    """Return the error of a connector that cannot process the tokens of an encoder.

    Args:
        name: of the connector.
        reason: a clause.
        others: at least two connectors that can.
    """
    return ConfigError(f"{name!r} cannot be used here: {reason}; or choose {', '.join(others[:-1])} or {others[-1]}")


def without_padding(
    tokens: Float[Tensor, "batch num_tokens dim"], mask: Bool[Tensor, "batch num_tokens"]
) -> Float[Tensor, "batch num_tokens dim"]:
    """Return the tokens with zeros at padding; unlike a product with the mask, this also removes NaN."""
    return tokens.masked_fill(~mask[..., None], 0)


def default_heads(dim: int) -> int:
    """Return the largest number of heads that divides the width into 64 channels or more: 16 for 1024, 3 for 192, 2 for 200, 1 for 48."""
    return max((heads for heads in range(1, max(dim // 64, 1) + 1) if dim % heads == 0), default=1)


def refuse_below(key: str, value: int, least: int) -> None:
    """Raise ConfigError if an option is smaller than allowed."""
    if value < least:
        raise ConfigError(f"{key}: {value}; allowed is {least} or more")
