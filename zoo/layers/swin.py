"""Swin transformer on a map of tokens: attention in shifted windows with relative position biases, and merging of 2 x 2 tokens.

Paper: Liu et al. 2021 (Swin, arXiv 2103.14030), sections 3.1 and 3.2. References: transformers 5.17 ``modeling_clap.py`` (HTSAT's copy) and
``modeling_swin.py``.

Where we differ:

* One matrix projects to queries, keys and values.
* Scores across the seam of a shifted map are excluded; the references subtract 100 from them.
* Maps must be divisible into windows, so that no window has padding.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.layers.attention import attend_heads, refuse_uneven_heads
from zoo.layers.linear import Linear
from zoo.layers.mlp import MLP, hidden_width


def refuse_uneven_windows(side: int, window: int, stages: int) -> None:
    """Raise ConfigError unless the map of each stage, whose side halves from stage to stage, is divisible into windows.

    A side of 64 and a window of 8 allow four stages: 64, 32, 16, 8.
    """
    for stage in range(stages):
        here, rest = divmod(side, 2**stage)
        if rest or here < window or here % window:
            raise ConfigError(
                f"window: {window} does not divide the map of stage {stage + 1} of {stages}, whose side is {side} / {2**stage}; choose a "
                "window that divides the side of every stage, or fewer stages"
            )


class SwinStage(nn.Module):
    """Blocks of one width; every second one shifts its windows by half.

    Args:
        side: rows and columns of the map.
        window: rows and columns of a window; a map of one window is never shifted.
    """

    def __init__(self, *, dim: int, depth: int, num_heads: int, side: int, window: int, mlp_ratio: float, eps: float) -> None:
        super().__init__()
        shifts = [window // 2 if number % 2 and side > window else 0 for number in range(depth)]
        self.blocks = nn.ModuleList(
            SwinBlock(dim=dim, num_heads=num_heads, side=side, window=window, shift=shift, mlp_ratio=mlp_ratio, eps=eps) for shift in shifts
        )

    def forward(self, x: Float[Tensor, "batch side side dim"]) -> Float[Tensor, "batch side side dim"]:
        """Run the blocks."""
        for block in self.blocks:
            x = block(x)
        return x


class SwinBlock(nn.Module):
    """Pre-norm block: attention within windows of a map that is rolled by ``shift`` rows and columns, then a feed-forward block."""

    def __init__(self, *, dim: int, num_heads: int, side: int, window: int, shift: int, mlp_ratio: float, eps: float) -> None:
        super().__init__()
        self.side, self.window, self.shift = side, window, shift
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attention = WindowAttention(dim=dim, num_heads=num_heads, window=window)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = MLP(dim=dim, hidden_dim=hidden_width(dim, mlp_ratio))

    def forward(self, x: Float[Tensor, "batch side side dim"]) -> Float[Tensor, "batch side side dim"]:
        """Run the block."""
        inner = self.norm1(x)
        if self.shift:
            # Masks and offsets are computed anew: buffers that are not saved would be empty in a model that is loaded onto meta tensors.
            allowed = seam_mask(self.side, self.window, self.shift, x.device)
            inner = self.attention(inner.roll((-self.shift, -self.shift), (1, 2)), allowed).roll((self.shift, self.shift), (1, 2))
        else:
            inner = self.attention(inner)
        x = x + inner
        return x + self.mlp(self.norm2(x))


class WindowAttention(nn.Module):
    """Multi-head attention within square windows, with a learned bias per head and offset of two tokens.

    Args:
        window: rows and columns of a window; ``bias`` has (2 window - 1)^2 rows, one for each offset.

    Raises:
        ConfigError: ``num_heads`` does not divide ``dim``.
    """

    def __init__(self, *, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        refuse_uneven_heads(dim, num_heads)
        self.num_heads, self.window = num_heads, window
        self.qkv = Linear(dim, 3 * dim)
        self.out = Linear(dim, dim)
        self.bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))

    def forward(
        self, x: Float[Tensor, "batch rows columns dim"], allowed: Bool[Tensor, "windows queries keys"] | None = None
    ) -> Float[Tensor, "batch rows columns dim"]:
        """Attend; ``allowed`` says for each window of the map which tokens may see each other, None allows all."""
        down, across = x.shape[1] // self.window, x.shape[2] // self.window
        x = x.unflatten(2, (across, -1)).unflatten(1, (down, -1)).transpose(2, 3)  # [B, down, across, window, window, dim]
        x = x.flatten(3, 4).flatten(1, 2)  # [B, windows, tokens, dim]
        # Windows count as heads, so that each may have a mask of its own, without a copy of the biases for every item.
        q, k, v = (
            part.unflatten(3, (self.num_heads, -1)).transpose(2, 3).flatten(1, 2) for part in self.qkv(x).chunk(3, dim=-1)
        )  # [B, windows * heads, tokens, head_dim]
        made = attend_heads(q, k, v, bias=self._biases(x.shape[1], allowed))  # [B, tokens, windows * dim]
        made = self.out(made.unflatten(2, (down, across, -1)))  # [B, tokens, down, across, dim]
        made = made.unflatten(1, (self.window, self.window)).permute(0, 3, 1, 4, 2, 5)  # [B, down, window, across, window, dim]
        return made.flatten(3, 4).flatten(1, 2)

    def _biases(self, windows: int, allowed: Tensor | None) -> Float[Tensor, "1 windows_heads tokens tokens"]:
        own = self.bias[window_offsets(self.window, self.bias.device)].permute(2, 0, 1)[None]  # [1, heads, tokens, tokens]
        own = own.expand(windows, -1, -1, -1)
        if allowed is not None:
            own = own.masked_fill(~allowed[:, None], float("-inf"))
        return own.flatten(0, 1)[None]


class PatchMerging(nn.Module):
    """Join 2 x 2 tokens, normalise, and project to twice the width; the order of the four is (row, column) 00 10 01 11."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.project = Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Float[Tensor, "batch rows columns dim"]) -> Float[Tensor, "batch half_rows half_columns wide"]:
        """Halve rows and columns, which must be even."""
        four = [x[:, row::2, column::2] for column in range(2) for row in range(2)]
        return self.project(self.norm(torch.cat(four, dim=-1)))


def window_offsets(window: int, device: torch.device | None = None) -> Int[Tensor, "tokens tokens"]:
    """Return the row of the bias table for each query and key of a window.

    In a window of 2 the offsets (rows, columns) run from (-1, -1), row 0, to (1, 1), row 8; of a token to itself it is row 4.
    """
    places = torch.arange(window, device=device).expand(window, window)
    rows, columns = places.T.flatten(), places.flatten()
    down, across = (axis[:, None] - axis[None, :] + window - 1 for axis in (rows, columns))
    return down * (2 * window - 1) + across


def seam_mask(side: int, window: int, shift: int, device: torch.device | None = None) -> Bool[Tensor, "windows tokens tokens"]:
    """Return for each window of a rolled map which tokens may see each other: those that were neighbours before it was rolled.

    A side of 4 with windows of 2 and a shift of 1 has the regions ``0 0 1 2`` on each axis: the last row has come from the other end.
    """
    places = torch.arange(side, device=device)
    region = (places >= side - window).long() + (places >= side - shift).long()
    regions = region[:, None] * 3 + region  # [side, side]
    count = side // window
    regions = regions.view(count, window, count, window).transpose(1, 2).reshape(count * count, window * window)
    return regions[:, :, None] == regions[:, None, :]
