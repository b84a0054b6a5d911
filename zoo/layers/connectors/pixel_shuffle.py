"""Pixel shuffle: squares of neighbouring tokens become one token.

Papers: the inverse of Shi et al. 2016 (arXiv 1609.05158), as Idefics3 (arXiv 2408.12637) and SmolVLM (arXiv 2504.05299) use it; with a norm
and two linear layers in InternVL 1.5 (Chen et al. 2024, arXiv 2404.16821), section 3.1.
"""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from zoo.layers.connector import cannot, refuse_below
from zoo.layers.linear import Linear
from zoo.layers.squares import joined_squares, misfit, square_tokens
from zoo.registry import register
from zoo.types import Connector


@register("connector")
class PixelShuffle(Connector):
    """Concatenation of the channels of each factor x factor square of tokens into one token, then a linear layer.

    With factor 2 the positions of a 4 x 4 grid become::

         0  1  2  3        [0 1 4 5]    [2 3 6 7]
         4  5  6  7
         8  9 10 11        [8 9 12 13]  [10 11 14 15]
        12 13 14 15

    Args:
        in_dim: width of the encoder's tokens.
        out_dim: width of the language model.
        factor: side of the squares, in tokens.
        bias: True gives the linear layers a bias (Idefics3 and SmolVLM: False).
        norm: True normalises the joined tokens first (InternVL).
        depth: number of linear layers, with GELU between them (InternVL: 2).
    """

    def __init__(self, *, in_dim: int, out_dim: int, factor: int = 2, bias: bool = True, norm: bool = False, depth: int = 1) -> None:
        super().__init__()
        refuse_below("factor", factor, 1)
        refuse_below("depth", depth, 1)
        self.merge = self.factor = factor
        width = in_dim * factor**2
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.linear = Linear(width, out_dim, bias=bias)
        self.more = nn.ModuleList(Linear(out_dim, out_dim, bias=bias) for _ in range(depth - 1))

    @classmethod
    def refuse(cls, num_tokens: int | None, options: Mapping[str, Any]) -> None:
        if num_tokens is None:
            raise cannot("pixel_shuffle", "it needs a square grid of tokens, and audio has none", ("downsampler", "resampler"))
        reason = misfit(num_tokens, options["factor"])
        if reason is not None:
            raise cannot("pixel_shuffle", f"for the encoder's output, {reason}", ("linear", "mlp", "resampler", "attention_pool"))

    def num_tokens(self, n: int) -> int:
        return square_tokens("pixel_shuffle", n, self.factor)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Float[Tensor, "batch new_tokens out_dim"], Bool[Tensor, "batch new_tokens"]]:
        if len(tokens):
            self.num_tokens(tokens.shape[1])  # refuses what is no grid of such squares
        return self._joined(tokens, mask, None)

    def on_grids(
        self, tokens: Tensor, mask: Tensor, grids: Int64[Tensor, "batch 2"]
    ) -> tuple[Float[Tensor, "batch new_tokens out_dim"], Bool[Tensor, "batch new_tokens"]]:
        return self._joined(tokens, mask, grids)

    def _joined(
        self, tokens: Tensor, mask: Tensor, grids: Int64[Tensor, "batch 2"] | None
    ) -> tuple[Float[Tensor, "batch new_tokens out_dim"], Bool[Tensor, "batch new_tokens"]]:
        x, mask = joined_squares(tokens, mask, grids, self.factor)
        x = self.linear(self.norm(x.flatten(2)))
        for layer in self.more:
            x = layer(F.gelu(x))
        return x, mask
