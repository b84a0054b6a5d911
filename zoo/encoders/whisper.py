"""Audio encoder of Whisper.

Paper: Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision" (arXiv 2212.04356), section 2.2.
References: openai-whisper ``model.py``, class ``AudioEncoder``; transformers ``modeling_whisper.py``, class ``WhisperEncoder``.

Where we differ: one matrix projects to queries, keys and values. There are two modes:

* Strict (no mask), as in the reference: the input is the clip and silence up to 30 s.
* Short (with a mask): only the clip's own frames are encoded, so the cost is proportional to the clip's length. The convolutions read
  zeros after the clip, as they do after the 30 s, and no token attends to positions after the clip. The output therefore does not depend
  on the length or the values of the padding. It differs from the strict output, whose tokens also attend to the silence.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError, name_choices
from zoo.layers.attention import KeysWithoutBias
from zoo.layers.intermediates import refuse_map
from zoo.layers.mlp import hidden_width
from zoo.layers.packing import Packing, can_pack
from zoo.layers.pool import masked_mean
from zoo.layers.select import find_layers
from zoo.layers.transformer import Block
from zoo.registry import register
from zoo.types import Encoded, Encoder, all_real, follow

POOLS = ("mean", "none")
STRIDE = 2  # frames per token, from the stride of the second convolution


@register("encoder")
class WhisperEncoder(Encoder):
    """Audio encoder of log-mels: one normalised token per two frames (20 ms), and the mean of the tokens.

    Args:
        num_mels: number of mel bands; 80, or 128 since large-v3.
        context_length: maximum number of tokens of one clip; 1500 are 30 s.
        pool: "mean" over the clip's tokens, or "none" for no pooled vector.

    Raises:
        ConfigError: ``pool`` is unknown, or ``dim`` is odd or below 4.
        DataError: (forward) the number of mel bands is wrong, or a clip has more than ``2 * context_length`` frames.
    """

    modality = "audio"
    silent_keywords = ("num_heads", "eps", "pool")
    context_length: int

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
            raise ConfigError(f"dim: got {dim}; allowed are even numbers from 4 on: half of the position channels are sines, half cosines")
        self.num_mels, self.context_length, self.dim, self.pool = num_mels, context_length, dim, pool
        self.gives_pooled = pool != "none"
        self.conv1 = nn.Conv1d(num_mels, dim, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(dim, dim, kernel_size=3, stride=STRIDE, padding=1)
        # A buffer, not a parameter: the positions are fixed, but published checkpoints contain them.
        self.register_buffer("positions", sinusoids(context_length, dim))
        self.blocks = nn.ModuleList(
            Block(dim=dim, num_heads=num_heads, hidden_dim=hidden_width(dim, mlp_ratio), eps=eps) for _ in range(depth)
        )
        for block in self.blocks:
            block.attention.qkv = KeysWithoutBias(dim)  # type: ignore[union-attr]  # Whisper's key projection has no bias
        self.norm = nn.LayerNorm(dim, eps=eps)
        self._initialise()

    def forward(
        self, mels: Float[Tensor, "batch num_mels frames"], mask: Bool[Tensor, "batch frames"] | None = None, *, reads: str = "tokens"
    ) -> Encoded:
        """Encode log-mels to tokens [batch, frames / 2 rounded up, dim].

        Args:
            mask: True at the frames of each clip, which must be at the left of each row (``1 .. 1 0 .. 0``); None reads every frame
                (the strict mode).
        """
        x, real = self._enter(mels, mask)
        # Packing removes the padding, so blocks need no mask; it needs known lengths and is skipped in traced or compiled code.
        packing = Packing(real) if mask is not None and can_pack(real.int()) else None
        x = x if packing is None else packing.pack(x)  # [total, dim]
        for block in self.blocks:
            x = block(x, real if mask is not None and packing is None else None, layout=packing)
        x = self.norm(x)
        tokens = x if packing is None else packing.unpack(x)
        return Encoded(tokens, masked_mean(tokens, real) if self.gives_pooled else None, real)

    def intermediates(
        self,
        x: Float[Tensor, "batch num_mels frames"],
        layers: Sequence[int] | None = None,
        *,
        mask: Bool[Tensor, "batch frames"] | None = None,
        normalise: bool = False,
        output: str = "tokens",
    ) -> list[Tensor]:
        """Return the outputs of the chosen blocks, with those at padding. See ``Encoder``."""
        refuse_map(output, "audio")
        wanted, found = find_layers(layers, len(self.blocks)), {}
        x, real = self._enter(x, mask)
        for i in range(max(wanted, default=-1) + 1):
            x = self.blocks[i](x, None if mask is None else real)
            found[i] = self.norm(x) if normalise and i in wanted else x
        return [found[i] for i in wanted]

    def _enter(self, mels: Tensor, mask: Tensor | None) -> tuple[Float[Tensor, "batch num_tokens dim"], Bool[Tensor, "batch num_tokens"]]:
        """Return the input of the first block, and True at real tokens."""
        if mels.shape[1] != self.num_mels or not 1 <= mels.shape[2] <= STRIDE * self.context_length:
            raise DataError(
                f"mels are {list(mels.shape)}; this encoder takes [batch, {self.num_mels}, 1 to {STRIDE * self.context_length} frames]: "
                "make them with this model's own processor, and cut longer clips"
            )
        # contiguous: otherwise the residual sums keep the transposed memory layout, and every norm has to copy its input.
        x = self._convolved(mels, mask).contiguous()  # [B, N, dim]
        x = x + self.positions[: x.shape[1]]  # type: ignore[index]
        # mask[:, ::STRIDE]: a token is real if the first of its two frames is.
        return x, all_real(x.shape[:2], x.device) if mask is None else follow(lambda mask: mask[:, ::STRIDE], mask)

    def num_tokens(self, frames: int) -> int:
        """Return the number of tokens of a clip of ``frames`` frames."""
        return -(-frames // STRIDE)  # rounds up

    def _convolved(self, mels: Tensor, mask: Tensor | None) -> Float[Tensor, "batch num_tokens dim"]:
        """Apply the two convolutions; both read zeros at frames after a clip."""
        if mask is None:
            return F.gelu(self.conv2(F.gelu(self.conv1(mels)))).transpose(1, 2)
        padding = ~mask[:, None]  # [B, 1, frames]
        # The second masking is needed because conv1 writes bias and kernel overlap into the frames after the clip.
        x = F.gelu(self.conv1(mels.masked_fill(padding, 0))).masked_fill(padding, 0)
        return F.gelu(self.conv2(x)).transpose(1, 2)

    def _initialise(self) -> None:
        """Initialise weights with a Gaussian of variance 1 / fan-in, as in the paper, and biases with zeros; no code is published."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv1d):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def sinusoids(length: int, dim: int) -> Float[Tensor, "length dim"]:
    """Return sinusoidal position embeddings with timescales from 1 to 10000: first all sines, then all cosines.

    Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.5, with the two halves one after the other (openai-whisper ``model.py``).
    """
    half = dim // 2
    rates = torch.exp(-math.log(10000) / (half - 1) * torch.arange(half))
    angles = torch.arange(length)[:, None] * rates  # [length, dim / 2]
    return torch.cat([angles.sin(), angles.cos()], dim=1)
