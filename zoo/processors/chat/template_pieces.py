"""Building blocks of chat templates: pieces of text, a tokenizer's special tokens, and the markers of images and audio clips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from zoo.errors import ItemError
from zoo.processors.chat.messages import MARKERS, Message


@dataclass(frozen=True)
class Piece:
    """A part of the text; the model is trained to predict it if ``supervised``."""

    text: str
    supervised: bool = False


@dataclass(frozen=True)
class Symbols:
    """Special tokens of a tokenizer.

    Attributes:
        names: tokens by transformers' names, which Jinja templates use: ``{"bos_token": "<s>", "eos_token": "</s>"}``.
        starts: True if the tokenizer begins every text with ``bos_token``.
        special: the strings of all special tokens.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    starts: bool = False
    special: frozenset[str] = frozenset()

    @property
    def bos(self) -> str:
        """Token that begins a text; empty if the tokenizer has none."""
        return self.names.get("bos_token", "")

    @property
    def eos(self) -> str:
        """Token that ends a text; empty if the tokenizer has none."""
        return self.names.get("eos_token", "")

    @property
    def start(self) -> str:
        """Token that the tokenizer itself puts before every text; empty if it puts none."""
        return self.bos if self.starts else ""


@runtime_checkable
class ChatTemplate(Protocol):
    """Protocol of chat templates, which render messages as pieces of text.

    ``end`` is the string that ends an answer. With ``for_generation``, the text ends with the assistant's prefix if the last message is
    the user's; if it is the assistant's, the text ends with this unfinished answer, which the model continues.
    """

    @property
    def end(self) -> str: ...

    def pieces(self, messages: Sequence[Message], *, for_generation: bool = False) -> list[Piece]: ...


def answer_piece(text: str, end: str, unfinished: bool) -> Piece:
    """Return an answer as a supervised piece with its end; if ``unfinished``, without end and unsupervised, to be continued."""
    return Piece(text) if unfinished else Piece(text + end, supervised=True)


def markers(text: str) -> str:
    """Return only the markers of a text, in order, as one string."""
    places = sorted((at, marker) for marker in MARKERS.values() for at in _places(text, marker))
    return "".join(marker for _, marker in places)


def _places(text: str, word: str) -> list[int]:
    found, at = [], text.find(word)
    while at >= 0:
        found.append(at)
        at = text.find(word, at + len(word))
    return found


def media_first(text: str) -> str:
    r"""Move a single marker to a separate first line: "what is <image>?" -> "<image>\nwhat is ?"; several markers stay in place."""
    marker = markers(text)
    if marker not in MARKERS.values():
        return text
    return f"{marker}\n{text.replace(marker, '').strip()}".strip()


def with_system(messages: Sequence[Message], system: str) -> list[Message]:
    """Return messages with a system message first; one that is already there stays."""
    added = [Message("system", system)] if system and messages[0].role != "system" else []
    return [*added, *messages]


def in_turn(messages: Sequence[Message], template: str) -> tuple[str | None, list[tuple[str, str | None]]]:
    """Split messages into the system message (None if missing) and pairs of question and answer.

    Args:
        template: name of the template, for the message.

    Returns:
        The system message and the pairs; the last answer is None if the last message is a question.

    Raises:
        ItemError: user and assistant do not alternate, or there is no message of the user.
    """
    system = messages[0].text if messages[0].role == "system" else None
    turns = messages[system is not None :]
    for number, message in enumerate(turns):
        expected = "assistant" if number % 2 else "user"
        if message.role != expected:
            raise ItemError(
                f"template {template} needs alternating user and assistant messages, after at most one system message; message "
                f"{number + 1} (not counting the system's) has the role {message.role}, expected {expected}; join consecutive messages "
                "of one role, or choose template chatml",
                "roles",
            )
    if not turns:
        raise ItemError(f"template {template} needs a user message; got only a system message", "roles")
    answers = [*(message.text for message in turns[1::2]), *([None] if len(turns) % 2 else [])]
    return system, list(zip((message.text for message in turns[::2]), answers, strict=True))
