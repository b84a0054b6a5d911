"""Downsampler: convolutions over time.

Paper: Radford et al. 2022 (Whisper, arXiv 2212.04356), figure 1, but each with stride 2.
"""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.layers.connector import cannot, without_padding
from zoo.layers.linear import Linear
from zoo.registry import register
from zoo.types import Connector, follow


@register("connector")
class Downsampler(Connector):
    """Convolutions over time that each halve the number of frames, then a linear layer; padding must be on the right.

    Each convolution rounds up: with factor 4, 5 frames become 3, then 2.

    Args:
        in_dim: width of the encoder's tokens.
        out_dim: width of the language model.
        factor: total reduction, a power of two: 2 has one convolution, 4 has two.
    """

    def __init__(self, *, in_dim: int, out_dim: int, factor: int = 4) -> None:
        super().__init__()
        if factor < 2 or factor & (factor - 1):
            raise ConfigError(f"factor: {factor}; allowed are powers of two (2, 4, 8, 16, ...), because each convolution halves the frames")
        self.convolutions = nn.ModuleList(
            nn.Conv1d(in_dim, in_dim, kernel_size=3, stride=2, padding=1) for _ in range(factor.bit_length() - 1)
        )
        self.linear = Linear(in_dim, out_dim)

    @classmethod
    def refuse(cls, num_tokens: int | None, options: Mapping[str, Any]) -> None:
        if num_tokens is not None:
            reason = "it halves the number of frames in time; sound that is encoded as a grid has no such order, and an image has no time"
            raise cannot("downsampler", reason, ("pixel_shuffle", "resampler"))

    def num_tokens(self, n: int) -> int:
        for _ in self.convolutions:
            n = (n + 1) // 2
        return n

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Float[Tensor, "batch new_tokens out_dim"], Bool[Tensor, "batch new_tokens"]]:
        x = tokens
        for convolution in self.convolutions:
            x = without_padding(x, mask).transpose(1, 2)  # [B, in_dim, frames]
            x = F.gelu(convolution(x)).transpose(1, 2)  # [B, frames / 2, in_dim]
            mask = follow(lambda mask: mask[:, ::2], mask)  # an output frame is real if the centre of its kernel of 3 is real
        return self.linear(x), mask
