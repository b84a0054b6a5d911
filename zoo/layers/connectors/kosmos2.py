"""Connector of Kosmos-2: a single attention layer with learned latents.

Paper: Peng et al. 2023 (Kosmos-2, arXiv 2306.14824), as released.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zoo.layers.attention import CrossAttention
from zoo.layers.connector import default_heads, refuse_below, without_padding
from zoo.layers.linear import Linear
from zoo.registry import register
from zoo.types import Connector, all_real


@register("connector")
class Kosmos2Connector(Connector):
    """Linear layer, then one attention layer from learned latents to media tokens and latents, without norm, residual and feed-forward.

    Source: microsoft/unilm ``kosmos-2`` (``xconnector``); transformers ``Kosmos2ImageToTextProjection``.

    Args:
        in_dim: width of the encoder's tokens.
        out_dim: width of the language model.
        num_latents: number of output tokens per item.
        num_heads: attention heads; None takes one per 64 channels of the language model.
        normalise: True scales each media token to length 1 first.
    """

    silent_keywords = ("num_heads", "normalise")
    merge = None

    @classmethod
    def resolved(cls, keywords: Mapping[str, Any]) -> dict[str, Any]:
        """Replace ``num_heads`` of None by the number of heads of the width."""
        heads = keywords["num_heads"]
        return {**keywords, "num_heads": default_heads(keywords["out_dim"]) if heads is None else heads}

    def __init__(self, *, in_dim: int, out_dim: int, num_latents: int = 64, num_heads: int | None = None, normalise: bool = True) -> None:
        super().__init__()
        refuse_below("num_latents", num_latents, 1)
        self.normalise = normalise
        self.dense = Linear(in_dim, out_dim)
        self.latents = nn.Parameter(torch.empty(num_latents, out_dim))
        nn.init.normal_(self.latents)
        self.attention = CrossAttention(dim=out_dim, num_heads=default_heads(out_dim) if num_heads is None else num_heads)

    def num_tokens(self, n: int) -> int:
        return len(self.latents)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Float[Tensor, "batch num_latents out_dim"], Bool[Tensor, "batch num_latents"]]:
        tokens = without_padding(tokens, mask)
        media = self.dense(F.normalize(tokens, dim=-1) if self.normalise else tokens)
        latents = self.latents.expand(len(tokens), -1, -1)
        seen = all_real(latents.shape[:2], latents.device)  # [B, num_latents]
        x = self.attention(latents, torch.cat([media, latents], dim=1), torch.cat([mask, seen], dim=1))  # keys: [B, N + num_latents, dim]
        return x, seen
