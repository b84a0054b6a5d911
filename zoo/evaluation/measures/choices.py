"""Choice of an answer by its likelihood, and the credit for it."""

import math
from collections.abc import Sequence

from zoo.errors import DataError


def credit(scores: Sequence[float], right: int) -> float:
    """Return 1 if choice ``right`` has the highest score, else 0; if n choices share the highest score, 1 / n.

    With scores ``-1 -3 -1`` the first choice gets 0.5 and the second 0. A model that scores all choices equally is thus at chance.

    Raises:
        DataError: a score is not a number.
    """
    if any(math.isnan(score) for score in scores):
        raise DataError("evaluation: the model's scores are not numbers (NaN); look at its weights")
    best = max(scores)
    return float(scores[right] == best) / sum(score == best for score in scores)


def chosen(scores: Sequence[float]) -> int:
    """Return the index of the highest score, the first of equal ones."""
    return max(range(len(scores)), key=scores.__getitem__)
