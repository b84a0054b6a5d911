"""Base class of decoder-only language models: padding, positions, key-value cache and packed sequences around the blocks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError
from zoo.layers.cache import Cache
from zoo.layers.decoder import Call, Rotation, prefix_keys, seen_keys, with_prefix
from zoo.layers.linear import Linear, fast_linear, is_marked, lay_out, pack, unpack
from zoo.layers.packing import Packing
from zoo.layers.picture_positions import AXES, list_positions, picture_positions
from zoo.types import LanguageModel, on_host

Calls = Mapping[int | None, Call]  # by the window of a layer


class DecoderOnly(LanguageModel):
    """Base class: maps token ids or embedding vectors to hidden states; ``logits`` scores the next token.

    A subclass sets the attributes. It overrides ``place`` to add position embeddings, or ``rotation`` to rotate queries and keys.

    Attributes:
        lm_head: output layer; None if the token embedding matrix is used instead.
        window: size of the attention window in tokens, including the token itself; None attends to all previous tokens. If layers differ,
            this is the smallest window, and ``windows`` has one for each layer.
    """

    sees_prefix = True
    num_kv_heads: int
    embedding: nn.Embedding
    blocks: nn.ModuleList
    norm: nn.Module
    lm_head: Linear | None
    # Perplexity of SmolLM2-135M (a GGUF file in Q4_1, whose grid int4 contains) on 1,536 tokens of WordNet, by
    # scripts/benchmarks/decoding.py on a CPU without VNNI: fp32 61.28, int4 62.50 (+2.0 %), int8 65.24 (+6.5 %: not offered).
    low_precision = {"fp16": ("*.router",), "int4": ("*.router",)}
    table_precision: str | None = None  # of the product with a tied token table, see ``after_precision``

    @classmethod
    def resolved(cls, keywords: Mapping[str, Any]) -> dict[str, Any]:
        """Replace None by the number that it stands for."""
        heads, dim = keywords["num_heads"], keywords["dim"]
        meant = {"num_kv_heads": heads, "head_dim": dim // heads, "embed_scale": dim**0.5}
        return {**keywords, **{word: value for word, value in meant.items() if word in keywords and keywords[word] is None}}

    @property
    def ties_words(self) -> bool:
        """True if the output projection is the word table."""
        return self.lm_head is None

    def drop_output(self) -> None:
        """Remove an output projection that is not the word table; see ``LanguageModel``."""
        self.drops_output, self.lm_head = self.lm_head is not None, None

    def place(self, x: Float[Tensor, "*tokens dim"], places: Int[Tensor, "*axes_and_tokens"]) -> Float[Tensor, "*tokens dim"]:
        """Return the input of the first block, given embedding vectors and their positions; by default the vectors unchanged."""
        return x

    def rotation(self, places: Int[Tensor, "*axes_and_tokens"], window: int | None) -> Rotation | None:
        """Return the rotation of queries and keys in layers with this window; None (the default) applies no rotation."""
        return None

    @property
    def windows(self) -> Sequence[int | None]:
        """Attention window of each layer."""
        return (self.window,) * len(self.blocks)

    def forward(
        self,
        x: Int[Tensor, "*tokens"] | Float[Tensor, "*tokens width"],
        mask: Bool[Tensor, "batch length"] | None = None,
        *,
        positions: Int[Tensor, "*tokens"] | None = None,
        cache: Cache | None = None,
        layout: Packing | None = None,
        prefix_lengths: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "*tokens dim"]:
        """Return the hidden states after the last norm.

        Args:
            x: token ids [batch, length] or vectors [batch, length, dim]; with a layout, packed ids [total] or vectors [total, dim]. Vectors
                may also have ``input_dim`` channels.
            mask: True at real tokens of this call; padding may be on either side.
            positions: positions of the tokens; None counts real tokens, starting after those in the cache.
            cache: key-value cache of the previous tokens; the tokens of this call are added to it.
            layout: boundaries of the sequences in a packed list, and their prefixes.
            prefix_lengths: number of first real tokens of each row that see each other; all later ones see them anyway. With a cache, the
                prefixes must lie in its first call.

        Raises:
            DataError: a text is longer than ``context_length``, the prefix of a cache is not in its first call, or vectors have another
                width.
            ConfigError: a packed list is given, whose layout holds the prefixes.
        """
        if prefix_lengths is not None:
            self._refuse_prefix(layout, cache)
        marks, further = None, ()
        if not x.is_floating_point():
            x = self.embed(x)[..., : self.dim]
        elif x.shape[-1] > self.dim:
            x, marks, further = self._parted(x)
        places, calls = (
            self._list_calls(layout, positions, marks)
            if layout is not None
            else self._batch_calls(x, mask, positions, cache, prefix_lengths, marks)
        )
        x = self.place(x, places)
        for layer, (block, window) in enumerate(zip(self.blocks, self.windows, strict=True)):
            x = block(x, calls[window], layer)
            x = x + further[layer] if layer < len(further) else x
        return self.norm(x)

    def _parted(self, x: Float[Tensor, "*tokens input_dim"]) -> tuple[Tensor, Tensor | None, Sequence[Tensor]]:
        """Return the vectors of the first block, the marks, and the vectors that are added behind the first blocks."""
        if x.shape[-1] != self.input_dim:
            raise DataError(f"input vectors have {x.shape[-1]} channels; the language model takes {self.dim} or input_dim {self.input_dim}")
        x, *further = x.split(self.dim, dim=-1)
        marks = further.pop()[..., 0] if self.has_axes else None
        return x, marks, further

    def embed(self, token_ids: Int[Tensor, "*tokens"]) -> Float[Tensor, "*tokens dim"]:
        """Return the embeddings of token ids; negative ids (placeholders of other modalities) give zeros."""
        vectors = self.embedding(token_ids.clamp(min=0))  # a lookup needs valid ids; the result at negative ids is set to zero below
        vectors = vectors.masked_fill((token_ids < 0)[..., None], 0.0)
        return vectors if self.input_dim == self.dim else F.pad(vectors, (0, self.input_dim - self.dim))

    def logits(self, hidden: Float[Tensor, "*tokens dim"]) -> Float[Tensor, "*tokens vocab_size"]:
        """Return the logits of the next token over the vocabulary."""
        if self.lm_head is not None:
            return self.lm_head(hidden)
        return fast_linear(hidden, self.embedding.weight, None, precision=self.table_precision)

    def after_precision(self, precision: str | None) -> None:
        """Compute logits in int8 if the other layers are in int4, which gives bfloat16: too coarse to tell close tokens apart."""
        finer = {"int4": "int8", "simulated_int4": "simulated_int8"}
        self.table_precision = None if precision is None else finer.get(precision, precision)
        if self.lm_head is not None and self.lm_head.precision is not None:
            self.lm_head.precision = self.table_precision

    def new_cache(self, batch_size: int, length: int) -> Cache:
        """Return an empty key-value cache.

        In evaluation mode, this also lays out the weights in memory for fast generation.

        Args:
            length: maximum number of tokens per row, including padding.
        """
        if not self.training:  # training needs the plain layout: see train()
            lay_out(self._matrices(), by_columns=True)
            if batch_size > 1:
                pack(self._matrices())
        weight = self.embedding.weight
        shape = {"depth": len(self.blocks), "num_heads": self.num_kv_heads, "head_dim": self.head_dim}
        return Cache(batch_size=batch_size, length=length, dtype=weight.dtype, device=weight.device, **shape)

    def train(self, mode: bool = True) -> "DecoderOnly":
        """Set training or evaluation mode as ``torch.nn.Module.train``; training restores the plain memory layout of the weights."""
        if mode:
            unpack(self._matrices())
            lay_out(self._matrices(), by_columns=False)
        return super().train(mode)

    def _matrices(self) -> Iterator[Tensor]:
        """Yield the weights of all matrix products in the type of the weights, including a tied embedding matrix."""
        yield from (layer.weight for layer in self.modules() if isinstance(layer, nn.Linear) and not is_marked(layer))
        if self.lm_head is None and self.table_precision is None:
            yield self.embedding.weight

    def _batch_calls(
        self,
        x: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
        cache: Cache | None,
        prefix_lengths: Tensor | None,
        marks: Tensor | None,
    ) -> tuple[Tensor, Calls]:
        """Return the positions of a padded batch, and the arguments shared by all blocks of each window; extends the cache."""
        past, length, device = 0 if cache is None else cache.length, x.shape[1], x.device
        keys = past + length
        side = _padding_side(mask)
        mask = own = None if side == "none" else mask  # attention is faster without a mask
        prefix = None if prefix_lengths is None else prefix_keys(prefix_lengths, mask, length)
        if cache is not None:
            cache.extend(length, mask)
        real = mask if past == 0 else cache.mask if cache is not None and cache.padded else None
        places = _counted(real, past, keys, device) if positions is None else positions
        if self.has_axes:
            places = self._on_axes(places, None if positions is not None else marks, cache, mask)
        if past == 0 and side == "right":
            real = None  # causal attention never reaches padding on the right, so that no mask is needed
        self._refuse_long(places, keys)
        single = length == 1 and real is None  # a single new token attends to all keys in its window: no mask is needed
        calls = {
            window: Call(
                rotation=self.rotation(places, window),
                allowed=with_prefix(None if single else seen_keys(real, length, keys, window, device), prefix),
                first_key=max(0, keys - window) if single and window is not None else 0,
                cache=cache,
                real=own,
            )
            for window in dict.fromkeys(self.windows)
        }
        return places, calls

    def _on_axes(self, places: Tensor, marks: Tensor | None, cache: Cache | None, mask: Tensor | None) -> Int[Tensor, "3 rows length"]:
        """Return positions on three axes, given those counted over real tokens, or the marks of pictures."""
        if marks is None:
            delta = None if cache is None else cache.delta
            places = places if delta is None else places + delta[:, None]
            return places if places.ndim == 3 else places.expand(AXES, *places.shape)
        marks = marks.long()
        return picture_positions(marks, mask)[0] if cache is None else cache.mark(marks)

    def _list_calls(self, layout: Packing, positions: Tensor | None, marks: Tensor | None) -> tuple[Tensor, Calls]:
        assert layout.asked is None, "language models compute every token of a packed list"
        if positions is None and marks is not None:
            positions = list_positions(marks, layout)
        positions = layout.positions if positions is None else positions
        if self.has_axes and positions.ndim == 1:
            positions = positions.expand(AXES, -1)
        self._refuse_long(positions, layout.shape[1])
        windows = dict.fromkeys(self.windows)
        return positions, {window: Call(rotation=self.rotation(positions, window), layout=layout, window=window) for window in windows}

    def _refuse_prefix(self, layout: Packing | None, cache: Cache | None) -> None:
        if layout is not None:
            raise ConfigError(
                "prefix_lengths: with a packed list they belong to its layout: Packing(mask, causal=True, prefix_lengths=...)"
            )
        if cache is not None and cache.length:
            raise DataError(f"prefix_lengths: the cache holds {cache.length} tokens; give the whole prefix in its first call")

    def _refuse_long(self, positions: Tensor, keys: int) -> None:
        if keys <= self.context_length or positions.is_meta or not positions.numel():
            return
        # Padding does not count. Reading the maximum waits for the device, so that it is read only for long inputs.
        longest = int(on_host(positions).max()) + 1
        if longest > self.context_length:
            raise DataError(f"a text has {longest} tokens; context_length allows {self.context_length}: shorten it")


def _counted(real: Tensor | None, past: int, keys: int, device: torch.device) -> Int[Tensor, "rows length"]:
    """Return the positions of the keys from ``past`` on, counted over real tokens; one row for all if there is no padding."""
    if real is None:
        return torch.arange(past, keys, device=device)[None]
    return (real.cumsum(1) - 1).clamp(min=0)[:, past:]  # padding on the left would be at position -1


def _padding_side(mask: Tensor | None) -> str:
    """Return the side of the padding: "none", "right", or "left" for anything else."""
    if mask is None:
        return "none"
    # The mask's values cannot be read here; "left" is the general case, correct for any padding.
    if mask.is_meta or torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return "left"
    mask = on_host(mask)
    if bool(mask.all()):
        return "none"
    return "left" if bool((mask[:, 1:] & ~mask[:, :-1]).any()) else "right"
