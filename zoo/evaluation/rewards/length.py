"""Penalty of long answers.

Source: Yu et al. 2025 (DAPO, arXiv 2503.14476), eq. 13 (soft overlong punishment).
"""

from collections.abc import Sequence

from zoo.errors import ConfigError
from zoo.registry import register
from zoo.types import Batch, Reward, SampledAnswer


@register("reward")
class Length(Reward):
    """0 up to ``most - margin`` tokens, then falling linearly to -1 at ``most`` tokens and beyond.

    With most 8 and margin 4, answers of 4, 6, 8 and 9 tokens have 0, -0.5, -1 and -1.

    Args:
        most: number of tokens with the full penalty, the end token included.
        margin: number of tokens over which the penalty grows.

    Raises:
        ConfigError: a number is outside its range.
    """

    def __init__(self, *, most: int, margin: int = 1) -> None:
        if most < 1 or not 1 <= margin <= most:
            raise ConfigError(f"most: {most}, margin: {margin}; allowed is a margin from 1 to most")
        self.most, self.margin = most, margin

    def __call__(self, answers: Sequence[SampledAnswer], references: Sequence[Sequence[str]], batch: Batch | None = None) -> list[float]:
        """Return one score per answer."""
        over = [len(answer.token_ids) - (self.most - self.margin) for answer in answers]
        return [-min(max(tokens / self.margin, 0.0), 1.0) for tokens in over]
