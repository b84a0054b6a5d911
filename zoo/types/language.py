"""Base class of causal language models."""

from typing import Any

from torch import Tensor, nn

from zoo.types.part import Part


class LanguageModel(Part, nn.Module):
    """A causal language model: from the tokens before a position to a distribution over the next token.

    Padding may lie on either side; positions are counted over real tokens unless they are given.

    Attributes:
        dim: width of the hidden states.
        vocab_size: number of token ids.
        context_length: most tokens at once.
        head_dim: width of one attention head.
        ties_words: True if the output projection is the word table.
        window: tokens before a position that attention sees; None for all.
    """

    dim: int
    vocab_size: int
    context_length: int
    head_dim: int
    ties_words: bool = False
    window: int | None = None

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        cache: Any = None,
        layout: Any = None,
    ) -> Tensor:
        """Return the hidden states after the last norm [batch, length, dim].

        Args:
            x: token ids [batch, length], or their vectors [batch, length, dim].
            mask: True at the real tokens of this call [batch, length].
            positions: of the tokens; None counts real tokens.
            cache: of ``new_cache``; the call continues it and adds its own tokens to it.
            layout: of packed rows; the tokens are then a list [total, dim] (``zoo.layers.packing``).
        """
        raise NotImplementedError

    def embed(self, token_ids: Tensor) -> Tensor:
        """Return the vectors of token ids [..., dim], so that vectors of other modalities may be put among them."""
        raise NotImplementedError

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the scores of the next token [..., vocab_size] of hidden states [..., dim]."""
        raise NotImplementedError

    def new_cache(self, batch_size: int, length: int) -> Any:
        """Return an empty cache for so many rows and tokens."""
        raise NotImplementedError
