"""Base class of connectors, which turn an encoder's tokens into inputs of a language model."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn


class Connector(nn.Module, ABC):
    """Tokens [batch, num_tokens, in_dim] to others [batch, new_tokens, out_dim], and their mask.

    ``num_tokens(n)`` is the number of real tokens made of n; ``forward`` gives as many, and nothing else computes that number. The
    constructor takes ``in_dim`` and ``out_dim`` and its own options.

    Attributes:
        silent_keywords: options that change what the weights compute but no shape of them; see ``Part``.
        newline: learned vector [out_dim] at the end of a row of an image that was cut into tiles; None without the option ``newline``.
        merge: side of the squares of places that become one token; None if the number of tokens does not depend on the input.
        deepstack: number of further vectors of width ``out_dim`` behind each token, for a language model with ``deepstack``.
    """

    silent_keywords: ClassVar[Sequence[str]] = ()
    newline: Tensor | None
    merge: int | None = 1
    deepstack: int = 0

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("newline", None)

    @classmethod
    def resolved(cls, keywords: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keywords in the form in which ``silent_keywords`` are compared; see ``Part.resolved``."""
        return dict(keywords)

    @abstractmethod
    def num_tokens(self, n: int) -> int:
        """Return the number of tokens that ``forward`` makes of ``n`` real ones.

        Raises:
            DataError: it does not take so many.
        """

    @abstractmethod
    def forward(
        self, tokens: Float[Tensor, "batch num_tokens in_dim"], mask: Bool[Tensor, "batch num_tokens"]
    ) -> tuple[Float[Tensor, "batch new_tokens out_dim"], Bool[Tensor, "batch new_tokens"]]: ...

    def on_grids(
        self, tokens: Float[Tensor, "batch num_tokens in_dim"], mask: Bool[Tensor, "batch num_tokens"], grids: Int64[Tensor, "batch 2"]
    ) -> tuple[Float[Tensor, "batch new_tokens out_dim"], Bool[Tensor, "batch new_tokens"]]:
        """Return what ``forward`` returns for pictures of different sizes; by default the grid does not matter.

        Args:
            tokens: of each picture, row by row, with padding behind them.
            mask: True at real tokens.
            grids: rows and columns of each picture, multiples of ``merge``; the values are known on the CPU.
        """
        return self(tokens, mask)

    @classmethod
    def refuse(cls, num_tokens: int | None, options: Mapping[str, Any]) -> None:
        """Raise ConfigError if the connector cannot process an encoder's tokens; by default it can process all.

        Args:
            num_tokens: tokens of every item, in a grid of places (images); None if items differ, in the order of time (audio).
            options: all keywords of the constructor but ``in_dim`` and ``out_dim``, defaults included.
        """
