"""Shared code of question sources: questions, numbers as answers, and the conversion of a question into a sample."""

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
    """A question in one or more wordings, and its correct answers; the first answer is the training target."""

    kind: str
    wordings: tuple[str, ...]
    answers: tuple[str, ...]


def number_word(number: int) -> str:
    """Spell a number from 0 to 99 in English: 36 is ``thirty-six``."""
    units = _UNITS.split()
    if number < len(units):
        return units[number]
    tens, rest = divmod(number, 10)
    return _TENS.split()[tens - 2] + (f"-{units[rest]}" if rest else "")


def number_answers(number: int) -> tuple[str, ...]:
    """Return a number from 0 to 99 in words and in digits."""
    return number_word(number), str(number)


def sample_of(
    id: str, question: Question, images: Sequence[Any], generator: np.random.Generator | None, earlier: Sequence[Question] = ()
) -> Sample:
    """Build a sample: the images, then the question, then its first answer.

    Args:
        generator: draws the wording; None takes the first wording.
        earlier: questions about the same images, asked and answered before it in the same conversation.
    """
    shown = "".join(MARKERS["image"] + "\n" for _ in images)
    messages: list[Message] = []
    for each in (*earlier, question):
        wording = each.wordings[0 if generator is None else int(generator.integers(len(each.wordings)))]
        messages += [Message("user", shown + wording), Message("assistant", each.answers[0])]
        shown = ""  # the images come before the first question only
    conversation = Conversation(tuple(messages), tuple(images), id=id)
    return Sample(id, {"conversation": conversation}, answers=list(question.answers), kind=question.kind)


def texts_of(question: Question) -> list[str]:
    """Return all wordings and answers of a question, as text to train a tokenizer on."""
    return [*question.wordings, *question.answers]


def checked_kinds(kinds: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """Return the kinds of questions without duplicates; None means all known kinds.

    Raises:
        ConfigError: a kind is unknown, the value is a string and not a list, or the list is empty.
    """
    if kinds is None:
        return list(known)
    if isinstance(kinds, str) or not kinds:
        raise ConfigError(f"kinds: {kinds!r}; give a list of {', '.join(known)}, or null for all")
    for kind in kinds:
        if kind not in known:
            raise ConfigError(f"kinds: there is no {kind!r}; {name_choices(str(kind), known)}")
    return list(dict.fromkeys(kinds))
