"""Pre-norm transformer block and stack, shared by the image and text encoders."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zoo.layers.attention import Attention, Layout
from zoo.layers.drop import DropPath
from zoo.layers.mlp import feed_forward


class LayerScale(nn.Module):
    """LayerScale: a learned factor per channel that starts small. Source: Touvron et al. 2021 (arXiv 2103.17239), eq. 4."""

    def __init__(self, *, dim: int, init: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        return x * self.scale


class Block(nn.Module):
    """Pre-norm block: x + attention(norm(x)), then x + mlp(norm(x)).

    Source: Dosovitskiy et al. 2020 (arXiv 2010.11929), equations 2 and 3.

    Args:
        dim: width of the tokens.
        num_heads: attention heads; a divisor of ``dim``.
        hidden_dim: width of the feed-forward block's hidden layer.
        activation: name in ``zoo.layers.mlp.ACTIVATIONS``, or "swiglu".
        eps: added to the variance in the layer norms.
        layer_scale: initial value of LayerScale on both branches; None leaves it out.
        drop_path: rate of stochastic depth on both branches, in training.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        hidden_dim: int,
        activation: str = "gelu",
        eps: float = 1e-6,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attention = Attention(dim=dim, num_heads=num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = feed_forward(dim=dim, hidden_dim=hidden_dim, activation=activation)
        scaled = layer_scale is not None
        self.scale1 = LayerScale(dim=dim, init=layer_scale) if scaled else nn.Identity()
        self.scale2 = LayerScale(dim=dim, init=layer_scale) if scaled else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        x: Float[Tensor, "*tokens dim"],
        mask: Bool[Tensor, "batch num_tokens"] | None = None,
        causal: bool = False,
        layout: Layout | None = None,
    ) -> Float[Tensor, "*asked dim"]:
        """Return the outputs of a batch [batch, num_tokens, dim], or of the layout's query tokens in a list [total, dim].

        ``mask`` and ``causal`` are those of ``Attention``.
        """
        drops = self.training and self.drop_path.rate > 0
        assert layout is None or not drops, "drop_path works per item, and items cannot be told apart in a packed list"
        # A layout may have fewer queries than tokens (the last block before pooling); the residual is then that of the queries.
        change = self.attention(self.norm1(x), mask, causal, layout)
        x = (x if layout is None else layout.asking(x)) + self.drop_path(self.scale1(change))
        return x + self.drop_path(self.scale2(self.mlp(self.norm2(x))))


def drop_path_rates(last: float, depth: int) -> list[float]:
    """Return stochastic-depth rates that grow linearly from 0 in the first block to ``last`` in the last block (timm's rule)."""
    return [last * i / max(depth - 1, 1) for i in range(depth)]
