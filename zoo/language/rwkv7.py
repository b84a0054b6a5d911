"""RWKV-7 "Goose": a recurrent language model whose state has a fixed size.

Paper: Peng et al. 2025 (arXiv 2503.14456), section 4. Reference: BlinkDL's package ``rwkv`` 0.8, class ``RWKV_x070``.

Where we differ: padding may lie on either side and leaves the state as it is; the norm after the word table belongs to ``embed``, so that
vectors of other modalities enter behind it; matrices that start at zero in the reference start as small random numbers. In place of the
reference's CUDA kernel, the recurrence of long texts runs in chunks, whose tokens are computed together.
"""

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.layers.linear import Linear
from zoo.layers.recurrent_only import Real, RecurrentOnly
from zoo.layers.recurrent_state import RecurrentState, previous_real
from zoo.registry import register

SHIFTS = ("r", "w", "k", "v", "a", "g")  # inputs of the time mix: receptance, decay, key, value, learning rate, gate
SLOWEST = -0.606531  # -exp(-0.5), rounded as in the reference: the decay of each token lies between exp(SLOWEST) and 1
NORM_EPS = 64e-5
CHUNK = 32  # tokens computed together; exp(SLOWEST * CHUNK) = 4e-9 and its inverse must lie well within float32
FEWEST = 4  # tokens from which on a call runs in chunks


def recur(
    state: Float[Tensor, "batch num_heads head_dim head_dim"],
    r: Float[Tensor, "batch length num_heads head_dim"],
    w: Float[Tensor, "batch length num_heads head_dim"],
    k: Float[Tensor, "batch length num_heads head_dim"],
    v: Float[Tensor, "batch length num_heads head_dim"],
    removed: Float[Tensor, "batch length num_heads head_dim"],
    rate: Float[Tensor, "batch length num_heads head_dim"],
) -> tuple[Float[Tensor, "batch length num_heads head_dim"], Float[Tensor, "batch num_heads head_dim head_dim"]]:
    """Run S <- S (diag(w) - removed (rate * removed)^T) + v k^T, y = S r over the tokens (equation 17 of the paper).

    Args:
        state: S before the first token, values by keys.
        r: receptance, the query.
        w: share of the state that is kept, by key channel.
        k: key.
        v: value.
        removed: unit vector along which the state forgets.
        rate: share of it that is forgotten, by channel.

    Returns:
        The outputs, and the state after the last token.
    """
    if r.is_meta:  # shapes only: a loop over thousands of tokens would take seconds
        return r + w + k + v + removed + rate, state
    outputs = []
    for t in range(r.shape[1]):
        along = (state @ removed[:, t, :, :, None]).squeeze(-1)  # [B, heads, values]
        forgotten = along[..., None] * (rate[:, t] * removed[:, t])[..., None, :]
        state = state * w[:, t, :, None, :] - forgotten + v[:, t, ..., None] * k[:, t, :, None, :]
        outputs.append((state @ r[:, t, :, :, None]).squeeze(-1))
    return torch.stack(outputs, dim=1) if outputs else r, state


def recur_in_chunks(
    state: Float[Tensor, "batch num_heads head_dim head_dim"],
    r: Float[Tensor, "batch length num_heads head_dim"],
    w: Float[Tensor, "batch length num_heads head_dim"],
    k: Float[Tensor, "batch length num_heads head_dim"],
    v: Float[Tensor, "batch length num_heads head_dim"],
    removed: Float[Tensor, "batch length num_heads head_dim"],
    rate: Float[Tensor, "batch length num_heads head_dim"],
) -> tuple[Float[Tensor, "batch length num_heads head_dim"], Float[Tensor, "batch num_heads head_dim head_dim"]]:
    """Compute what ``recur`` does, ``CHUNK`` tokens at a time by matrix products; ``w`` must be ``exp(SLOWEST)`` or more.

    With P_t the product of w_1 to w_t, the state S_t diag(1 / P_t) does not decay. The vectors u_t that the tokens of a chunk
    remove from it solve a triangular system: ``(I + tril(A B^T, -1)) U = A S_0^T + tril(A K^T, -1) V``, where A has the rows
    P_(t-1) removed_t, B has rate_t removed_t / P_t, and K has k_t / P_t.

    Source: Yang et al. 2024 (arXiv 2406.06484), section 3, where the rule has no decay and removes along the key.
    """
    outputs = []
    for chunk in zip(*(t.transpose(1, 2).split(CHUNK, dim=2) for t in (r, w, k, v, removed, rate * removed)), strict=True):
        r_, w_, k_, v_, a, b = chunk  # each [B, heads, tokens, head_dim]
        kept = w_.cumprod(2)
        r_, a, b, k_ = r_ * kept, a * kept / w_, b / kept, k_ / kept
        known = a @ state.mT + (a @ k_.mT).tril(-1) @ v_
        u = torch.linalg.solve_triangular((a @ b.mT).tril(-1), known, upper=False, unitriangular=True)
        outputs.append(r_ @ state.mT + (r_ @ k_.mT).tril() @ v_ - (r_ @ b.mT).tril() @ u)
        state = (state + v_.mT @ k_ - u.mT @ b) * kept[:, :, -1:]
    return torch.cat(outputs, dim=2).transpose(1, 2), state


class LowRank(nn.Module):
    """Offset plus a product of two thin matrices, with an activation between them: ``offset + act(x down) up``."""

    def __init__(self, *, dim: int, rank: int, activation: nn.Module, offset: bool = True) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(dim)) if offset else None
        self.down = nn.Parameter(torch.randn(dim, rank) * 0.02)
        self.up = nn.Parameter(nn.init.orthogonal_(torch.empty(rank, dim), gain=0.1))
        self.activation = activation

    def forward(self, x: Float[Tensor, "*tokens dim"]) -> Float[Tensor, "*tokens dim"]:
        out = self.activation(x @ self.down) @ self.up
        return out if self.offset is None else self.offset + out


class TimeMix(nn.Module):
    """Mixing of tokens by a matrix-valued state for each head.

    Args:
        dim: width of the tokens.
        num_heads: number of heads.
        ranks: widths of the thin matrices of decay, learning rate, value and gate.
        first: True for the first layer, whose values the later layers mix into theirs.
    """

    def __init__(self, *, dim: int, num_heads: int, ranks: dict[str, int], first: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.shifts = nn.Parameter(torch.zeros(len(SHIFTS), dim))  # rows in the order of SHIFTS
        self.decay = LowRank(dim=dim, rank=ranks["decay"], activation=nn.Tanh())
        self.rate = LowRank(dim=dim, rank=ranks["rate"], activation=nn.Identity())
        self.mix_value = None if first else LowRank(dim=dim, rank=ranks["value"], activation=nn.Identity())
        self.gate = LowRank(dim=dim, rank=ranks["gate"], activation=nn.Sigmoid(), offset=False)
        self.key_scale, self.key_rate = nn.Parameter(torch.full((dim,), 0.85)), nn.Parameter(torch.ones(dim))
        self.bonus = nn.Parameter(torch.zeros(num_heads, dim // num_heads))
        self.receptance, self.key, self.value, self.out = (Linear(dim, dim, bias=False) for _ in range(4))
        self.norm = nn.GroupNorm(num_heads, dim, eps=NORM_EPS)

    def forward(
        self, x: Float[Tensor, "batch length dim"], before: Tensor, state: Tensor, first_value: Tensor | None, real: Real
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the output, the last token, the state after it, and the values of the first layer."""
        previous, last = previous_real(x, before, real)
        r, w, k, v, a, g = (x + (previous - x) * shift for shift in self.shifts)
        decay = torch.exp(SLOWEST * torch.sigmoid(self.decay(w).float()))
        rate, gate = torch.sigmoid(self.rate(a)), self.gate(g)
        r, k, value = self.receptance(r), self.key(k), self.value(v)
        if self.mix_value is not None and first_value is not None:
            value = value + (first_value - value) * torch.sigmoid(self.mix_value(v))
        heads = [t.unflatten(-1, (self.num_heads, -1)) for t in (r, decay, k, value, k * self.key_scale, rate)]  # [B, L, heads, head_dim]
        r, decay, k, v, removed, rate = heads
        removed = F.normalize(removed, dim=-1)
        k = k * (1 + (rate - 1) * self.key_rate.unflatten(0, (self.num_heads, -1)))
        bonus = (r * k * self.bonus).sum(-1, keepdim=True) * v
        if real is not None:  # padding keeps the state: nothing decays, is removed or is added
            kept = real[..., None, None]
            decay, k, removed = decay.masked_fill(~kept, 1.0), k * kept, removed * kept
        # Errors of half precision would grow with each token. The meta device has no autocast.
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            run = recur if x.is_meta or x.shape[1] < FEWEST else recur_in_chunks
            y, state = run(state, *(t.float() for t in (r, decay, k, v, removed, rate)))
        y = self.norm(y.to(x.dtype).flatten(0, 1).flatten(1)).view_as(x) + bonus.flatten(2)
        return self.out(y * gate), last, state, value


class ChannelMix(nn.Module):
    """Feed-forward part with a squared ReLU, on a mixture of each token and the one before it."""

    def __init__(self, *, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(dim))
        self.key, self.value = Linear(dim, hidden_dim, bias=False), Linear(hidden_dim, dim, bias=False)

    def forward(self, x: Float[Tensor, "batch length dim"], before: Tensor, real: Real) -> tuple[Tensor, Tensor]:
        """Return the output and the last token."""
        previous, last = previous_real(x, before, real)
        return self.value(F.relu(self.key(x + (previous - x) * self.shift)).square()), last


class Block(nn.Module):
    """Pre-norm block: x + time mix(norm(x)), then x + channel mix(norm(x))."""

    def __init__(self, *, dim: int, num_heads: int, hidden_dim: int, ranks: dict[str, int], first: bool, eps: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=eps), nn.LayerNorm(dim, eps=eps)
        self.time = TimeMix(dim=dim, num_heads=num_heads, ranks=ranks, first=first)
        self.channel = ChannelMix(dim=dim, hidden_dim=hidden_dim)


@register("language")
class Rwkv7(RecurrentOnly):
    """Recurrent causal language model: maps token ids or embedding vectors to hidden states; ``logits`` scores the next token.

    ``new_cache`` returns a state, which takes the same memory for a text of any length.

    Args:
        context_length: maximum number of tokens of a text; the weights do not depend on it.
        head_dim: width of each head; divides ``dim``.
        hidden_dim: width of the feed-forward layers; None means 4 * ``dim``.
        decay_rank: width of the thin matrices that compute the decay.
        rate_rank: the same of the learning rate.
        value_rank: the same of the share of the first layer's values.
        gate_rank: the same of the gate.
        eps: added to the variance in the layer norms.

    Raises:
        ConfigError: ``head_dim`` does not divide ``dim``.
        DataError: (forward) a text is longer than ``context_length``.
    """

    silent_keywords = ("eps",)
    no_weight_decay = ()

    def __init__(
        self,
        *,
        vocab_size: int = 65_536,
        context_length: int = 4096,
        dim: int = 768,
        depth: int = 12,
        head_dim: int = 64,
        hidden_dim: int | None = None,
        decay_rank: int = 64,
        rate_rank: int = 64,
        value_rank: int = 32,
        gate_rank: int = 128,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if dim % head_dim:
            raise ConfigError(f"head_dim: {head_dim} does not divide dim {dim}; the published models have 64")
        self.dim, self.vocab_size, self.context_length, self.head_dim = dim, vocab_size, context_length, head_dim
        self.num_heads, ranks = dim // head_dim, {"decay": decay_rank, "rate": rate_rank, "value": value_rank, "gate": gate_rank}
        self.embedding = nn.Embedding(vocab_size, dim)
        self.embedding_norm = nn.LayerNorm(dim, eps=eps)
        sizes: dict[str, Any] = {"dim": dim, "num_heads": self.num_heads, "hidden_dim": hidden_dim or 4 * dim, "ranks": ranks, "eps": eps}
        self.blocks = nn.ModuleList(Block(**sizes, first=layer == 0) for layer in range(depth))
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.lm_head = Linear(dim, vocab_size, bias=False)
        self._initialise()

    def mix_time(
        self, block: Any, x: Float[Tensor, "batch length dim"], before: Tensor, matrices: Tensor, carried: Tensor | None, mask: Real
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """See ``RecurrentOnly``; the values of the first block are carried to all others."""
        mixed, time, matrices, value = block.time(x, before, matrices, carried, mask)
        return mixed, time, matrices, value if carried is None else carried

    def new_cache(self, batch_size: int, length: int) -> RecurrentState:
        """Return the state before any token.

        Args:
            length: not used: the state does not grow.
        """
        weight = self.embedding.weight
        sizes: dict[str, Any] = {"depth": len(self.blocks), "num_heads": self.num_heads, "head_dim": self.head_dim}
        return RecurrentState(**sizes, batch_size=batch_size, dtype=weight.dtype, device=weight.device)

    def _initialise(self) -> None:
        """Initialise as the reference, whose shares of the previous token and decays grow with the channel, and change with the layer."""
        depth, dim = max(len(self.blocks), 1), self.dim
        channel = torch.arange(dim) / dim
        nn.init.uniform_(self.embedding.weight, -1e-4, 1e-4)
        nn.init.orthogonal_(self.lm_head.weight, gain=0.5 * max(self.vocab_size / dim, 1) ** 0.5)
        powers = torch.tensor([0.2, 0.9, 0.7, 0.7, 0.9, 0.2])  # in the order of SHIFTS
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            later, earlier = layer / max(depth - 1, 1), 1 - layer / depth  # 0 to 1 and 1 to nearly 0 over the layers
            time, mix = block.time, block.channel
            with torch.no_grad():
                time.shifts.copy_(1 - channel ** (powers[:, None] * earlier))
                mix.shift.copy_(1 - channel ** (earlier**4))
                offset = time.decay.offset
                assert offset is not None
                offset.copy_(-6.5 + 5 * (torch.arange(dim) / max(dim - 1, 1)) ** (0.85 + later**0.5))
                if time.mix_value is not None and time.mix_value.offset is not None:
                    time.mix_value.offset.fill_(1.0)
            for matrix, size in ((time.receptance, 0.5), (time.key, 0.05), (time.value, 0.5), (mix.key, 0.5)):
                nn.init.uniform_(matrix.weight, -size * dim**-0.5, size * dim**-0.5)
            for matrix in (time.out, mix.value):
                nn.init.normal_(matrix.weight, std=0.02 / (2 * depth) ** 0.5)
