"""Base class of recurrent language models: token ids, packed lists, the length of a text and the state around the blocks."""

from abc import abstractmethod
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zoo.errors import DataError
from zoo.layers.linear import Linear
from zoo.layers.packing import Packing
from zoo.layers.recurrent_state import RecurrentState
from zoo.types import LanguageModel

Real = Bool[Tensor, "batch length"] | None


class RecurrentOnly(LanguageModel):
    """Language model of RWKV blocks, each x + time mix(norm1(x)), then x + channel mix(norm2(x)).

    A subclass sets the attributes, mixes over time, and makes the state before any token.

    Attributes:
        embedding: table of token ids.
        embedding_norm: norm of the embeddings.
        blocks: modules with ``norm1``, ``norm2`` and ``channel``, and whatever ``mix_time`` needs.
        norm: applied after the last block.
        lm_head: linear layer to the logits.
    """

    context_length: int
    embedding: nn.Embedding
    embedding_norm: nn.LayerNorm
    blocks: nn.ModuleList
    norm: nn.LayerNorm
    lm_head: Linear

    @abstractmethod
    def mix_time(
        self, block: Any, x: Float[Tensor, "batch length dim"], before: Tensor, matrices: Tensor, carried: Tensor | None, mask: Real
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return the output of a block's time mix, its last token, its new state, and what the next block gets as ``carried``."""

    @abstractmethod
    def new_cache(self, batch_size: int, length: int) -> RecurrentState:
        """Return the state before any token."""

    def forward(
        self,
        x: Int[Tensor, "*tokens"] | Float[Tensor, "*tokens dim"],
        mask: Bool[Tensor, "batch length"] | None = None,
        *,
        positions: Int[Tensor, "*tokens"] | None = None,
        cache: RecurrentState | None = None,
        layout: Packing | None = None,
    ) -> Float[Tensor, "*tokens dim"]:
        """Return the hidden states after the last norm.

        Args:
            x: token ids [batch, length] or vectors [batch, length, dim]; with a layout, packed ids [total] or vectors [total, dim].
            mask: True at real tokens of this call; padding may be on either side.
            positions: not used: the order of the tokens is all that a recurrent model knows.
            cache: state after the previous tokens; it is updated.
            layout: boundaries of the sequences in a packed list.

        Raises:
            DataError: a text is longer than ``context_length``.
        """
        x = x if x.is_floating_point() else self.embed(x)
        if layout is not None:  # rows run beside each other, padded on the right, where padding can change nothing
            return layout.pack(self._run(layout.unpack(x), None, None))
        return self._run(x, mask, cache)

    def _run(self, x: Float[Tensor, "batch length dim"], mask: Real, cache: RecurrentState | None) -> Float[Tensor, "batch length dim"]:
        past = 0 if cache is None else cache.length
        if past + x.shape[1] > self.context_length:
            raise DataError(
                f"a text has {past + x.shape[1]} tokens; context_length allows {self.context_length}: shorten it, or set a larger "
                "context_length, on which no weight depends"
            )
        state = self.new_cache(len(x), 0) if cache is None else cache
        carried = None
        block: Any  # of a class of the subclass's own
        for layer, block in enumerate(self.blocks):
            before = state.shifted[:, layer].to(x.dtype)
            mixed, time, matrices, carried = self.mix_time(block, block.norm1(x), before[0], state.matrices[layer], carried, mask)
            x = x + mixed
            mixed, channel = block.channel(block.norm2(x), before[1], mask)
            x = x + mixed
            if cache is not None:
                cache.keep(layer, time=time, channel=channel, matrices=matrices)
        if cache is not None:
            cache.extend(x.shape[1])
        return self.norm(x)

    def embed(self, token_ids: Int[Tensor, "*tokens"]) -> Float[Tensor, "*tokens dim"]:
        """Return the normalised embeddings of token ids; negative ids (placeholders of other modalities) give zeros."""
        vectors = self.embedding_norm(self.embedding(token_ids.clamp(min=0)))
        return vectors.masked_fill((token_ids < 0)[..., None], 0.0)

    def logits(self, hidden: Float[Tensor, "*tokens dim"]) -> Float[Tensor, "*tokens vocab_size"]:
        """Return the logits of the next token over the vocabulary."""
        return self.lm_head(hidden)
