"""A small Swin Transformer without merging of patches.

Paper: Liu et al. 2021 (arXiv 2103.14030), section 3.2: attention within windows, shifted by half a window in every second block. No mask
keeps apart what the shift brings together, as the cyclic shift of a torus.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from zoo.types import Encoded, Encoder


class Block(nn.Module):
    """Attention within windows and a feed-forward layer, both pre-norm and residual."""

    def __init__(self, *, dim: int, num_heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        w, batch, side = self.window, *x.shape[:2]
        grid = self.norm1(x).roll((-self.shift, -self.shift), (1, 2))
        windows = grid.unflatten(2, (side // w, w)).unflatten(1, (side // w, w)).transpose(2, 3)  # [B, rows, columns, w, w, dim]
        tokens = windows.flatten(3, 4).flatten(0, 2)  # [B * windows, w * w, dim]
        tokens = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        windows = tokens.unflatten(1, (w, w)).unflatten(0, (batch, side // w, side // w)).transpose(2, 3)
        x = x + windows.flatten(3, 4).flatten(1, 2).roll((self.shift, self.shift), (1, 2))
        return x + self.mlp(self.norm2(x))


class Swin(Encoder):
    """Image encoder with attention within shifted windows; the pooled vector is the mean of its tokens."""

    modality = "image"
    silent_keywords = ("num_heads", "window")

    def __init__(
        self,
        *,
        image_size: int = 32,
        patch_size: int = 4,
        dim: int = 32,
        depth: int = 2,
        num_heads: int = 2,
        window: int = 4,
        preprocessing: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.image_size, self.dim, self.preprocessing = image_size, dim, dict(preprocessing or {})
        self.patch = nn.Conv2d(3, dim, patch_size, stride=patch_size)
        self.blocks = nn.ModuleList(Block(dim=dim, num_heads=num_heads, window=window, shift=window // 2 * (i % 2)) for i in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, reads: str = "tokens") -> Encoded:
        grid = self.patch(x).permute(0, 2, 3, 1)  # [B, rows, columns, dim]
        for block in self.blocks:
            grid = block(grid)
        tokens = self.norm(grid.flatten(1, 2))
        return Encoded(tokens, tokens.mean(1), tokens.new_ones(tokens.shape[:2]).bool())
