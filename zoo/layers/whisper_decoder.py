"""Whisper's text decoder: a causal transformer with cross-attention to the tokens of a recording.

Paper: Radford et al. 2022 (arXiv 2212.04356), section 2.2. References: openai-whisper ``model.py``, class ``TextDecoder``; transformers
``modeling_whisper.py``, class ``WhisperDecoder``.

Differences: queries, keys and values are computed by one matrix; so are keys and values of the recording. The latter are computed once and
held in a ``Memory``, separate from the cache. Consecutive rows (beams) may share the memory of a recording without copies.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import DataError
from zoo.layers.attention import KeysWithoutBias, refuse_uneven_heads
from zoo.layers.cache import Cache
from zoo.layers.decoder import Call, CausalAttention, seen_keys
from zoo.layers.linear import fast_linear, is_marked, lay_out, pack, unpack
from zoo.layers.memory import Memory, MemoryAttention, refuse_rows
from zoo.layers.mlp import MLP, hidden_width


class WhisperBlock(nn.Module):
    """Pre-norm block: x + attention(norm(x)), then x + cross_attention(norm(x), recording), then x + mlp(norm(x))."""

    def __init__(self, *, dim: int, memory_dim: int, num_heads: int, hidden_dim: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attention = CausalAttention(dim=dim, num_heads=num_heads, num_kv_heads=num_heads, head_dim=dim // num_heads, bias=True)
        self.attention.qkv = KeysWithoutBias(dim)  # CausalAttention knows only all biases or none
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.cross = MemoryAttention(dim=dim, num_heads=num_heads, key_value=KeysWithoutBias(dim, queries=False, in_dim=memory_dim))
        self.norm3 = nn.LayerNorm(dim, eps=eps)
        self.mlp = MLP(dim=dim, hidden_dim=hidden_dim)

    def forward(self, x: Float[Tensor, "rows length dim"], memory: Memory, call: Call, layer: int) -> Float[Tensor, "rows length dim"]:
        x = self.attended(x, call, layer)
        x = x + self.cross(self.norm2(x), memory, layer)
        return x + self.mlp(self.norm3(x))

    def attended(self, x: Float[Tensor, "rows length dim"], call: Call, layer: int) -> Float[Tensor, "rows length dim"]:
        """Return the input of the cross-attention (before its norm)."""
        return x + self.attention(self.norm1(x), call, layer)


class WhisperDecoder(nn.Module):
    """Text decoder: token ids and the memory of a recording to logits of the next token.

    Usage::

        memory = decoder.remember(encoded.tokens, mask)      # once for each window
        cache = decoder.new_cache(batch_size=1, length=448)
        logits = decoder(prompt_ids, memory, cache=cache)    # [1, L, vocab_size]
        logits = decoder(next_ids, memory, cache=cache)      # [1, 1]; one more token

    There may be k times as many rows of token ids as recordings: the first k rows then belong to the first recording, and so on. Beams of a
    recording share its memory in this way, without copies. Padding must be on the right, where the causal mask hides it from real tokens.

    Args:
        vocab_size: number of token ids.
        context_length: maximum number of token ids per row, and size of the table of position embeddings.
        dim: width of the decoder.
        depth: number of blocks.
        num_heads: attention heads; a divisor of ``dim``.
        mlp_ratio: hidden width of the MLPs, as a multiple of ``dim``.
        eps: added to the variance in the layer norms.
        memory_dim: width of a recording's tokens; None takes ``dim``.

    Raises:
        ConfigError: ``num_heads`` does not divide ``dim``.
        DataError: (forward) a row is longer than ``context_length``, or the number of rows is not a multiple of the recordings'.
    """

    table_precision: str | None = None  # of the product with the token table, which is no linear layer that could be marked

    def __init__(
        self,
        *,
        vocab_size: int,
        context_length: int = 448,
        dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        eps: float = 1e-5,
        memory_dim: int | None = None,
    ) -> None:
        super().__init__()
        refuse_uneven_heads(dim, num_heads)
        self.dim, self.vocab_size, self.context_length, self.num_heads = dim, vocab_size, context_length, num_heads
        self.memory_dim = dim if memory_dim is None else memory_dim
        self.embedding = nn.Embedding(vocab_size, dim)
        self.positions = nn.Parameter(torch.empty(context_length, dim))
        sizes = {"dim": dim, "memory_dim": self.memory_dim, "num_heads": num_heads, "hidden_dim": hidden_width(dim, mlp_ratio)}
        self.blocks = nn.ModuleList(WhisperBlock(**sizes, eps=eps) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=eps)
        self._initialise()

    def forward(
        self, token_ids: Int[Tensor, "rows length"], memory: Memory, *, cache: Cache | None = None
    ) -> Float[Tensor, "rows length vocab_size"]:
        """Return the logits of the next token at each position; use ``states`` and ``logits`` to compute only some positions."""
        return self.logits(self.states(token_ids, memory, cache=cache))

    def states(
        self, token_ids: Int[Tensor, "rows length"], memory: Memory, *, cache: Cache | None = None
    ) -> Float[Tensor, "rows length dim"]:
        """Return the hidden states after the final norm.

        Args:
            token_ids: ids of the new tokens.
            memory: keys and values of the recordings, from ``remember``.
            cache: keys and values of earlier tokens; those of the new tokens are added.
        """
        x, call = self._begin(token_ids, memory, cache)
        for layer, block in enumerate(self.blocks):
            x = block(x, memory, call, layer)
        return self.norm(x)

    def logits(self, hidden: Float[Tensor, "*tokens dim"]) -> Float[Tensor, "*tokens vocab_size"]:
        """Return the logits of the next token, in fp32 or wider; the weight is tied to the token embedding."""
        logits = fast_linear(hidden, self.embedding.weight, None, precision=self.table_precision)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def remember(
        self, tokens: Float[Tensor, "batch num_tokens memory_dim"], mask: Bool[Tensor, "batch num_tokens"] | None = None
    ) -> Memory:
        """Compute the keys and values of recordings, once for all decoding steps.

        Args:
            tokens: the audio encoder's tokens.
            mask: True at real tokens of a recording; a mask that is True everywhere is dropped, so it costs nothing.

        Raises:
            DataError: the width of the tokens is not ``memory_dim``.
        """
        if tokens.shape[-1] != self.memory_dim:
            raise DataError(
                f"the tokens of a recording have shape {list(tokens.shape)}; this decoder reads [batch, num_tokens, {self.memory_dim}]"
            )
        return Memory.of([block.cross for block in self.blocks], tokens, mask)  # type: ignore[misc]

    def new_cache(self, batch_size: int, length: int) -> Cache:
        """Return an empty cache for up to ``length`` tokens per row; in evaluation mode, also ``prepare`` the weights."""
        self.prepare(batch_size)
        weight, head_dim = self.embedding.weight, self.dim // self.num_heads
        shape = {"depth": len(self.blocks), "num_heads": self.num_heads, "head_dim": head_dim}
        return Cache(batch_size=batch_size, length=length, dtype=weight.dtype, device=weight.device, **shape)

    def prepare(self, rows: int) -> None:
        """Store the weights in the memory format that is fastest for decoding steps of ``rows`` rows; outputs do not change.

        Call it for beam search, which has more rows than the cache was created for.
        """
        if not self.training:
            lay_out(self._matrices(), by_columns=True)
            if rows > 1:
                pack(self._matrices())

    def cross_attention(
        self, token_ids: Int[Tensor, "rows length"], memory: Memory
    ) -> Float[Tensor, "depth rows num_heads length num_tokens"]:
        """Return the cross-attention scores, before the softmax, of every layer and head between token ids and a recording's tokens.

        Scores of padding are -inf.
        """
        x, call = self._begin(token_ids, memory, None)
        # Fused attention does not return its scores, so they are computed beside each block, which repeats its self-attention.
        found = []
        for layer, block in enumerate(self.blocks):
            q = block.cross.queries(block.norm2(block.attended(x, call, layer)), memory)  # type: ignore[union-attr, operator]
            scores = q @ memory.keys[layer].transpose(-2, -1) * q.shape[-1] ** -0.5  # [B, heads, k * L, N]
            if memory.mask is not None:
                scores = scores.masked_fill(~memory.mask[:, None, None, :], float("-inf"))
            scores = scores.unflatten(2, (-1, token_ids.shape[1])).transpose(1, 2)  # [B, k, heads, L, N]
            found.append(scores.flatten(0, 1))
            x = block(x, memory, call, layer)
        return torch.stack(found)  # [depth, B * k, heads, L, N]

    def train(self, mode: bool = True) -> "WhisperDecoder":
        """Set training or evaluation mode, as ``torch.nn.Module.train``; training mode undoes ``prepare``."""
        if mode:
            unpack(self._matrices())
            lay_out(self._matrices(), by_columns=False)
        return super().train(mode)

    def _begin(self, token_ids: Tensor, memory: Memory, cache: Cache | None) -> tuple[Tensor, Call]:
        """Return the input of the first block, and the arguments that all blocks share."""
        (rows, length), past = token_ids.shape, 0 if cache is None else cache.length
        end = past + length
        if end > self.context_length:
            raise DataError(f"texts have {end} tokens; context_length allows {self.context_length}: shorten them")
        refuse_rows(rows, memory, "recordings")
        if cache is not None:
            cache.extend(length)
        x = self.embedding(token_ids) + self.positions[past:end]
        return x, Call(allowed=seen_keys(None, length, end, None, token_ids.device), cache=cache)

    def _matrices(self) -> Iterator[Tensor]:
        """Yield all matrices that are multiplied with tokens in the type of the weights."""
        yield from (layer.weight for layer in self.modules() if isinstance(layer, nn.Linear) and not is_marked(layer))
        if self.table_precision is None:
            yield self.embedding.weight

    def _initialise(self) -> None:
        """Initialise matrices from N(0, 1 / fan_in), as in the paper, biases with zeros, and tables from N(0, 0.02^2), our choice."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for table in (self.embedding.weight, self.positions):
            nn.init.normal_(table, std=0.02)
