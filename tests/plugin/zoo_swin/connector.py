"""Mean of neighbouring tokens, then a linear layer."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.types import Connector


class WindowPool(Connector):
    """Each ``size`` tokens that follow each other become one; the number of an image's tokens must be a multiple of it."""

    def __init__(self, *, in_dim: int, out_dim: int, size: int = 4) -> None:
        super().__init__()
        self.size = size
        self.linear = nn.Linear(in_dim, out_dim)

    @classmethod
    def refuse(cls, num_tokens: int | None, options: Mapping[str, Any]) -> None:
        if num_tokens is None or num_tokens % options["size"]:
            raise ConfigError(f"size: {options['size']} does not divide {num_tokens} tokens; choose a divisor")

    def num_tokens(self, n: int) -> int:
        return n // self.size

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(tokens.unflatten(1, (-1, self.size)).mean(2)), mask[:, :: self.size]
