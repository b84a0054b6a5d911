"""Rotary position embeddings (RoPE): queries and keys are rotated by angles proportional to their position.

Source: Su et al. 2021 (arXiv 2104.09864), section 3.2.2. Channel j of the first half of a head is paired with channel j of the second half,
as in transformers. Meta's original files pair neighbouring channels; converting them reorders the rows of the query and key weights.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.errors import ConfigError, name_choices

SCALINGS = {  # kind -> the numbers that its config must give
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_context_length"),
}


class Rotary:
    """Rotation angles by position; not a module, because it has no weights.

    Args:
        head_dim: width of each head; even.
        theta: the wavelengths of the channels range from 2 pi to 2 pi theta positions.
        scaling: adaptation to texts longer than those of the training. ``{kind: linear, factor: 4.0}`` divides positions by the factor.
            ``kind: llama3`` divides only the frequencies of slow channels (fewer than ``low_freq_factor`` turns in
            ``original_context_length``), keeps those of fast channels (more than ``high_freq_factor`` turns), and blends in between.

    Raises:
        ConfigError: ``head_dim`` is odd, ``theta`` is not positive, or the scaling is unknown or incomplete.
    """

    def __init__(self, *, head_dim: int, theta: float = 10_000.0, scaling: Mapping[str, Any] | None = None) -> None:
        if head_dim % 2:
            raise ConfigError(f"head_dim: {head_dim} is odd; allowed are even widths, because rotary positions pair channels")
        if theta <= 0:
            raise ConfigError(f"rope_theta: got {theta}; allowed are numbers above 0")
        refuse_scaling(scaling)
        self.head_dim, self.theta, self.scaling = head_dim, theta, dict(scaling or {})

    def tables(self, positions: Int[Tensor, "*tokens"]) -> tuple[Float[Tensor, "*tokens half"], Float[Tensor, "*tokens half"]]:
        """Return cosine and sine of each position's angles, in float32."""
        # float32 always: bf16 represents integers exactly only up to 256.
        angles = positions[..., None].float() * self.frequencies(positions.device)
        return angles.cos(), angles.sin()

    def frequencies(self, device: torch.device) -> Float[Tensor, " half"]:
        """Return the frequency of each pair of channels, in radians per position."""
        frequencies = 1.0 / self.theta ** (torch.arange(0, self.head_dim, 2, dtype=torch.float32, device=device) / self.head_dim)
        if not self.scaling:
            return frequencies
        factor = self.scaling["factor"]
        if self.scaling["kind"] == "linear":
            return frequencies / factor
        turns = self.scaling["original_context_length"] * frequencies / (2 * math.pi)
        low, high = self.scaling["low_freq_factor"], self.scaling["high_freq_factor"]
        kept = ((turns - low) / (high - low)).clamp(0, 1)  # 1: frequency is kept, 0: frequency is divided by the factor
        return frequencies * (kept + (1 - kept) / factor)


@dataclass(frozen=True)
class Turn:
    """Rotation of queries and keys by the same angles: ``Turn(*rotary.tables(positions))(states, num_queries)``."""

    cos: Float[Tensor, "*tokens half"]
    sin: Float[Tensor, "*tokens half"]

    def __call__(
        self, states: Float[Tensor, "*tokens num_heads head_dim"], num_queries: int
    ) -> tuple[Float[Tensor, "*tokens queries head_dim"], Float[Tensor, "*tokens keys head_dim"]]:
        """Return rotated queries, which are the first ``num_queries`` heads of ``states``, and rotated keys."""
        turned = rotate(states, self.cos, self.sin)
        return turned[..., :num_queries, :], turned[..., num_queries:, :]


def rotate(
    x: Float[Tensor, "*tokens num_heads head_dim"], cos: Float[Tensor, "*#tokens half"], sin: Float[Tensor, "*#tokens half"]
) -> Float[Tensor, "*tokens num_heads head_dim"]:
    """Rotate each pair of channels (j, j + head_dim / 2) of every head by its position's angle."""
    cos, sin = (table[..., None, :].to(x.dtype) for table in (cos, sin))  # [..., 1, half]
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def refuse_scaling(scaling: Mapping[str, Any] | None) -> None:
    """Raise ConfigError if the kind of a scaling is unknown, or its numbers are missing or out of range."""
    if not scaling:
        return
    kind = str(scaling.get("kind"))
    if kind not in SCALINGS:
        raise ConfigError(f"rope_scaling.kind: there is no {kind!r}; {name_choices(kind, SCALINGS)}")
    wanted = {"kind", *SCALINGS[kind]}
    if set(scaling) != wanted or not all(isinstance(scaling[key], int | float) and scaling[key] > 0 for key in SCALINGS[kind]):
        raise ConfigError(f"rope_scaling: got {dict(scaling)}; kind {kind!r} needs numbers above 0 for {', '.join(SCALINGS[kind])}")
    if kind == "llama3" and scaling["low_freq_factor"] >= scaling["high_freq_factor"]:
        raise ConfigError(
            f"rope_scaling: low_freq_factor {scaling['low_freq_factor']} must be below high_freq_factor {scaling['high_freq_factor']}"
        )
