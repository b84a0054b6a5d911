"""Position embeddings, and resizing of their tables."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, name_choices

RESAMPLINGS = ("bicubic", "bilinear", "lookup")


def resize_positions(
    table: Float[Tensor, "1 num_tokens dim"],
    grid: tuple[int, int],
    new_grid: tuple[int, int],
    *,
    mode: str = "bicubic",
    antialias: bool = True,
    align_corners: bool = False,
) -> Float[Tensor, "1 new_num_tokens dim"]:
    """Resize a table of patch positions (without prefix tokens) to another grid.

    The references differ, with different results: timm and open_clip are bicubic with antialiasing; of transformers' models (5.17),
    DINOv2 with registers is too, CLIP, SigLIP, ViT and DINOv2 without registers are bicubic without. SigLIP 2 NaFlex is bilinear with
    antialiasing, Qwen3-VL bilinear with aligned corners, Idefics3 looks positions up. All resize to a given size, none by a scale factor.

    Args:
        table: position embeddings of the grid, in row-major order.
        grid: rows and columns of the table.
        new_grid: rows and columns of the result.
        mode: "bicubic", "bilinear", or "lookup": row k of n takes row ``floor(k * rows / n)`` of the table, columns alike.
        antialias: True low-passes the table when the grid shrinks; without effect on "lookup".
        align_corners: True keeps the outermost positions in place; needs ``antialias=False``.
    """
    if grid == new_grid:
        return table
    if mode == "lookup":
        rows, columns = (torch.arange(new, device=table.device) * old // new for old, new in zip(grid, new_grid, strict=True))
        return table[:, (rows[:, None] * grid[1] + columns).flatten()]
    image = table.float().unflatten(1, grid).permute(0, 3, 1, 2)  # [1, dim, rows, columns]
    image = F.interpolate(image, size=new_grid, mode=mode, align_corners=align_corners, antialias=antialias)
    return image.flatten(2).transpose(1, 2).to(table.dtype)  # [1, new_num_tokens, dim]


def sinusoids(positions: Int[Tensor, "*tokens"], dim: int, *, theta: float = 10_000.0) -> Float[Tensor, "*tokens dim"]:
    """Return sinusoidal position embeddings in float32, with wavelengths from 2 pi to 2 pi theta positions.

    The first half of the channels are sines, the second half cosines (the order of tensor2tensor and fairseq); if ``dim`` is odd, the last
    channel is zero. Source: Vaswani et al. 2017, section 3.5.
    """
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=positions.device) * -(math.log(theta) / max(half - 1, 1))
    angles = positions[..., None].float() * steps.exp()
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=-1), (0, dim - 2 * half))


def sinusoids_2017(positions: Int[Tensor, "*tokens"], dim: int, *, interleaved: bool) -> Float[Tensor, "*tokens dim"]:
    """Return the sinusoidal position embeddings of the paper in float32: wavelength 2 pi 10000^(2i / dim) for pair i.

    ``sinusoids`` spreads the wavelengths a little wider. Angles are computed in float64, because in float32 that of position 500 is off by
    5e-5. Source: Vaswani et al. 2017, section 3.5.

    Args:
        positions: from 0.
        dim: number of channels, even.
        interleaved: True gives sine, cosine, sine, cosine, ... (the paper); False first all sines, then all cosines (Marian, Pegasus).
    """
    rates = 10_000.0 ** -(torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device) / dim)
    angles = positions[..., None].double() * rates  # [*tokens, dim / 2]
    pair = (angles.sin(), angles.cos())
    return (torch.stack(pair, dim=-1).flatten(-2) if interleaved else torch.cat(pair, dim=-1)).float()


POSITIONS = ("learned", "interleaved", "halves", "tensor2tensor", "none")


class PositionEmbedding(nn.Module):
    """Absolute positions of tokens, added to their word embeddings.

    Args:
        kind: "learned" is a table; "interleaved" (the paper of 2017), "halves" (Marian) and "tensor2tensor" (also fairseq) are fixed
            sinusoids; "none" adds nothing.
        context_length: maximum number of tokens.
        dim: width of the tokens; even for sinusoids.
        offset: row of the table that the first token uses; the rows before it stay unused (BART: 2).

    Raises:
        ConfigError: the kind is unknown, or the sizes do not fit it.
    """

    def __init__(self, *, kind: str, context_length: int, dim: int, offset: int = 0) -> None:
        super().__init__()
        if kind not in POSITIONS:
            raise ConfigError(f"positions: there is no {kind!r}; {name_choices(kind, POSITIONS)}")
        if kind not in ("learned", "none") and dim % 2:
            raise ConfigError(f"positions: {kind!r} needs an even dim, got {dim}")
        if offset < 0 or (offset and kind != "learned"):
            raise ConfigError(f"position_offset: {offset}; allowed is 0, and with positions=learned also more (BART: 2)")
        self.kind, self.context_length, self.dim, self.offset = kind, context_length, dim, offset
        self.table = nn.Parameter(torch.empty(context_length + offset, dim)) if kind == "learned" else None

    def forward(self, x: Float[Tensor, "batch length dim"], places: Int[Tensor, "rows length"]) -> Float[Tensor, "batch length dim"]:
        """Add the embeddings of positions, counted from 0, to the tokens; ``places`` has one row for each row of tokens, or one for all."""
        if self.kind == "none":
            return x
        if self.table is not None:
            return x + F.embedding(places + self.offset, self.table)
        fixed = sinusoids(places, self.dim) if self.kind == "tensor2tensor" else self._of_2017(places)
        return x + fixed.to(x.dtype)

    def _of_2017(self, places: Int[Tensor, "rows length"]) -> Float[Tensor, "rows length dim"]:
        return sinusoids_2017(places, self.dim, interleaved=self.kind == "interleaved")


def counted_positions(mask: Tensor | None, length: int, device: torch.device) -> Int[Tensor, "rows length"]:
    """Return the position of each token, counted over real tokens; padding on either side changes no position of a real token."""
    if mask is None:
        return torch.arange(length, device=device)[None]
    return (mask.cumsum(1) - 1).clamp(min=0)
