"""Linear connector: one linear layer for each token.

Paper: Liu et al. 2023 (LLaVA, arXiv 2304.08485), section 4.1.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from zoo.layers.linear import Linear
from zoo.registry import register
from zoo.types import Connector


@register("connector")
class LinearConnector(Connector):
    """One linear layer, applied to each token (LLaVA)."""

    def __init__(self, *, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.linear = Linear(in_dim, out_dim)

    def num_tokens(self, n: int) -> int:
        return n

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Float[Tensor, "batch num_tokens out_dim"], Bool[Tensor, "batch num_tokens"]]:
        return self.linear(tokens), mask
