"""Errors that a user can cause. All of them are subclasses of ``ValueError``; this module does not import torch."""

import difflib
import re
from collections.abc import Iterable

LONGEST_WORD, LONGEST_MESSAGE = 500, 3900
LONG_WORDS = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")


class ZooError(ValueError):
    """Error that the user can fix; the message tells what is wrong, the value, the allowed values and a remedy.

    A word of a message that is longer than ``LONGEST_WORD``, for example a value from a damaged file, is cut, and so is the middle of a
    message longer than ``LONGEST_MESSAGE``: it begins with what is wrong and ends with the remedy.
    """

    def __init__(self, message: str = "") -> None:
        text = LONG_WORDS.sub(lambda word: f"{word[0][:LONGEST_WORD]}...({len(word[0])} characters)", str(message))
        if (left_out := len(text) - LONGEST_MESSAGE) > 0:
            half = LONGEST_MESSAGE // 2
            text = f"{text[:half]} ...({left_out} characters)... {text[-half:]}"
        super().__init__(text)


class ConfigError(ZooError):
    """Error in a configuration: an unknown name, a value outside its range, or parts that do not fit together."""


class ContractError(ConfigError):
    """Error of the author of a part: the part breaks a rule of its kind's contract (``zoo.testing``).

    Args:
        part: kind and name, for example "encoder 'swin'"; may begin with a config key.
        rule: what the part says or must do, for example "gives_pooled is True".
        got: what was found instead, for example "pooled is None".
        wanted: what was expected; left out of the message if the remedy says it already.
        remedy: what the author should change.
    """

    def __init__(self, part: str, rule: str, got: str, wanted: str, remedy: str) -> None:
        expected = "" if wanted in remedy else f" (expected: {wanted})"
        super().__init__(f"{part}: {rule}, but {got}{expected}; {remedy}")
        self.part, self.rule, self.got, self.wanted, self.remedy = part, rule, got, wanted, remedy

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        return type(self), (self.part, self.rule, self.got, self.wanted, self.remedy)  # an exception is otherwise pickled by its message


class WeightsError(ZooError):
    """Error in weights: they do not fit the architecture, or their file cannot be read safely."""


class DataError(ZooError):
    """Error in data: a file, row or batch cannot be used."""


class ItemError(DataError):
    """Error in one item among many.

    Args:
        reason: short category such as "audio" or "empty", by which skipped items are counted.
    """

    def __init__(self, message: str, reason: str = "other") -> None:
        super().__init__(message)
        self.reason = reason


class Interrupted(ZooError):
    """Exception raised when a training run ended before its last step; its state is saved.

    Args:
        status: exit status of the command: 130 after Ctrl-C, 75 if the same command should be queued again.
    """

    def __init__(self, message: str, status: int = 130) -> None:
        super().__init__(message)
        self.status = status


def reason_of(fault: Exception) -> str:
    """Return the word under which a fault of an item is counted."""
    return fault.reason if isinstance(fault, ItemError) else "other"


class VerbError(ZooError, AttributeError):
    """Error of a call to a system's method that its head does not support."""


def name_choices(wrong: str, known: Iterable[str], *, most: int = 12) -> str:
    """Return a hint for an error message: similar known names, or if there are none, the first ``most`` known names."""
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
