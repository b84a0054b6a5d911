"""Form of an answer, as a regular expression."""

import re
from collections.abc import Sequence

from zoo.errors import ConfigError
from zoo.registry import register
from zoo.types import Batch, Reward, SampledAnswer


@register("reward")
class Format(Reward):
    """1 if the whole answer matches a regular expression and ends by itself, else 0.

    Args:
        pattern: for example ``[a-z-]+`` for one word in lower case, or ``<think>.*</think><answer>.*</answer>``; a dot matches new lines.

    Raises:
        ConfigError: the pattern is no regular expression.
    """

    def __init__(self, *, pattern: str) -> None:
        try:
            self.pattern = re.compile(pattern, re.DOTALL)
        except re.error as error:
            raise ConfigError(f"pattern: {pattern!r} is no regular expression ({error}); correct it") from error

    def __call__(self, answers: Sequence[SampledAnswer], references: Sequence[Sequence[str]], batch: Batch | None = None) -> list[float]:
        """Return one score per answer."""
        return [float(answer.is_finished and self.pattern.fullmatch(answer.text.strip()) is not None) for answer in answers]
