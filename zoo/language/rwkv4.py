"""RWKV-4: a recurrent language model whose attention is a weighted mean with weights that decay by channel.

Paper: Peng et al. 2023 (arXiv 2305.13048), section 3. Reference: transformers 5.17, ``modeling_rwkv.py``.

Where we differ: padding may lie on either side and leaves the state as it is; the norm after the word table belongs to ``embed``, so that
vectors of other modalities enter behind it; weights are not halved by the layer, which the reference does for float16 only. The initial
``first`` has the zigzag of the paper, which the reference loses.
"""

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zoo.layers.linear import Linear
from zoo.layers.recurrent_only import Real, RecurrentOnly
from zoo.layers.recurrent_state import RecurrentState, previous_real
from zoo.registry import register

UNREAD = -1e38  # maximum of the exponents before the first token, as in the reference
SUMS = 3  # rows of a state: numerator, denominator, maximum of the exponents


def decaying_mean(
    state: Float[Tensor, "batch 3 dim"],
    k: Float[Tensor, "batch length dim"],
    v: Float[Tensor, "batch length dim"],
    decay: Float[Tensor, " dim"],
    first: Float[Tensor, " dim"],
    real: Real,
) -> tuple[Float[Tensor, "batch length dim"], Float[Tensor, "batch 3 dim"]]:
    """Return the mean of the values up to each token, weighted by exp(k) and by the distance, and the state after the last token.

    The weight of token j for token t is ``exp(k_j - (t - 1 - j) * decay)``, that of token t itself ``exp(k_t + first)`` (equation 16 of the
    paper). Exponents are kept relative to their maximum, so that none overflows.

    Args:
        state: numerator, denominator and maximum before the first token; zeros if there were no tokens.
        k: keys.
        v: values.
        decay: rate of the decay, above 0.
        first: bonus of the token itself.
        real: False at padding, which changes no state; None if there is none.
    """
    if k.is_meta:  # shapes only: a loop over thousands of tokens would take seconds
        return k + v + decay + first, state
    top, bottom, most = state.unbind(1)
    most = torch.where(bottom > 0, most, UNREAD)  # the denominator is at least 1 as soon as a token was read
    outputs = []
    for t in range(k.shape[1]):
        key, value = k[:, t], v[:, t]
        here = torch.maximum(most, key + first)
        old, new = torch.exp(most - here), torch.exp(key + first - here)
        outputs.append((old * top + new * value) / (old * bottom + new))
        after = torch.maximum(most - decay, key)
        old, new = torch.exp(most - decay - after), torch.exp(key - after)
        following = (old * top + new * value, old * bottom + new, after)
        if real is not None:
            kept = real[:, t, None]
            following = tuple(torch.where(kept, changed, before) for changed, before in zip(following, (top, bottom, most), strict=True))
        top, bottom, most = following
    return torch.stack(outputs, dim=1) if outputs else v, torch.stack([top, bottom, most], dim=1)


class TimeMix(nn.Module):
    """Mixing of tokens by a decaying mean of values for each channel."""

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.decay, self.first = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        self.key_share, self.value_share, self.receptance_share = (nn.Parameter(torch.ones(dim)) for _ in range(3))
        self.key, self.value, self.receptance, self.out = (Linear(dim, dim, bias=False) for _ in range(4))

    def forward(
        self, x: Float[Tensor, "batch length dim"], before: Tensor, state: Float[Tensor, "batch 3 dim"], real: Real
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output, the last token, and the state after it."""
        previous, last = previous_real(x, before, real)
        k = self.key(torch.lerp(previous, x, self.key_share))
        v = self.value(torch.lerp(previous, x, self.value_share))
        r = torch.sigmoid(self.receptance(torch.lerp(previous, x, self.receptance_share)))
        # Errors of half precision would grow with each token. The meta device has no autocast.
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            mean, state = decaying_mean(state, k.float(), v.float(), self.decay.float().exp(), self.first.float(), real)
        return self.out(r * mean.to(x.dtype)), last, state


class ChannelMix(nn.Module):
    """Feed-forward part with a squared ReLU and a gate, on a mixture of each token and the one before it."""

    def __init__(self, *, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.key_share, self.receptance_share = (nn.Parameter(torch.ones(dim)) for _ in range(2))
        self.key, self.value = Linear(dim, hidden_dim, bias=False), Linear(hidden_dim, dim, bias=False)
        self.receptance = Linear(dim, dim, bias=False)

    def forward(self, x: Float[Tensor, "batch length dim"], before: Tensor, real: Real) -> tuple[Tensor, Tensor]:
        """Return the output and the last token."""
        previous, last = previous_real(x, before, real)
        hidden = F.relu(self.key(torch.lerp(previous, x, self.key_share))).square()
        return torch.sigmoid(self.receptance(torch.lerp(previous, x, self.receptance_share))) * self.value(hidden), last


class Block(nn.Module):
    """Pre-norm block: x + time mix(norm(x)), then x + channel mix(norm(x))."""

    def __init__(self, *, dim: int, hidden_dim: int, eps: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=eps), nn.LayerNorm(dim, eps=eps)
        self.time = TimeMix(dim=dim)
        self.channel = ChannelMix(dim=dim, hidden_dim=hidden_dim)


@register("language")
class Rwkv4(RecurrentOnly):
    """Recurrent causal language model: maps token ids or embedding vectors to hidden states; ``logits`` scores the next token.

    ``new_cache`` returns a state, which takes the same memory for a text of any length.

    Args:
        context_length: maximum number of tokens of a text; the weights do not depend on it.
        hidden_dim: width of the feed-forward layers; None means 4 * ``dim``.
        eps: added to the variance in the layer norms.

    Raises:
        DataError: (forward) a text is longer than ``context_length``.
    """

    silent_keywords = ("eps",)
    no_weight_decay = ()

    def __init__(
        self,
        *,
        vocab_size: int = 50_277,
        context_length: int = 1024,
        dim: int = 768,
        depth: int = 12,
        hidden_dim: int | None = None,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.dim, self.vocab_size, self.context_length, self.head_dim = dim, vocab_size, context_length, dim
        self.embedding = nn.Embedding(vocab_size, dim)
        self.embedding_norm = nn.LayerNorm(dim, eps=eps)
        self.blocks = nn.ModuleList(Block(dim=dim, hidden_dim=hidden_dim or 4 * dim, eps=eps) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.lm_head = Linear(dim, vocab_size, bias=False)
        self._initialise()

    def mix_time(
        self, block: Any, x: Float[Tensor, "batch length dim"], before: Tensor, matrices: Tensor, carried: Tensor | None, mask: Real
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """See ``RecurrentOnly``; nothing is carried from block to block."""
        mixed, time, sums = block.time(x, before, matrices, mask)
        return mixed, time, sums, None

    def new_cache(self, batch_size: int, length: int) -> RecurrentState:
        """Return the state before any token.

        Args:
            length: not used: the state does not grow.
        """
        weight = self.embedding.weight
        sizes: dict[str, Any] = {"depth": len(self.blocks), "num_heads": 1, "head_dim": self.dim, "memory": (SUMS, self.dim)}
        return RecurrentState(**sizes, batch_size=batch_size, dtype=weight.dtype, device=weight.device)

    def _initialise(self) -> None:
        """Initialise as appendix E of the paper: decays and shares of the previous token grow with the channel and change by layer."""
        depth, dim = max(len(self.blocks), 1), self.dim
        channel = torch.arange(dim) / dim
        nn.init.uniform_(self.embedding.weight, -1e-4, 1e-4)
        nn.init.normal_(self.lm_head.weight, std=0.5 * dim**-0.5)
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            later, earlier = layer / max(depth - 1, 1), 1 - layer / depth  # 0 to 1 and 1 to nearly 0 over the layers
            time, mix = block.time, block.channel
            with torch.no_grad():
                time.decay.copy_(-5 + 8 * (torch.arange(dim) / max(dim - 1, 1)) ** (0.7 + 1.3 * later))
                time.first.copy_(torch.log(torch.tensor(0.3)) + 0.5 * ((torch.arange(dim) + 1) % 3 - 1))
                for share in (time.key_share, mix.key_share, mix.receptance_share):
                    share.copy_(channel**earlier)
                time.value_share.copy_(channel**earlier + 0.3 * later)
                time.receptance_share.copy_(channel ** (0.5 * earlier))
            for matrix in (time.key, time.value, time.receptance, mix.key, mix.receptance):
                nn.init.normal_(matrix.weight, std=0.5 * dim**-0.5)
            for matrix in (time.out, mix.value):
                nn.init.normal_(matrix.weight, std=0.02 / (2 * depth) ** 0.5)
