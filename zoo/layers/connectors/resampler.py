"""Perceiver resampler: learned latents read any number of media tokens.

Paper: Alayrac et al. 2022 (Flamingo, arXiv 2204.14198), figure 5 and appendix A.1.1.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zoo.layers.attention import CrossAttention
from zoo.layers.connector import default_heads, refuse_below, without_padding
from zoo.layers.linear import Linear
from zoo.layers.mlp import MLP, hidden_width
from zoo.registry import register
from zoo.types import Connector, all_real


class PerceiverLayer(nn.Module):
    """Attention from latents to media tokens and latents together, then a feed-forward block; both with residual connections.

    Source: Flamingo, figure 5 and its code. Keys and values are computed from media tokens and latents, concatenated, each normalised by a
    separate layer norm; the feed-forward block is pre-norm.
    """

    def __init__(self, *, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm_media = nn.LayerNorm(dim)
        self.norm_latents = nn.LayerNorm(dim)
        self.attention = CrossAttention(dim=dim, num_heads=num_heads, bias=False)
        self.norm = nn.LayerNorm(dim)
        self.mlp = MLP(dim=dim, hidden_dim=hidden_width(dim, mlp_ratio))

    def forward(
        self,
        latents: Float[Tensor, "batch num_latents dim"],
        media: Float[Tensor, "batch num_tokens dim"],
        mask: Bool[Tensor, "batch all_tokens"],
    ) -> Float[Tensor, "batch num_latents dim"]:
        """Update the latents; ``mask`` is True at media tokens, followed by latents, that may be attended to."""
        queries = self.norm_latents(latents)
        # Latents are among the keys too, so that a latent can read the others without a separate self-attention.
        context = torch.cat([self.norm_media(media), queries], dim=1)  # [B, N + num_latents, dim]
        latents = latents + self.attention(queries, context, mask)
        return latents + self.mlp(self.norm(latents))


class PerceiverResampler(nn.Module):
    """Perceiver resampler: any number of media tokens to ``num_latents`` tokens of the same width, after a layer norm.

    Args:
        dim: width of media tokens and latents.
        num_latents: number of output tokens.
        depth: number of layers.
        num_heads: attention heads.
        mlp_ratio: hidden width of the feed-forward blocks, as a multiple of ``dim`` (Flamingo: 4).
    """

    def __init__(self, *, dim: int, num_latents: int = 64, depth: int = 6, num_heads: int = 8, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        for key, value in (("num_latents", num_latents), ("depth", depth)):
            refuse_below(key, value, 1)
        self.latents = nn.Parameter(torch.empty(num_latents, dim))
        nn.init.normal_(self.latents)  # as Flamingo's code in lucidrains/flamingo-pytorch and open_flamingo
        self.layers = nn.ModuleList(PerceiverLayer(dim=dim, num_heads=num_heads, mlp_ratio=mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, media: Float[Tensor, "batch num_tokens dim"], mask: Bool[Tensor, "batch num_tokens"]
    ) -> Float[Tensor, "batch num_latents dim"]:
        latents = self.latents.expand(len(media), -1, -1)
        media = without_padding(media, mask)
        seen = torch.cat([mask, mask.new_ones(latents.shape[:2])], dim=1)  # [B, N + num_latents]
        for layer in self.layers:
            latents = layer(latents, media, seen)
        return self.norm(latents)


@register("connector")
class ResamplerConnector(Connector):
    """Perceiver resampler at the encoder's width, then a linear layer (Flamingo).

    Args:
        in_dim: width of the encoder's tokens.
        out_dim: width of the language model.
        num_latents: number of output tokens per item.
        depth: layers of the resampler.
        num_heads: attention heads; None takes one per 64 channels, as in Flamingo.
        mlp_ratio: hidden width of the feed-forward blocks, as a multiple of ``in_dim``.
    """

    merge = None

    def __init__(
        self, *, in_dim: int, out_dim: int, num_latents: int = 64, depth: int = 2, num_heads: int | None = None, mlp_ratio: float = 4.0
    ) -> None:
        super().__init__()
        heads = default_heads(in_dim) if num_heads is None else num_heads
        self.resampler = PerceiverResampler(dim=in_dim, num_latents=num_latents, depth=depth, num_heads=heads, mlp_ratio=mlp_ratio)
        self.linear = Linear(in_dim, out_dim)

    def num_tokens(self, n: int) -> int:
        return len(self.resampler.latents)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Float[Tensor, "batch num_latents out_dim"], Bool[Tensor, "batch num_latents"]]:
        x = self.linear(self.resampler(tokens, mask))
        return x, all_real(x.shape[:2], x.device)
