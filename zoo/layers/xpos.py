"""xPos: rotary positions whose scores also fade with distance.

Paper: Sun et al. 2022, "A Length-Extrapolatable Transformer" (arXiv 2212.10554), section 3.2 and algorithm 1. Reference:
microsoft/torchscale ``component/xpos_relative_position.py``.

Queries are turned and multiplied by zeta ** (c / scale), keys are turned and divided by it, so that a score carries
zeta ** ((query's position - key's position) / scale), with a zeta between 0.28 and 1 for each pair of channels. What c is counted from
cancels out. Where we differ: the reference counts from the middle of what it is given, which moves with every new token, so that it keeps
keys unturned and turns them all again at each step; here c is counted from the middle of the context, and a key in the cache stays as it
is. Float32 holds both factors wherever ``half the context / scale`` is below 64, and others are refused.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.errors import ConfigError

GAMMA = 0.4  # the paper's; the smallest zeta is GAMMA / (1 + GAMMA)
THETA = 10_000.0
FARTHEST = 64  # in scales; zeta ** 64 is at least 1e-35, which leaves queries and keys 3 decades of float32's 38


class XPos:
    """Tables of angles and factors by position; there is nothing to learn and nothing to save.

    Args:
        scale: over how many positions what a pair of channels adds to a score fades by its zeta (the paper: 512).
        centre: the position whose factor is 1.

    Raises:
        ConfigError: heads of odd width, or a scale so small that the factors leave the range of float32.
    """

    def __init__(self, *, head_dim: int, context_length: int, scale: int = 512, centre: int | None = None) -> None:
        if head_dim % 2:
            raise ConfigError(f"head_dim: {head_dim} is odd; xPos pairs channels: allowed are even widths")
        self.head_dim, self.scale = head_dim, scale
        self.centre = context_length // 2 if centre is None else centre
        farthest = max(self.centre, context_length - self.centre)
        if scale < 1 or farthest > FARTHEST * scale:
            least = max(1, math.ceil(farthest / FARTHEST))
            raise ConfigError(
                f"xpos_scale: {scale} with context_length {context_length} gives factors beyond float32; allowed is {least} or more"
            )

    def zetas(self, device: torch.device | None = None) -> Float[Tensor, " half"]:
        """By how much each pair of channels fades over ``scale`` positions. Source: torchscale's code; gamma of the paper, section 3.2."""
        even = torch.arange(0, self.head_dim, 2, dtype=torch.float32, device=device)
        return (even + GAMMA * self.head_dim) / ((1 + GAMMA) * self.head_dim)

    def turn(self, positions: Int[Tensor, "*tokens"]) -> "ScaledTurn":
        """What happens to queries and keys at these positions."""
        even = torch.arange(0, self.head_dim, 2, dtype=torch.float32, device=positions.device)
        angles = positions[..., None].float() * THETA ** (-even / self.head_dim)
        fading = self.zetas(positions.device) ** ((positions[..., None] - self.centre).float() / self.scale)
        cos, sin = angles.cos(), angles.sin()
        return ScaledTurn((cos * fading, sin * fading), (cos / fading, sin / fading))


@dataclass(frozen=True)
class ScaledTurn:
    """Queries turned and multiplied, keys turned and divided.

    Attributes:
        queries: cosine and sine of each position's angles, times its factors, in float32.
        keys: the same, divided by them.
    """

    queries: tuple[Float[Tensor, "*tokens half"], Float[Tensor, "*tokens half"]]
    keys: tuple[Float[Tensor, "*tokens half"], Float[Tensor, "*tokens half"]]

    def __call__(
        self, states: Float[Tensor, "*tokens num_heads head_dim"], num_queries: int
    ) -> tuple[Float[Tensor, "*tokens queries head_dim"], Float[Tensor, "*tokens keys head_dim"]]:
        """Queries, which are the first heads of ``states``, and keys."""
        queries = rotate_neighbours(states[..., :num_queries, :], *self.queries)
        return queries, rotate_neighbours(states[..., num_queries:, :], *self.keys)


def rotate_neighbours(
    x: Float[Tensor, "*tokens num_heads head_dim"], cos: Float[Tensor, "*#tokens half"], sin: Float[Tensor, "*#tokens half"]
) -> Float[Tensor, "*tokens num_heads head_dim"]:
    """Turn each pair of channels (2j, 2j + 1) of every head by its position's angle."""
    cos, sin = (table[..., None, :].to(x.dtype) for table in (cos, sin))  # [..., 1, half]
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)  # [..., heads, half] each
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)
