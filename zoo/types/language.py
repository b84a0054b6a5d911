"""Causal language models."""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class LanguageModel(Protocol):
    """A causal language model: what stands before a position, to a distribution over the next token.

    Called with token ids [batch, length] or with their vectors [batch, length, dim], it gives the hidden states after the last norm
    [batch, length, dim]; ``logits`` makes [..., vocab_size] of those that are asked for. ``embed`` makes vectors of token ids, so that
    others may be put among them. A mask [batch, length] is True at real tokens of this call, and a cache keeps those of the calls
    before it; padding may lie on either side, and positions are counted over real tokens unless they are given. With a cache of
    ``new_cache`` the call continues what the cache holds, and the cache holds this call's tokens too. With a layout the tokens are a
    list [total, dim] (``zoo.layers.packing``).
    """

    dim: int
    vocab_size: int
    context_length: int

    def __call__(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        cache: Any = None,
        layout: Any = None,
    ) -> Tensor: ...

    def embed(self, token_ids: Tensor) -> Tensor: ...

    def logits(self, hidden: Tensor) -> Tensor: ...

    def new_cache(self, batch_size: int, length: int) -> Any: ...
