"""Conversations: messages with images and clips in them, and the ways in which people write them down.

A marker ``<image>`` or ``<audio>`` stands in the text for each picture and each clip, in order. References: the JSON of
haotian-liu/LLaVA ("conversations" of "from" and "value") and the messages of transformers and OpenAI ("role" and "content").
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from zoo.errors import ItemError

ROLES = ("system", "user", "assistant", "document")  # a document is said by nobody: all of it is learnt
ALIASES = {"human": "user", "gpt": "assistant", "model": "assistant"}  # LLaVA's, Gemma's
MARKERS = {"image": "<image>", "audio": "<audio>"}
_SYMBOL = re.compile(rf"<(/?)({'|'.join(MARKERS)})>")
PLURALS = {"image": "images", "audio": "clips"}
MEDIA_KEYS = {"image": ("image", "images"), "audio": ("audio", "audios")}  # of a row of JSON
IMAGE_SUFFIXES = frozenset(".png .jpg .jpeg .webp .gif .bmp .tif .tiff".split())
AUDIO_SUFFIXES = frozenset(".wav .flac .ogg .opus .mp3 .m4a .aac".split())
AUDIO_BEGINNINGS = (b"RIFF", b"fLaC", b"OggS", b"ID3")  # of files in memory
EXPECTED = (
    "give a string, a list of strings, images and audio, messages with 'role' and 'content', or LLaVA's 'conversations' with 'from' "
    "and 'value'"
)


@dataclass(frozen=True)
class Message:
    """What one side says; ``role`` is one of ``ROLES``."""

    role: str
    text: str


@dataclass(frozen=True)
class Conversation:
    """Messages, and the pictures and clips whose markers stand in them, in order and still raw.

    Attributes:
        id: for messages to people: "conversation 3 holds 2 images but 1 `<image>`".

    Raises:
        ItemError: an unknown role, or another number of pictures or clips than of markers.
    """

    messages: tuple[Message, ...]
    images: tuple[Any, ...] = ()
    audio: tuple[Any, ...] = ()
    id: str = ""

    def __post_init__(self) -> None:
        if not self.messages:
            raise ItemError(f"{self.name} holds no message; {EXPECTED}", "conversation")
        for message in self.messages:
            if message.role not in ROLES:
                raise ItemError(
                    f"{self.name}: there is no role {message.role!r}; allowed are {', '.join((*ROLES, *ALIASES))}", "conversation"
                )
        for modality, marker in MARKERS.items():
            given, named = len(self.media(modality)), self.count(marker)
            if given != named:
                what = PLURALS[modality] if given != 1 else PLURALS[modality][:-1]
                raise ItemError(f"{self.name} holds {given} {what} but {named} `{marker}`; write the marker once for each", "markers")

    @property
    def name(self) -> str:
        """What it is called in an error."""
        return f"conversation {self.id}" if self.id else "a conversation"

    @property
    def answer(self) -> str:
        """What the assistant says last; empty where it has yet to speak."""
        return self.messages[-1].text if self.messages[-1].role == "assistant" else ""

    def media(self, modality: str) -> tuple[Any, ...]:
        """The raw pictures or clips."""
        return self.images if modality == "image" else self.audio

    def count(self, marker: str) -> int:
        """How often a marker stands in the texts."""
        return sum(message.text.count(marker) for message in self.messages)

    def question(self) -> "Conversation":
        """Without the assistant's last message, for it to say.

        Raises:
            ItemError: the assistant has not spoken last, or nobody has before.
        """
        if len(self.messages) < 2 or self.messages[-1].role != "assistant":
            raise ItemError(f"{self.name} does not end with an answer; its last message must be the assistant's", "conversation")
        kept = self.messages[:-1]
        images, audio = (sum(message.text.count(MARKERS[m]) for message in kept) for m in ("image", "audio"))
        return replace(self, messages=kept, images=self.images[:images], audio=self.audio[:audio])

    def prompt(self) -> list[Any]:
        """The question as a list of strings, images and audio in order (of the texts of all its messages)."""
        asked = self.question() if self.answer else self
        found, media = [], {modality: iter(asked.media(modality)) for modality in MARKERS}
        for word in _split_markers("\n".join(message.text for message in asked.messages)):
            modality = next((m for m, marker in MARKERS.items() if word == marker), None)
            found.append(word if modality is None else next(media[modality]))
        return found

    @classmethod
    def of_prompt(cls, prompt: Any, id: str = "", role: str = "user") -> "Conversation":
        """What a user says: a string, or strings, images and audio in order; beside a marker the text begins on a new line.

        Args:
            role: "document" where it is the beginning of one.

        Raises:
            ItemError: something that is neither text nor picture nor clip, or a string that is the name of such a file.
        """
        parts = [prompt] if isinstance(prompt, str) or media_kind(prompt) is not None else prompt
        if not isinstance(parts, list | tuple) or not parts:
            raise ItemError(f"prompt {id}: got {type(prompt).__name__}; {EXPECTED}".replace("prompt :", "a prompt:"), "conversation")
        text, found = _joined([_part(part) for part in parts])
        return cls((Message(role, text),), tuple(found["image"]), tuple(found["audio"]), id)

    @classmethod
    def of_document(cls, parts: Sequence[tuple[str, Any]], id: str = "") -> "Conversation":
        """A document of ("text", text), ("image", raw) and ("audio", raw) in order; what looks like a marker in its texts is none."""
        text = "\n".join(without_markers(value) if kind == "text" else MARKERS[kind] for kind, value in parts)
        found = {modality: [value for kind, value in parts if kind == modality] for modality in MARKERS}
        return cls((Message("document", text),), tuple(found["image"]), tuple(found["audio"]), id)

    @classmethod
    def of_caption(cls, text: str, *, images: Sequence[Any] = (), audio: Sequence[Any] = (), id: str = "") -> "Conversation":
        """Pictures and clips that the user shows, and what the assistant says to them (LLaVA's first stage)."""
        shown = MARKERS["image"] * len(images) + MARKERS["audio"] * len(audio)
        messages = (*((Message("user", shown),) if shown else ()), Message("assistant", text))
        return cls(messages, tuple(images), tuple(audio), id)

    @classmethod
    def parse(cls, row: Any, folder: str | Path | None = None, id: str = "") -> "Conversation":
        """A row of JSON: LLaVA's, or messages whose content is a string or a list of parts.

        Args:
            folder: that paths of pictures and clips are relative to.

        Raises:
            ItemError: it is not that.
        """
        row = {"messages": row} if isinstance(row, list | tuple) else row
        if not isinstance(row, Mapping):
            raise ItemError(f"{_named(id)}: is {type(row).__name__}; {EXPECTED}", "conversation")
        id = id or str(row.get("id", ""))
        keys = next((keys for keys in (("conversations", "from", "value"), ("messages", "role", "content")) if keys[0] in row), None)
        if keys is None or not isinstance(row[keys[0]], list | tuple) or not row[keys[0]]:
            raise ItemError(
                f"{_named(id)}: has no list 'messages' or 'conversations'; its keys are {', '.join(map(str, row))}", "conversation"
            )
        listed = {modality: [_located(value, folder, id) for value in _listed(row, modality)] for modality in MARKERS}
        return _of_messages(row[keys[0]], keys[1:], listed, folder, id)


def as_conversation(raw: Any, id: str = "", role: str = "user") -> Conversation:
    """A conversation of anything that people give: one, a string, a list of parts, a list of messages, a row of JSON.

    Args:
        role: whose a string or a list of parts is.

    Raises:
        ItemError: it is none of these, or does not fit together.
    """
    if isinstance(raw, Conversation):
        return raw if raw.id else replace(raw, id=id)
    if isinstance(raw, Mapping):
        return Conversation.parse(raw, id=id)
    if isinstance(raw, list | tuple) and raw and all(isinstance(part, Message) for part in raw):
        return Conversation(tuple(raw), id=id)
    if isinstance(raw, list | tuple) and raw and all(isinstance(part, Mapping) for part in raw):
        return Conversation.parse(raw, id=id)
    return Conversation.of_prompt(raw, id, role)


def without_markers(text: str) -> str:
    """A text of the world, in which ``<image>`` or ``</image>`` is spelt so that no tokenizer takes it for a symbol: ``< image>``."""
    return _SYMBOL.sub(r"< \1\2>", text)


def media_kind(raw: Any) -> str | None:
    """The modality of what can be a picture or a clip; None for anything else, strings among them."""
    if isinstance(raw, Path):
        return "audio" if raw.suffix.lower() in AUDIO_SUFFIXES else "image"
    if isinstance(raw, bytes):
        return "audio" if raw.startswith(AUDIO_BEGINNINGS) else "image"
    if isinstance(raw, Image.Image):
        return "image"
    if isinstance(raw, np.ndarray | torch.Tensor):
        return "image" if raw.dtype in (np.uint8, torch.uint8) else "audio"
    return None


def _of_messages(
    rows: Sequence[Any], keys: Sequence[str], listed: dict[str, list[Any]], folder: str | Path | None, id: str
) -> Conversation:
    """Messages of JSON; pictures and clips within them, or those listed beside them in the order of the markers."""
    who, what = keys
    messages, found = [], {modality: iter(values) for modality, values in listed.items()}
    media: dict[str, list[Any]] = {modality: [] for modality in MARKERS}
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or who not in row or what not in row:
            raise ItemError(f"{_named(id)}: message {number + 1} has no {who!r} and {what!r}", "conversation")
        role, content = row[who], row[what]
        if isinstance(content, str):
            text = content
            for modality, marker in MARKERS.items():
                media[modality] += [value for _, value in zip(range(text.count(marker)), found[modality], strict=False)]
        elif isinstance(content, list | tuple):
            text, parts = _joined([_json_part(part, found, folder, id) for part in content])
            for modality in MARKERS:
                media[modality] += parts[modality]
        else:
            raise ItemError(f"{_named(id)}: message {number + 1} holds {type(content).__name__}; a text is a string", "conversation")
        messages.append(Message(ALIASES.get(role, role) if isinstance(role, str) else repr(role), text))
    rest = {modality: list(values) for modality, values in found.items()}  # more than markers, which the conversation refuses
    return Conversation(tuple(messages), (*media["image"], *rest["image"]), (*media["audio"], *rest["audio"]), id)


def _part(raw: Any) -> tuple[str, Any]:
    """("text", text) or (modality, raw) of one part of a prompt."""
    if isinstance(raw, str):
        suffix = Path(raw[-8:]).suffix.lower()
        if suffix in IMAGE_SUFFIXES | AUDIO_SUFFIXES and "\n" not in raw and Path(raw).is_file():
            raise ItemError(
                f"a prompt holds {raw!r} as text, which is the name of a file; give pathlib.Path({raw!r}) for what is in it", "path"
            )
        return "text", raw
    kind = media_kind(raw)
    if kind is None:
        raise ItemError(f"a prompt holds {type(raw).__name__}; {EXPECTED}", "conversation")
    return kind, raw


def _json_part(part: Any, listed: Mapping[str, Any], folder: str | Path | None, id: str) -> tuple[str, Any]:
    """One element of a content list: ``{"type": "image", "path": ...}``, or without a path the next one that is listed."""
    if isinstance(part, str):
        return "text", part
    kind = part.get("type") if isinstance(part, Mapping) else None
    kind = {"image_url": "image", "audio_url": "audio", "input_audio": "audio"}.get(str(kind), kind)
    if kind == "text" and isinstance(part.get("text"), str):
        return "text", part["text"]
    if kind not in MARKERS:
        raise ItemError(f"{_named(id)}: a part of a message is {str(part)[:60]}; allowed types are text, image, audio", "conversation")
    value = next((part[key] for key in (kind, "path", "url", f"{kind}_url") if part.get(key) is not None), None)
    value = value.get("url") if isinstance(value, Mapping) else value
    if value is None:
        value = next(listed[str(kind)], None)
    if value is None:
        raise ItemError(f"{_named(id)}: a part of type {kind!r} names no file; give it as {kind!r} or 'path'", "markers")
    return str(kind), _located(value, folder, id)


def _joined(parts: Sequence[tuple[str, Any]]) -> tuple[str, dict[str, list[Any]]]:
    """One text with markers: a marker and a text beside it are kept apart by a new line, unless there is a space already."""
    text, found = "", {modality: [] for modality in MARKERS}
    before = ""
    for kind, value in parts:
        word = value if kind == "text" else MARKERS[kind]
        if text and word and {kind, before} != {kind} and not text[-1].isspace() and not word[0].isspace():
            text += "\n"
        text += word
        before = kind
        if kind != "text":
            found[kind].append(value)
    return text, found


def _split_markers(text: str) -> list[str]:
    """A text in pieces, each a marker or what stands between two."""
    pieces = [text]
    for marker in MARKERS.values():
        pieces = [
            word
            for piece in pieces
            for number, part in enumerate(piece.split(marker) if piece not in MARKERS.values() else [piece])
            for word in ([marker] if number else []) + [part]
        ]
    stripped = (piece.strip("\n") for piece in pieces)
    return [piece for piece in stripped if piece]


def _listed(row: Mapping[str, Any], modality: str) -> list[Any]:
    """What a row names beside its messages: one, or a list."""
    value = next((row[key] for key in MEDIA_KEYS[modality] if row.get(key) is not None), [])
    return list(value) if isinstance(value, list | tuple) else [value]


def _located(value: Any, folder: str | Path | None, id: str) -> Any:
    """A path of JSON as one that can be opened; what is no string stays."""
    if not isinstance(value, str):
        return value
    if value.startswith(("http://", "https://", "data:")):
        raise ItemError(f"{_named(id)}: {value[:60]!r} is an address; download it and name the file", "path")
    return Path(folder or "", value.removeprefix("file://"))


def _named(id: str) -> str:
    return f"conversation {id}" if id else "a conversation"
