"""Whisper's audio encoder.

Paper: Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision" (arXiv 2212.04356), section 2.2.
References: openai-whisper ``model.py``, class ``AudioEncoder``; transformers ``modeling_whisper.py``, class ``WhisperEncoder``.

Where we differ: queries, keys and values are one matrix. Besides the reference's way (strict: the clip and silence up to 30 s, no
mask) there is a short one: with a mask only the clip's own frames are there, so that it costs what the clip lasts. The convolutions
then see zeros behind the clip, as they do behind the 30 s, and no token sees one behind the clip; whatever a batch is padded to, and
with what, the outputs are those of the clip alone. They are not those of the strict way, whose tokens also attend to the silence.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError, name_choices
from zoo.layers.attention import KeysWithoutBias
from zoo.layers.mlp import hidden_width
from zoo.layers.packing import Packing, can_pack
from zoo.layers.pool import masked_mean
from zoo.layers.transformer import Block
from zoo.registry import register
from zoo.types import Encoded

POOLS = ("mean", "none")
STRIDE = 2  # frames for each token


@register("encoder")
class WhisperEncoder(nn.Module):
    """Log-mels to a token for each two frames (20 ms), normalised, and the mean of the tokens.

    Args:
        num_mels: 80, or 128 since large-v3.
        context_length: the most tokens of one clip; 1500 are 30 s.
        pool: "mean" over the clip's tokens, or "none".

    Raises:
        ConfigError: an unknown pool, or an odd ``dim``.
        DataError: (forward) a clip of more frames than the context has.
    """

    modality = "audio"

    def __init__(
        self,
        *,
        num_mels: int = 80,
        context_length: int = 1500,
        dim: int = 384,
        depth: int = 4,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        eps: float = 1e-5,
        pool: str = "mean",
    ) -> None:
        super().__init__()
        if pool not in POOLS:
            raise ConfigError(f"pool: there is no {pool!r}; {name_choices(pool, POOLS)}")
        if dim % 2 or dim < 4:
            raise ConfigError(f"dim: got {dim}; half of it are sines and half cosines, so that it must be even, and 4 or more")
        self.num_mels, self.context_length, self.dim, self.pool = num_mels, context_length, dim, pool
        self.gives_pooled = pool != "none"
        self.conv1 = nn.Conv1d(num_mels, dim, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(dim, dim, kernel_size=3, stride=STRIDE, padding=1)
        self.register_buffer("positions", sinusoids(context_length, dim))
        self.blocks = nn.ModuleList(
            Block(dim=dim, num_heads=num_heads, hidden_dim=hidden_width(dim, mlp_ratio), eps=eps) for _ in range(depth)
        )
        for block in self.blocks:
            block.attention.qkv = KeysWithoutBias(dim)  # type: ignore[union-attr]
        self.norm = nn.LayerNorm(dim, eps=eps)
        self._initialise()

    def forward(self, mels: Float[Tensor, "batch num_mels frames"], mask: Bool[Tensor, "batch frames"] | None = None) -> Encoded:
        """``mask`` is True at the frames of each clip, of which the first is first: ``1 .. 1 0 .. 0``; None takes every frame as it is."""
        if mels.shape[1] != self.num_mels or not 1 <= mels.shape[2] <= STRIDE * self.context_length:
            raise DataError(
                f"mels are {list(mels.shape)}; this encoder takes [batch, {self.num_mels}, 1 to {STRIDE * self.context_length} frames]: "
                "make them with its own processor, and cut longer clips"
            )
        x = self._convolved(mels, mask).contiguous()  # [B, N, dim]; else every sum takes over the order of the channels, which norms copy
        x = x + self.positions[: x.shape[1]]  # type: ignore[index]
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask[:, ::STRIDE]
        packing = Packing(real) if mask is not None and can_pack(real.int()) else None
        x = x if packing is None else packing.pack(x)  # [total, dim]
        for block in self.blocks:
            x = block(x, real if mask is not None and packing is None else None, layout=packing)
        x = self.norm(x)
        tokens = x if packing is None else packing.unpack(x)
        return Encoded(tokens, masked_mean(tokens, real) if self.gives_pooled else None, real)

    def num_tokens(self, frames: int) -> int:
        """Tokens of a clip of so many frames."""
        return -(-frames // STRIDE)

    def _convolved(self, mels: Tensor, mask: Tensor | None) -> Float[Tensor, "batch num_tokens dim"]:
        """Two convolutions; frames behind a clip are zeros to both."""
        if mask is None:
            return F.gelu(self.conv2(F.gelu(self.conv1(mels)))).transpose(1, 2)
        behind = ~mask[:, None]  # [B, 1, frames]
        x = F.gelu(self.conv1(mels.masked_fill(behind, 0))).masked_fill(behind, 0)
        return F.gelu(self.conv2(x)).transpose(1, 2)

    def _initialise(self) -> None:
        """Gaussian of variance 1 / fan-in, as the paper says; zero biases. No initialising code is published."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv1d):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def sinusoids(length: int, dim: int) -> Float[Tensor, "length dim"]:
    """Sines, then cosines, of positions over timescales from 1 to 10000.

    Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.5, with the two halves one after the other (openai-whisper ``model.py``).
    """
    half = dim // 2
    rates = torch.exp(-math.log(10000) / (half - 1) * torch.arange(half))
    angles = torch.arange(length)[:, None] * rates  # [length, dim / 2]
    return torch.cat([angles.sin(), angles.cos()], dim=1)
