"""Text decoder with causal self-attention and cross-attention to the tokens of any encoder.

Papers: Vaswani et al. 2017 (arXiv 1706.03762), section 3; Raffel et al. 2019 (T5, arXiv 1910.10683); Lewis et al. 2019 (BART, arXiv
1910.13461); Liu et al. 2020 (mBART, arXiv 2001.08210). References: transformers 5.17 ``modeling_marian.py``, ``modeling_t5.py``,
``modeling_bart.py``, ``modeling_mbart.py``.

Differences: queries, keys and values are computed by one matrix; so are keys and values of the source, once for all decoding steps
(``zoo.layers.memory``). Attention probabilities and the hidden layer of the feed-forward part have no dropout. Positions count real tokens.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError
from zoo.layers.attention import causal_mask, refuse_uneven_heads
from zoo.layers.cache import Cache
from zoo.layers.decoder import Call, seen_keys
from zoo.layers.experts import Experts
from zoo.layers.linear import Linear, fast_linear, is_marked, lay_out, pack, unpack
from zoo.layers.memory import Memory, MemoryCache, refuse_rows
from zoo.layers.norm import build_norm
from zoo.layers.position import PositionEmbedding, counted_positions
from zoo.layers.relative_bias import refuse_buckets, relative_bias
from zoo.layers.seq2seq_blocks import BlockSettings, OutputTransform, Seq2SeqDecoderBlock

RELATIVE = "relative"  # kind of positions: T5's biases in place of embeddings


class Seq2SeqDecoder(nn.Module):
    """Text decoder: token ids and the memory of sources to logits of the next token.

    Usage::

        memory = decoder.remember(encoded.tokens, encoded.mask)
        cache = decoder.new_cache(memory, batch_size=1, length=64)
        hidden = decoder.states(start_ids, memory, cache=cache)
        hidden = decoder.states(next_ids, memory, cache=cache)   # [1, 1]; one more token
        logits = decoder.logits(hidden)

    There may be k times as many rows of token ids as sources: the first k rows then belong to the first source, and so on.

    Args:
        settings: of the blocks.
        vocab_size: number of token ids.
        context_length: maximum number of token ids per row.
        depth: number of blocks.
        memory_dim: width of the source's tokens.
        positions: a kind of ``zoo.layers.position.PositionEmbedding``, or "relative" (T5): biases that all blocks share.
        position_offset: see ``PositionEmbedding``.
        num_buckets: rows of the table of relative biases.
        max_distance: distance from which on all distances share one row.
        own_words: False shares the word table of the encoder, which ``share`` gives.
        tied: True computes the logits with the word table, False with a matrix of their own.
        embedding_norm: normalise the sum of word and position embeddings (BART).
        final_norm: normalise the output of the last block.
        scale_embedding: multiply word embeddings by the root of ``dim``.
        scale_output: divide the hidden states by the root of ``dim`` before the logits (T5 1.0).
        output_bias: add a fixed bias to the logits, which training does not change (Marian, BART).
        output_transform: put a linear layer, the activation and a norm before the logits (BERT).

    Raises:
        ConfigError: sizes that do not fit each other.
        DataError: (states) a row is too long, or the number of rows is not a multiple of the number of sources.
    """

    table_precision: str | None = None  # of the product with a tied word table, which is no linear layer that could be marked

    def __init__(
        self,
        settings: BlockSettings,
        *,
        vocab_size: int,
        context_length: int,
        depth: int,
        memory_dim: int,
        positions: str,
        position_offset: int,
        num_buckets: int,
        max_distance: int,
        own_words: bool,
        tied: bool,
        embedding_norm: bool,
        final_norm: bool,
        scale_embedding: bool,
        scale_output: bool,
        output_bias: bool,
        output_transform: bool = False,
    ) -> None:
        super().__init__()
        dim = settings.dim
        if settings.num_heads * settings.head_dim == dim:
            refuse_uneven_heads(dim, settings.num_heads)
        self.dim, self.vocab_size, self.context_length = dim, vocab_size, context_length
        self.num_heads, self.head_dim, self.memory_dim, self.max_distance = settings.num_heads, settings.head_dim, memory_dim, max_distance
        relative = positions == RELATIVE
        if relative:
            refuse_buckets(num_buckets, max_distance)
        self.embedding = nn.Embedding(vocab_size, dim) if own_words else None
        self._words: tuple[nn.Embedding, ...] = ()  # a tuple hides the encoder's table from nn.Module: the encoder saves and trains it
        kind = "none" if relative else positions
        self.positions = PositionEmbedding(kind=kind, context_length=context_length, dim=dim, offset=position_offset)
        self.distances = nn.Parameter(torch.empty(num_buckets, settings.num_heads)) if relative else None
        self.embedding_norm = build_norm(settings.norm, dim, settings.eps) if embedding_norm else None
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(Seq2SeqDecoderBlock(settings, memory_dim=memory_dim, layer=layer) for layer in range(depth))
        self.norm = build_norm(settings.norm, dim, settings.eps) if final_norm else None
        self.transform = OutputTransform(settings) if output_transform else None
        self.output = None if tied else Linear(dim, vocab_size, bias=False)
        self.embed_scale = dim**0.5 if scale_embedding else 1.0
        self.output_scale = dim**-0.5 if scale_output else 1.0
        self.output_bias: Tensor | None
        self.register_buffer("output_bias", torch.zeros(vocab_size) if output_bias else None)
        self._initialise(settings)

    def share(self, words: nn.Embedding) -> None:
        """Use the word table of an encoder, which keeps ownership of it."""
        if self.embedding is None:
            self._words = (words,)

    @property
    def words(self) -> Float[Tensor, "vocab_size dim"]:
        """The word table.

        Raises:
            ConfigError: it is the encoder's, and the decoder is connected to no encoder.
        """
        if self.embedding is not None:
            return self.embedding.weight
        if not self._words:
            raise ConfigError(
                "shared_words: head 'seq2seq' shares the word table of the text encoder, but is connected to none; build a system, or "
                "set shared_words=false"
            )
        return self._words[0].weight

    def embed(self, token_ids: Int[Tensor, "*tokens"]) -> Float[Tensor, "*tokens dim"]:
        """Return the scaled word embeddings, without positions."""
        return nn.functional.embedding(token_ids, self.words) * self.embed_scale

    def states(
        self,
        x: Int[Tensor, "rows length"] | Float[Tensor, "rows length dim"],
        memory: Memory,
        *,
        mask: Bool[Tensor, "rows length"] | None = None,
        positions: Int[Tensor, "rows length"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "rows length dim"]:
        """Return the hidden states that ``logits`` takes.

        Args:
            x: ids of the new tokens, or their embeddings from ``embed``.
            memory: keys and values of the sources, from ``remember``.
            mask: True at real tokens; padding on the right needs none, because no real token attends to it. In training, experts need it,
                since padding would take their places and count in their losses.
            positions: of the new tokens; None counts real tokens.
            cache: keys and values of earlier tokens; those of the new tokens are added.
        """
        vectors = x if x.is_floating_point() else self.embed(x)
        places, call = self._begin(vectors, memory, mask, positions, cache)
        vectors = self.positions(vectors, places)
        vectors = self.dropout(vectors if self.embedding_norm is None else self.embedding_norm(vectors))
        for layer, block in enumerate(self.blocks):
            vectors = block(vectors, memory, call, layer)
        return vectors if self.norm is None else self.dropout(self.norm(vectors))

    def logits(self, hidden: Float[Tensor, "*tokens dim"]) -> Float[Tensor, "*tokens vocab_size"]:
        """Return the logits of the next token, in fp32 or wider."""
        weight = self.words if self.output is None else self.output.weight
        hidden = hidden * self.output_scale if self.output_scale != 1 else hidden
        hidden = hidden if self.transform is None else self.transform(hidden)
        logits = fast_linear(hidden, weight, None, precision=self.table_precision) if self.output is None else self.output(hidden)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits if self.output_bias is None else logits + self.output_bias

    def remember(
        self, tokens: Float[Tensor, "batch num_tokens memory_dim"], mask: Bool[Tensor, "batch num_tokens"] | None = None
    ) -> Memory:
        """Compute the keys and values of sources, once for all decoding steps.

        Args:
            tokens: of the encoder.
            mask: True at real tokens of a source.

        Raises:
            DataError: the width of the tokens is not ``memory_dim``.
        """
        if tokens.shape[-1] != self.memory_dim:
            raise DataError(f"the tokens of a source have shape {list(tokens.shape)}; allowed is [batch, num_tokens, {self.memory_dim}]")
        return Memory.of([block.cross for block in self.blocks], tokens, mask)  # type: ignore[misc]

    def new_cache(self, memory: Memory, batch_size: int, length: int) -> MemoryCache:
        """Return an empty cache for up to ``length`` tokens per row; in evaluation mode, weights are laid out for fast steps."""
        if not self.training:
            lay_out(self._matrices(), by_columns=True)
            if batch_size > 1:
                pack(self._matrices())
        weight, sizes = self.words, {"depth": len(self.blocks), "num_heads": self.num_heads, "head_dim": self.head_dim}
        return MemoryCache(memory, batch_size=batch_size, length=length, dtype=weight.dtype, device=weight.device, **sizes)

    def train(self, mode: bool = True) -> "Seq2SeqDecoder":
        """Set training or evaluation mode as ``torch.nn.Module.train``; training restores the plain memory layout of the weights."""
        if mode:
            unpack(self._matrices())
            lay_out(self._matrices(), by_columns=False)
        return super().train(mode)

    def _begin(
        self, vectors: Tensor, memory: Memory, mask: Tensor | None, positions: Tensor | None, cache: Cache | None
    ) -> tuple[Int[Tensor, "rows length"], Call]:
        """Return the positions of the new tokens, and the arguments that all blocks share; extends the cache."""
        (rows, length), past, device = vectors.shape[:2], 0 if cache is None else cache.length, vectors.device
        keys = past + length
        if keys > self.context_length:
            raise DataError(f"texts have {keys} tokens; context_length allows {self.context_length}: shorten them")
        refuse_rows(rows, memory)
        if cache is not None:
            cache.extend(length, mask)
        real = mask if cache is None else cache.mask if cache.padded else None
        counted = counted_positions(real, keys, device)
        allowed = seen_keys(real, length, keys, None, device)
        bias = None
        if self.distances is not None:
            # Distances ignore padding among the tokens: it may only be on the left, where it shifts all positions of a row alike.
            places = torch.arange(keys, device=device)
            bias = relative_bias(self.distances, places[past:], places, max_distance=self.max_distance, both_ways=False).to(vectors.dtype)
            allowed = causal_mask(length, keys, device) if allowed is None and length > 1 else allowed
            allowed = allowed if allowed is not None else torch.ones(1, keys, dtype=torch.bool, device=device)
        return counted[:, past:] if positions is None else positions, Call(allowed=allowed, cache=cache, bias=bias, real=mask)

    def _matrices(self) -> Iterator[Tensor]:
        """Yield all matrices that are multiplied with tokens in the type of the weights, but the encoder's word table."""
        yield from (layer.weight for layer in self.modules() if isinstance(layer, nn.Linear) and not is_marked(layer))
        if self.embedding is not None and self.table_precision is None:
            yield self.embedding.weight

    def _initialise(self, settings: BlockSettings) -> None:
        """Initialise matrices from N(0, 1 / fan_in) and word tables from N(0, 1 / dim); with unscaled scores as Mesh TensorFlow does.

        Source of the latter: ``_init_weights`` of transformers' ``modeling_t5.py``; the queries contain the factor that the scores lack.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            if isinstance(module, Experts):
                module.initialise_scaled()
        if not settings.scaled:
            inner = self.num_heads * self.head_dim
            for block in self.blocks:
                for queries in (block.attention.qkv.weight[:inner], block.cross.query.weight):  # type: ignore[union-attr, index]
                    nn.init.normal_(queries, std=(self.dim * self.head_dim) ** -0.5)  # type: ignore[arg-type]
        if self.distances is not None:
            nn.init.normal_(self.distances, std=self.dim**-0.5)
        if self.positions.table is not None:
            nn.init.normal_(self.positions.table, std=0.02)
        if self.embedding is not None:
            # Scaled embeddings and tied logits both have unit variance with this deviation.
            nn.init.normal_(self.embedding.weight, std=self.dim**-0.5 if self.embed_scale != 1 or self.output is None else 1.0)
