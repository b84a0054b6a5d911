"""Base class of causal language models."""

from typing import Any

from torch import Tensor, nn

from zoo.types.part import Part


class LanguageModel(Part, nn.Module):
    """A causal language model: from the tokens before a position to a distribution over the next token.

    Padding may be on either side. Positions count real tokens unless the caller gives them.

    Attributes:
        dim: width of the hidden states.
        vocab_size: number of token ids.
        context_length: most tokens at once.
        head_dim: width of one attention head.
        ties_words: True if the output projection is the word table.
        drops_output: True if an output projection in the files of weights has no place in the model (``drop_output``).
        window: number of tokens before a position that attention can see; None for all.
        sees_prefix: True if ``forward`` also takes ``prefix_lengths`` [batch]: how many first real tokens of each row see each other (a
            prefix language model; the image and the prompt of PaliGemma).
        has_axes: True if positions have the axes time, row and column (M-RoPE). The last channel of an input vector is then the mark of
            its place in a picture (``zoo.layers.picture_positions``).
        deepstack: number of first blocks behind which further vectors are added to the tokens of pictures (DeepStack).
    """

    dim: int
    vocab_size: int
    context_length: int
    head_dim: int
    ties_words: bool = False
    drops_output: bool = False
    window: int | None = None
    sees_prefix: bool = False
    has_axes: bool = False
    deepstack: int = 0

    @property
    def input_dim(self) -> int:
        """Width of the vectors that ``embed`` returns: the vector of a token, those of ``deepstack``, and the mark if ``has_axes``."""
        return self.dim * (1 + self.deepstack) + self.has_axes

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
            x: token ids [batch, length], or their vectors [batch, length, input_dim].
            mask: True at the real tokens of this call [batch, length].
            positions: position of each token; None counts real tokens.
            cache: from ``new_cache``; the call attends to its tokens and appends new ones.
            layout: layout of packed rows; ``x`` is then a list of tokens [total, dim] (``zoo.layers.packing``).
        """
        raise NotImplementedError

    def embed(self, token_ids: Tensor) -> Tensor:
        """Return the embeddings of token ids [..., input_dim], among which a head splices those of other modalities."""
        raise NotImplementedError

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the scores of the next token [..., vocab_size] for hidden states [..., dim]."""
        raise NotImplementedError

    def drop_output(self) -> None:
        """Remove the output projection, for a head that reads hidden states only; by default the model keeps it."""

    def auxiliary_losses(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return further losses of the last call in training, already weighted, and metrics, by name; by default none.

        A head adds the losses to its own. The model forgets that call.
        """
        return {}, {}

    def new_cache(self, batch_size: int, length: int) -> Any:
        """Return an empty cache for ``batch_size`` rows of at most ``length`` tokens."""
        raise NotImplementedError
