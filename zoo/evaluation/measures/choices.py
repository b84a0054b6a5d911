"""Answers that are chosen by their likelihood: which one a system takes, and what that is worth."""

import math
from collections.abc import Sequence

from zoo.errors import DataError


def credit(scores: Sequence[float], right: int) -> float:
    """1 where the right one has the highest score, else 0; of n equally high ones 1 / n, what guessing among them would give.

    With scores ``-1 -3 -1`` the first is worth 0.5, the second 0: a model that scores all alike is at chance.

    Raises:
        DataError: a score is not a number.
    """
    if any(math.isnan(score) for score in scores):
        raise DataError("evaluation: the model's scores are not numbers (NaN); look at its weights")
    best = max(scores)
    return float(scores[right] == best) / sum(score == best for score in scores)


def chosen(scores: Sequence[float]) -> int:
    """The first of those with the highest score."""
    return max(range(len(scores)), key=scores.__getitem__)
