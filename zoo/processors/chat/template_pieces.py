"""What chat templates are made of: pieces of text, the tokenizer's symbols, and where markers of pictures and clips stand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from zoo.errors import ItemError
from zoo.processors.chat.messages import MARKERS, Message


@dataclass(frozen=True)
class Piece:
    """A part of the text; what is supervised is learnt."""

    text: str
    supervised: bool = False


@dataclass(frozen=True)
class Symbols:
    """What a tokenizer calls its special tokens.

    Attributes:
        names: by transformers' names, as Jinja templates ask for them: ``{"bos_token": "<s>", "eos_token": "</s>"}``.
        starts: whether the tokenizer begins every text with ``bos_token``.
        special: the words of all special tokens.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    starts: bool = False
    special: frozenset[str] = frozenset()

    @property
    def bos(self) -> str:
        """What begins a text; empty without."""
        return self.names.get("bos_token", "")

    @property
    def eos(self) -> str:
        """What ends a text; empty without."""
        return self.names.get("eos_token", "")

    @property
    def start(self) -> str:
        """What the tokenizer would put before a text by itself."""
        return self.bos if self.starts else ""


@runtime_checkable
class ChatTemplate(Protocol):
    """Messages to pieces of text.

    ``end`` is what ends an answer. For generation, messages that end with the user's are followed by the assistant's prefix, and an
    answer that is begun is to be continued.
    """

    @property
    def end(self) -> str: ...

    def pieces(self, messages: Sequence[Message], *, for_generation: bool = False) -> list[Piece]: ...


def answer_piece(text: str, end: str, unfinished: bool) -> Piece:
    """What the assistant says, to be learnt with its end; or said in part, to be continued."""
    return Piece(text) if unfinished else Piece(text + end, supervised=True)


def markers(text: str) -> str:
    """The markers of a text alone, in order."""
    places = sorted((at, marker) for marker in MARKERS.values() for at in _places(text, marker))
    return "".join(marker for _, marker in places)


def _places(text: str, word: str) -> list[int]:
    found, at = [], text.find(word)
    while at >= 0:
        found.append(at)
        at = text.find(word, at + len(word))
    return found


def media_first(text: str) -> str:
    r"""A single marker at the front, on a line of its own: "what is <image>?" -> "<image>\nwhat is ?"; several stay."""
    marker = markers(text)
    if marker not in MARKERS.values():
        return text
    return f"{marker}\n{text.replace(marker, '').strip()}".strip()


def with_system(messages: Sequence[Message], system: str) -> list[Message]:
    """Messages with what the system says first, where they do not say it themselves."""
    said = [Message("system", system)] if system and messages[0].role != "system" else []
    return [*said, *messages]


def in_turn(messages: Sequence[Message], template: str) -> tuple[str | None, list[tuple[str, str | None]]]:
    """What the system says, where it does, and the questions with their answers; the last may have none yet."""
    system = messages[0].text if messages[0].role == "system" else None
    turns = messages[system is not None :]
    for number, message in enumerate(turns):
        expected = "assistant" if number % 2 else "user"
        if message.role != expected:
            raise ItemError(
                f"template {template} takes user and assistant in turn, and system first only; message {number + 1} (without "
                f"the system's) is the {message.role}'s, not the {expected}'s; join what one side says, or choose template chatml",
                "roles",
            )
    if not turns:
        raise ItemError(f"template {template} needs a message of the user; got the system's alone", "roles")
    answers = [*(message.text for message in turns[1::2]), *([None] if len(turns) % 2 else [])]
    return system, list(zip((message.text for message in turns[::2]), answers, strict=True))
