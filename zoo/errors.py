"""The errors that a user can cause. All are ``ValueError``; none needs torch."""

import difflib
from collections.abc import Iterable


class ZooError(ValueError):
    """A mistake that the user can mend; its message says what, the value, what is allowed, what to do."""


class ConfigError(ZooError):
    """A configuration names something that does not exist or parts that do not fit together."""


class WeightsError(ZooError):
    """Weights do not fit the architecture, or a file of weights is not one that may be read."""


class DataError(ZooError):
    """A file, row or batch cannot be used."""


class ItemError(DataError):
    """One item among many cannot be used; ``reason`` is one of a few words, under which such items are counted."""

    def __init__(self, message: str, reason: str = "other") -> None:
        super().__init__(message)
        self.reason = reason


class VerbError(ZooError, AttributeError):
    """A system was asked for something that its head does not do."""


def name_choices(wrong: str, known: Iterable[str], *, most: int = 12) -> str:
    """Say which names are near to a wrong one, or all of them where they are few."""
    known = sorted(set(known))
    near = difflib.get_close_matches(wrong, known, n=4, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(repr(name) for name in near) + "?"
    if not known:
        return "none are known"
    listed = ", ".join(known[:most])
    return f"known: {listed}" + (f" and {len(known) - most} more" if len(known) > most else "")


def first_line(error: BaseException) -> str:
    """Return the first line of a library's message, or the error's type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
