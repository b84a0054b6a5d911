"""Cross-attention to the tokens of an encoder, whose keys and values are computed once for all decoding steps.

Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.2.3. The keys and values of all layers are held in a ``Memory``, separate from the
cache of the decoder. Consecutive rows (beams) may share the memory of a source without copies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import DataError
from zoo.layers.attention import attend_heads
from zoo.layers.cache import Cache
from zoo.layers.linear import Linear
from zoo.types import on_host


@dataclass(frozen=True)
class Memory:
    """Keys and values of sources (recordings, texts, images), for the cross-attention of every layer.

    Attributes:
        keys: [depth, batch, num_heads, num_tokens, head_dim]; ``values`` has the same shape.
        mask: True at real tokens of a source; None: all are real.
    """

    keys: Float[Tensor, "depth batch num_heads num_tokens head_dim"]
    values: Float[Tensor, "depth batch num_heads num_tokens head_dim"]
    mask: Bool[Tensor, "batch num_tokens"] | None = None

    @classmethod
    def of(
        cls,
        layers: "Sequence[MemoryAttention]",
        tokens: Float[Tensor, "batch num_tokens memory_dim"],
        mask: Bool[Tensor, "batch num_tokens"] | None = None,
    ) -> "Memory":
        """Compute the keys and values of every layer.

        Args:
            layers: the cross-attention of each layer, in order.
            tokens: of the encoder.
            mask: True at real tokens; a mask that is True everywhere is dropped, so it costs nothing.
        """
        whole = mask is None or (not mask.is_meta and bool(on_host(mask).all()))
        keys, values = _stacked(layers, tokens)
        return cls(keys, values, None if whole else mask)

    @property
    def batch_size(self) -> int:
        """Number of sources."""
        return self.keys.shape[1]

    def select(self, rows: Int[Tensor, " rows"]) -> "Memory":
        """Return a copy with the given sources in the given order; one may occur several times or not at all.

        Beams need no copies, see ``MemoryAttention``.
        """
        mask = None if self.mask is None else self.mask.index_select(0, rows)
        return Memory(self.keys.index_select(1, rows), self.values.index_select(1, rows), mask)


class MemoryAttention(nn.Module):
    """Cross-attention to a source with precomputed keys and values.

    There may be k times as many rows of queries as sources: the first k rows then belong to the first source, and so on.

    Args:
        dim: width of the queries' input and of the output.
        num_heads: attention heads.
        key_value: projection of the source's tokens to keys and values, of equal width; it decides on their biases.
        head_dim: width of each head; None takes ``dim / num_heads``.
        bias: True gives the projections of queries and output a bias.
        scale: factor on the scores; None takes head_dim ** -0.5 (T5: 1).
    """

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        key_value: Linear,
        head_dim: int | None = None,
        bias: bool = True,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        inner = dim if head_dim is None else num_heads * head_dim
        self.num_heads, self.scale = num_heads, scale
        self.query = Linear(dim, inner, bias=bias)
        self.key_value = key_value
        self.out = Linear(inner, dim, bias=bias)

    def forward(self, x: Float[Tensor, "rows length dim"], memory: Memory, layer: int) -> Float[Tensor, "rows length dim"]:
        """Return the output of attention; all sources have equally many rows, and the rows of one source are consecutive."""
        # The rows of a source are passed as further queries of one row, so that its keys and values are not repeated.
        allowed = None if memory.mask is None else memory.mask[:, None, None, :]
        q = self.queries(x, memory)
        found = attend_heads(q, memory.keys[layer], memory.values[layer], allowed=allowed, scale=self.scale)  # [B, k * L, dim]
        return self.out(found.reshape(*x.shape[:2], -1))

    def queries(self, x: Float[Tensor, "rows length dim"], memory: Memory) -> Float[Tensor, "batch num_heads queries head_dim"]:
        """Return the queries of all rows of each source, one row after the other."""
        q = self.query(x).unflatten(-1, (self.num_heads, -1))  # [B * k, L, heads, head_dim]
        per_source = q.shape[0] * q.shape[1] // max(memory.batch_size, 1)
        return q.reshape(memory.batch_size, per_source, *q.shape[2:]).transpose(1, 2)  # [B, heads, k * L, head_dim]

    def keys_and_values(
        self, tokens: Float[Tensor, "batch num_tokens memory_dim"]
    ) -> list[Float[Tensor, "batch num_heads num_tokens head_dim"]]:
        """Return keys and values of the tokens of sources."""
        found = self.key_value(tokens).unflatten(-1, (2, self.num_heads, -1))  # [B, N, 2, heads, head_dim]
        return list(found.permute(2, 0, 3, 1, 4))


class MemoryCache(Cache):
    """Key-value cache of a decoder together with the memory of its sources; both follow the rows that ``select`` keeps.

    Attributes:
        memory: keys and values of the sources that the rows still need.
        sources: index of each row's source in ``memory``; the rows of a source are consecutive.
    """

    def __init__(self, memory: Memory, *, batch_size: int, **sizes: Any) -> None:
        super().__init__(batch_size=batch_size, **sizes)
        refuse_rows(batch_size, memory)
        self.memory = memory
        places = torch.arange(memory.batch_size, device=memory.keys.device)
        self.sources = places.repeat_interleave(batch_size // max(memory.batch_size, 1))

    def select(self, rows: Int[Tensor, " rows"]) -> "MemoryCache":
        """Keep the given rows in the given order, in place, and drop the sources that no row needs any more."""
        super().select(rows)
        wanted = self.sources[rows]
        kept, counts = torch.unique_consecutive(wanted, return_counts=True)
        equal = len(kept) > 0 and bool((counts == counts[0]).all())
        if not equal:  # rows of one source are apart, or sources have different numbers of rows: each row gets a copy
            kept, counts = wanted, torch.ones_like(wanted)
        if len(kept) != self.memory.batch_size or not bool((kept == torch.arange(len(kept), device=kept.device)).all()):
            self.memory = self.memory.select(kept)
        self.sources = torch.arange(len(kept), device=kept.device).repeat_interleave(counts)
        return self


def _stacked(layers: "Sequence[MemoryAttention]", tokens: Tensor) -> list[Float[Tensor, "depth batch num_heads num_tokens head_dim"]]:
    """Return the keys and the values of all layers."""
    if torch.is_grad_enabled():  # writing into a tensor would record one copy of it per layer
        return [torch.stack(parts) for parts in zip(*(layer.keys_and_values(tokens) for layer in layers), strict=True)]
    found: list[Tensor] = []
    # One layer after another: to stack all at the end takes twice the memory, 75 instead of 38 MB for Whisper base.
    for number, layer in enumerate(layers):
        parts = layer.keys_and_values(tokens)
        found = found or [part.new_empty(len(layers), *part.shape) for part in parts]
        for whole, part in zip(found, parts, strict=True):
            whole[number] = part
    return found


def refuse_rows(rows: int, memory: Memory, sources: str = "sources") -> None:
    """Raise DataError unless the number of rows of token ids is a multiple of the number of sources."""
    if memory.batch_size and rows % memory.batch_size or not memory.batch_size and rows:
        raise DataError(
            f"token ids have {rows} rows for {memory.batch_size} {sources}; the number of rows must be a multiple of the {sources}"
        )
