"""Pooling of tokens to one vector per item."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.layers.attention import CrossAttention
from zoo.layers.mlp import feed_forward


def masked_mean(tokens: Float[Tensor, "batch num_tokens dim"], mask: Bool[Tensor, "batch num_tokens"]) -> Float[Tensor, "batch dim"]:
    """Return the mean over the tokens where the mask is True; a row without any gives zeros."""
    weight = mask.to(tokens.dtype).unsqueeze(-1)  # [B, N, 1]
    return (tokens * weight).sum(1) / weight.sum(1).clamp(min=1)


def masked_max(tokens: Float[Tensor, "batch num_tokens dim"], mask: Bool[Tensor, "batch num_tokens"]) -> Float[Tensor, "batch dim"]:
    """Return the maximum of each channel over the tokens where the mask is True; a row without any gives zeros."""
    lowest = torch.finfo(tokens.dtype).min
    return tokens.masked_fill(~mask[..., None], lowest).amax(1).masked_fill(~mask.any(1, keepdim=True), 0)


def masked_weighted_mean(
    tokens: Float[Tensor, "batch num_tokens dim"], mask: Bool[Tensor, "batch num_tokens"]
) -> Float[Tensor, "batch dim"]:
    """Return the mean over the tokens where the mask is True, in which the first has weight 1, the second 2, and so on.

    Source: Muennighoff 2022 (SGPT, arXiv 2202.08904), section 3.1. A row without any token gives zeros.
    """
    weight = (mask.cumsum(1) * mask).to(tokens.dtype).unsqueeze(-1)  # [B, N, 1]
    return (tokens * weight).sum(1) / weight.sum(1).clamp(min=1)


def masked_root_mean(tokens: Float[Tensor, "batch num_tokens dim"], mask: Bool[Tensor, "batch num_tokens"]) -> Float[Tensor, "batch dim"]:
    """Return the sum over the tokens where the mask is True, divided by the root of their number; a row without any gives zeros."""
    weight = mask.to(tokens.dtype).unsqueeze(-1)  # [B, N, 1]
    return (tokens * weight).sum(1) / weight.sum(1).clamp(min=1).sqrt()


def masked_last(tokens: Float[Tensor, "batch num_tokens dim"], mask: Bool[Tensor, "batch num_tokens"]) -> Float[Tensor, "batch dim"]:
    """Return the last token where the mask is True; a row without any gives zeros."""
    places = torch.arange(mask.shape[1], device=mask.device)
    return take_tokens(tokens, (places * mask).amax(1)) * mask.any(1, keepdim=True)


def take_tokens(tokens: Float[Tensor, "batch num_tokens dim"], index: Int[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:
    """Return the token at one index per row."""
    return tokens.gather(1, index[:, None, None].expand(-1, 1, tokens.shape[-1])).squeeze(1)


class AttentionPool(nn.Module):
    """Attention pooling: one learned query attends to all tokens, followed by a residual MLP.

    Source: the "MAP" head of Zhai et al. 2022 (arXiv 2106.04560), as SigLIP uses it.
    """

    def __init__(self, *, dim: int, num_heads: int, hidden_dim: int, activation: str = "gelu", eps: float = 1e-6) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.empty(1, 1, dim))
        self.attention = CrossAttention(dim=dim, num_heads=num_heads)
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.mlp = feed_forward(dim=dim, hidden_dim=hidden_dim, activation=activation)

    def forward(
        self, tokens: Float[Tensor, "batch num_tokens dim"], mask: Bool[Tensor, "batch num_tokens"] | None = None
    ) -> Float[Tensor, "batch dim"]:
        x = self.attention(self.probe.expand(tokens.shape[0], -1, -1), tokens, mask)  # [B, 1, dim]
        return (x + self.mlp(self.norm(x))).squeeze(1)  # [B, dim]
