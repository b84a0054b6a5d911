"""What sources of questions share: wordings, answers in words and figures, and one question as a sample."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.errors import ConfigError, name_choices
from zoo.processors.chat.messages import MARKERS, Conversation, Message
from zoo.types import Sample

_UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"


@dataclass(frozen=True)
class Question:
    """A question in one or more wordings, and its true answers, the plainest first."""

    kind: str
    wordings: tuple[str, ...]
    answers: tuple[str, ...]


def number_word(number: int) -> str:
    """A number from 0 to 99 in words: ``thirty-six``."""
    units = _UNITS.split()
    if number < len(units):
        return units[number]
    tens, rest = divmod(number, 10)
    return _TENS.split()[tens - 2] + (f"-{units[rest]}" if rest else "")


def number_answers(number: int) -> tuple[str, ...]:
    """A number in words and in figures."""
    return number_word(number), str(number)


def sample_of(id: str, question: Question, images: Sequence[Any], generator: np.random.Generator | None) -> Sample:
    """A question with the pictures before it, and its plainest answer; the wording is drawn by a generator, the first without."""
    wording = question.wordings[0 if generator is None else int(generator.integers(len(question.wordings)))]
    shown = "".join(MARKERS["image"] + "\n" for _ in images)
    messages = (Message("user", shown + wording), Message("assistant", question.answers[0]))
    conversation = Conversation(messages, tuple(images), id=id)
    return Sample(id, {"conversation": conversation}, answers=list(question.answers), kind=question.kind)


def texts_of(question: Question) -> list[str]:
    """Every wording and answer, to train a tokenizer on."""
    return [*question.wordings, *question.answers]


def checked_kinds(kinds: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """The kinds that are asked; None asks all.

    Raises:
        ConfigError: an unknown one, a string in place of a list, or none.
    """
    if kinds is None:
        return list(known)
    if isinstance(kinds, str) or not kinds:
        raise ConfigError(f"kinds: {kinds!r}; give a list of {', '.join(known)}, or null for all")
    for kind in kinds:
        if kind not in known:
            raise ConfigError(f"kinds: there is no {kind!r}; {name_choices(str(kind), known)}")
    return list(dict.fromkeys(kinds))
