"""Attention pooling: learned queries read the tokens.

Paper: Yu et al. 2022 (CoCa, arXiv 2205.01917), section 3.2.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zoo.layers.attention import CrossAttention
from zoo.layers.connector import default_heads, refuse_below, without_padding
from zoo.layers.linear import Linear
from zoo.registry import register
from zoo.types import Connector, all_real


@register("connector")
class AttentionPoolConnector(Connector):
    """One attention layer from learned queries to the tokens, a layer norm and a linear layer (CoCa's attentional pooler).

    Args:
        in_dim: width of the encoder's tokens.
        out_dim: width of the language model.
        num_queries: number of output tokens per item.
        num_heads: attention heads; None takes one per 64 channels.
    """

    merge = None

    def __init__(self, *, in_dim: int, out_dim: int, num_queries: int = 32, num_heads: int | None = None) -> None:
        super().__init__()
        refuse_below("num_queries", num_queries, 1)
        self.queries = nn.Parameter(torch.empty(num_queries, in_dim))
        nn.init.normal_(self.queries)
        self.norm_media = nn.LayerNorm(in_dim)
        self.attention = CrossAttention(dim=in_dim, num_heads=default_heads(in_dim) if num_heads is None else num_heads)
        self.norm = nn.LayerNorm(in_dim)
        self.linear = Linear(in_dim, out_dim)

    def num_tokens(self, n: int) -> int:
        return len(self.queries)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Float[Tensor, "batch num_queries out_dim"], Bool[Tensor, "batch num_queries"]]:
        media = self.norm_media(without_padding(tokens, mask))
        x = self.attention(self.queries.expand(len(tokens), -1, -1), media, mask)
        x = self.linear(self.norm(x))
        return x, all_real(x.shape[:2], x.device)
