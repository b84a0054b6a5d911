"""MLP connector: linear layers with GELU between them.

Paper: Liu et al. 2023 (LLaVA-1.5, arXiv 2310.03744), section 3.2.
"""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zoo.layers.connector import refuse_below
from zoo.layers.linear import Linear
from zoo.registry import register
from zoo.types import Connector


@register("connector")
class MLPConnector(Connector):
    """Linear layers with GELU between them, applied to each token (LLaVA-1.5: two layers, both as wide as the language model).

    Args:
        in_dim: width of the encoder's tokens.
        out_dim: width of the language model.
        depth: number of linear layers.
        bias: True gives each of them a bias.
    """

    def __init__(self, *, in_dim: int, out_dim: int, depth: int = 2, bias: bool = True) -> None:
        super().__init__()
        refuse_below("depth", depth, 1)
        self.layers = nn.ModuleList(Linear(out_dim if i else in_dim, out_dim, bias=bias) for i in range(depth))

    def num_tokens(self, n: int) -> int:
        return n

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Float[Tensor, "batch num_tokens out_dim"], Bool[Tensor, "batch num_tokens"]]:
        for i, layer in enumerate(self.layers):
            tokens = layer(F.gelu(tokens) if i else tokens)
        return tokens, mask
