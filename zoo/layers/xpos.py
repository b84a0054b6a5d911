"""xPos: rotary position embeddings whose attention scores also decay with distance.

Paper: Sun et al. 2022, "A Length-Extrapolatable Transformer" (arXiv 2212.10554), section 3.2 and algorithm 1. Reference:
microsoft/torchscale ``component/xpos_relative_position.py``.

Queries are rotated and multiplied by zeta ** (c / scale); keys are rotated and divided by it, where c is their position relative to a
centre. A score thus contains zeta ** ((query position - key position) / scale), with a zeta between 0.28 and 1 for each pair of channels;
the centre cancels out.

Differences: the reference takes the middle of the current input as the centre. It moves with every new token, so the reference caches keys
before rotation and rotates all of them at each step. Here the centre is the middle of the context, and cached keys never change. Both
factors fit into float32 if ``half the context / scale`` is at most 64; other settings raise an error.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.errors import ConfigError

GAMMA = 0.4  # the paper's; the smallest zeta is GAMMA / (1 + GAMMA)
THETA = 10_000.0
FARTHEST = 64  # distance in scales; zeta ** 64 is at least 1e-35, which leaves queries and keys 3 of float32's 38 decades


class XPos:
    """Rotation angles and decay factors by position; not a module, because it has no weights.

    Args:
        head_dim: width of each head; even.
        context_length: maximum number of positions.
        scale: distance, in positions, over which the contribution of a pair of channels decays by its zeta (the paper: 512).
        centre: position whose factor is 1; None takes the middle of the context.

    Raises:
        ConfigError: ``head_dim`` is odd, or ``scale`` is so small that the factors exceed the range of float32.
    """

    def __init__(self, *, head_dim: int, context_length: int, scale: int = 512, centre: int | None = None) -> None:
        if head_dim % 2:
            raise ConfigError(f"head_dim: {head_dim} is odd; allowed are even widths, because xPos pairs channels")
        self.head_dim, self.scale = head_dim, scale
        self.centre = context_length // 2 if centre is None else centre
        farthest = max(self.centre, context_length - self.centre)
        if scale < 1 or farthest > FARTHEST * scale:
            least = max(1, math.ceil(farthest / FARTHEST))
            raise ConfigError(
                f"xpos_scale: {scale} with context_length {context_length} gives factors beyond float32; allowed is {least} or more"
            )

    def zetas(self, device: torch.device | None = None) -> Float[Tensor, " half"]:
        """Return the decay of each pair of channels over ``scale`` positions. Source: torchscale; gamma: the paper, section 3.2."""
        even = torch.arange(0, self.head_dim, 2, dtype=torch.float32, device=device)
        return (even + GAMMA * self.head_dim) / ((1 + GAMMA) * self.head_dim)

    def turn(self, positions: Int[Tensor, "*tokens"]) -> "ScaledTurn":
        """Return the rotation of queries and keys at the given positions."""
        even = torch.arange(0, self.head_dim, 2, dtype=torch.float32, device=positions.device)
        angles = positions[..., None].float() * THETA ** (-even / self.head_dim)
        fading = self.zetas(positions.device) ** ((positions[..., None] - self.centre).float() / self.scale)
        cos, sin = angles.cos(), angles.sin()
        return ScaledTurn((cos * fading, sin * fading), (cos / fading, sin / fading))


@dataclass(frozen=True)
class ScaledTurn:
    """Rotation with decay: queries are multiplied by the factors of their positions, keys divided.

    Attributes:
        queries: cosine and sine of each position's angles, times its factors, in float32.
        keys: cosine and sine of each position's angles, divided by its factors, in float32.
    """

    queries: tuple[Float[Tensor, "*tokens half"], Float[Tensor, "*tokens half"]]
    keys: tuple[Float[Tensor, "*tokens half"], Float[Tensor, "*tokens half"]]

    def __call__(
        self, states: Float[Tensor, "*tokens num_heads head_dim"], num_queries: int
    ) -> tuple[Float[Tensor, "*tokens queries head_dim"], Float[Tensor, "*tokens keys head_dim"]]:
        """Return rotated queries, which are the first ``num_queries`` heads of ``states``, and rotated keys."""
        queries = rotate_neighbours(states[..., :num_queries, :], *self.queries)
        return queries, rotate_neighbours(states[..., num_queries:, :], *self.keys)


def rotate_neighbours(
    x: Float[Tensor, "*tokens num_heads head_dim"], cos: Float[Tensor, "*#tokens half"], sin: Float[Tensor, "*#tokens half"]
) -> Float[Tensor, "*tokens num_heads head_dim"]:
    """Rotate each pair of neighbouring channels (2j, 2j + 1) of every head by its position's angle."""
    cos, sin = (table[..., None, :].to(x.dtype) for table in (cos, sin))  # [..., 1, half]
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)  # [..., heads, half] each
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)
