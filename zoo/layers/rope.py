"""Rotary positions: queries and keys turned by angles that grow with their position.

Source: Su et al. 2021 (arXiv 2104.09864), section 3.2.2. A channel of the first half of a head is paired with the same channel of the
second half, as in transformers; Meta's own files pair neighbours, which is another order of the rows that make queries and keys.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.errors import ConfigError, name_choices

SCALINGS = {  # kinds, and the numbers that each needs
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_context_length"),
}


class Rotary:
    """Angles by position; there is nothing to learn and nothing to save.

    Args:
        theta: the wavelengths of the channels go from 2 pi up to 2 pi theta positions.
        scaling: how longer texts than those of the training are fitted in: ``{kind: linear, factor: 4.0}`` divides positions;
            ``kind: llama3`` divides only slow channels (those with fewer than ``low_freq_factor`` turns in
            ``original_context_length``) and blends up to ``high_freq_factor`` turns.

    Raises:
        ConfigError: heads of odd width, or a scaling that is not among these.
    """

    def __init__(self, *, head_dim: int, theta: float = 10_000.0, scaling: Mapping[str, Any] | None = None) -> None:
        if head_dim % 2:
            raise ConfigError(f"head_dim: {head_dim} is odd; rotary positions pair channels: allowed are even widths")
        if theta <= 0:
            raise ConfigError(f"rope_theta: got {theta}; allowed are numbers above 0")
        refuse_scaling(scaling)
        self.head_dim, self.theta, self.scaling = head_dim, theta, dict(scaling or {})

    def tables(self, positions: Int[Tensor, "*tokens"]) -> tuple[Float[Tensor, "*tokens half"], Float[Tensor, "*tokens half"]]:
        """Cosine and sine of each position's angles, in float32."""
        angles = positions[..., None].float() * self.frequencies(positions.device)
        return angles.cos(), angles.sin()

    def frequencies(self, device: torch.device) -> Float[Tensor, " half"]:
        """Radians per position."""
        frequencies = 1.0 / self.theta ** (torch.arange(0, self.head_dim, 2, dtype=torch.float32, device=device) / self.head_dim)
        if not self.scaling:
            return frequencies
        factor = self.scaling["factor"]
        if self.scaling["kind"] == "linear":
            return frequencies / factor
        turns = self.scaling["original_context_length"] * frequencies / (2 * math.pi)
        low, high = self.scaling["low_freq_factor"], self.scaling["high_freq_factor"]
        kept = ((turns - low) / (high - low)).clamp(0, 1)  # 1: as it was, 0: divided
        return frequencies * (kept + (1 - kept) / factor)


@dataclass(frozen=True)
class Turn:
    """Queries and keys turned alike: ``Turn(*rotary.tables(positions))(states, num_queries)``."""

    cos: Float[Tensor, "*tokens half"]
    sin: Float[Tensor, "*tokens half"]

    def __call__(
        self, states: Float[Tensor, "*tokens num_heads head_dim"], num_queries: int
    ) -> tuple[Float[Tensor, "*tokens queries head_dim"], Float[Tensor, "*tokens keys head_dim"]]:
        """Turned queries, which are the first heads of ``states``, and turned keys."""
        turned = rotate(states, self.cos, self.sin)
        return turned[..., :num_queries, :], turned[..., num_queries:, :]


def rotate(
    x: Float[Tensor, "*tokens num_heads head_dim"], cos: Float[Tensor, "*#tokens half"], sin: Float[Tensor, "*#tokens half"]
) -> Float[Tensor, "*tokens num_heads head_dim"]:
    """Turn each pair of channels (j, j + head_dim / 2) of every head by its position's angle."""
    cos, sin = (table[..., None, :].to(x.dtype) for table in (cos, sin))  # [..., 1, half]
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def refuse_scaling(scaling: Mapping[str, Any] | None) -> None:
    """Raise ConfigError for a scaling that we do not have, or one that lacks a number."""
    if not scaling:
        return
    kind = str(scaling.get("kind"))
    if kind not in SCALINGS:
        raise ConfigError(f"rope_scaling.kind: there is no {kind!r}; {name_choices(kind, SCALINGS)}")
    wanted = {"kind", *SCALINGS[kind]}
    if set(scaling) != wanted or not all(isinstance(scaling[key], int | float) and scaling[key] > 0 for key in SCALINGS[kind]):
        raise ConfigError(f"rope_scaling: got {dict(scaling)}; kind {kind!r} needs numbers above 0 for {', '.join(SCALINGS[kind])}")
    if kind == "llama3" and scaling["low_freq_factor"] >= scaling["high_freq_factor"]:
        raise ConfigError(f"rope_scaling: low_freq_factor {scaling['low_freq_factor']} must be below high_freq_factor")
