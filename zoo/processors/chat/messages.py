"""Conversations: messages that contain images and audio clips, and parsers for the usual formats.

In the text, a marker ``<image>`` or ``<audio>`` marks the position of each image and each clip, in order. References: the JSON of
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
from zoo.processors.media.tiles import Tiles
from zoo.processors.media.video_file import VIDEO_SUFFIXES, Frame, Video
from zoo.storage.outside import shown

ROLES = ("system", "user", "assistant", "document")  # "document" has no speaker; every token is supervised
ALIASES = {"human": "user", "gpt": "assistant", "model": "assistant"}  # role names of LLaVA (human, gpt) and Gemma (model)
MARKERS = {"image": "<image>", "audio": "<audio>"}
_SYMBOL = re.compile(rf"<(/?)({'|'.join(MARKERS)})>")
PLURALS = {"image": "images", "audio": "clips"}
MEDIA_KEYS = {"image": ("image", "images"), "audio": ("audio", "audios")}  # keys in a JSON row
IMAGE_SUFFIXES = frozenset(".png .jpg .jpeg .webp .gif .bmp .tif .tiff".split())
AUDIO_SUFFIXES = frozenset(".wav .flac .ogg .opus .mp3 .m4a .aac".split())
AUDIO_BEGINNINGS = (b"RIFF", b"fLaC", b"OggS", b"ID3")  # first bytes of audio files
KINDS = {"image_url": "image", "video_url": "video", "audio_url": "audio", "input_audio": "audio"}  # further types of parts
EXPECTED = (
    "give a string, a list of strings, images and audio, messages with 'role' and 'content', or LLaVA's 'conversations' with 'from' "
    "and 'value'"
)


@dataclass(frozen=True)
class Message:
    """One message of a conversation; ``role`` is one of ``ROLES``."""

    role: str
    text: str


@dataclass(frozen=True)
class Conversation:
    """Messages and their raw images and clips, in the order of the markers.

    Attributes:
        messages: the messages, first to last.
        images: one raw image per ``<image>`` marker.
        audio: one raw clip per ``<audio>`` marker.
        id: name of the conversation in error messages, as in "conversation 3 holds 2 images but 1 `<image>`".

    Raises:
        ItemError: there is no message, a role is unknown, or the numbers of media and markers differ.
    """

    messages: tuple[Message, ...]
    images: tuple[Any, ...] = ()
    audio: tuple[Any, ...] = ()
    id: str = ""

    def __post_init__(self) -> None:
        if not self.messages:
            raise ItemError(f"{self.name} has no messages; {EXPECTED}", "conversation")
        for message in self.messages:
            if message.role not in ROLES:
                raise ItemError(
                    f"{self.name}: there is no role {message.role!r}; allowed are {', '.join((*ROLES, *ALIASES))}", "conversation"
                )
        for modality, marker in MARKERS.items():
            given, named = len(self.media(modality)), self.count(marker)
            if given != named:
                noun = PLURALS[modality] if given != 1 else PLURALS[modality][:-1]
                raise ItemError(f"{self.name} holds {given} {noun} but {named} `{marker}`; write the marker once for each", "markers")

    @property
    def name(self) -> str:
        """Name of the conversation for error messages."""
        return f"conversation {self.id}" if self.id else "a conversation"

    @property
    def answer(self) -> str:
        """Text of the last message if it is the assistant's, otherwise empty."""
        return self.messages[-1].text if self.messages[-1].role == "assistant" else ""

    def media(self, modality: str) -> tuple[Any, ...]:
        """Return the raw inputs of one modality, "image" or "audio"."""
        return self.images if modality == "image" else self.audio

    def count(self, marker: str) -> int:
        """Return the number of occurrences of ``marker`` in all messages."""
        return sum(message.text.count(marker) for message in self.messages)

    def question(self) -> "Conversation":
        """Return the conversation without its last message, the assistant's answer, so that a model can generate it.

        Raises:
            ItemError: the last message is not the assistant's, or it is the only one.
        """
        if len(self.messages) < 2 or self.messages[-1].role != "assistant":
            raise ItemError(f"{self.name} does not end with an answer; its last message must be the assistant's", "conversation")
        kept = self.messages[:-1]
        images, audio = (sum(message.text.count(MARKERS[m]) for message in kept) for m in ("image", "audio"))
        return replace(self, messages=kept, images=self.images[:images], audio=self.audio[:audio])

    def prompt(self) -> list[Any]:
        """Return the texts of all messages, without a final answer, as one list of strings, images and audio in order."""
        question = self.question() if self.answer else self
        found, media = [], {modality: iter(question.media(modality)) for modality in MARKERS}
        for piece in _split_markers("\n".join(message.text for message in question.messages)):
            modality = next((m for m, marker in MARKERS.items() if piece == marker), None)
            found.append(piece if modality is None else next(media[modality]))
        return found

    @classmethod
    def of_prompt(cls, prompt: Any, id: str = "", role: str = "user") -> "Conversation":
        """Make a conversation of one message from a string, or from strings, images and audio in order.

        A marker and a text beside it are separated by a line break.

        Args:
            prompt: a string, one image or clip, or a list of them.
            id: name of the conversation in error messages.
            role: role of the message; "document" if the prompt is the beginning of a document.

        Raises:
            ItemError: a part is not text, image or audio, or a string is the name of an image or audio file.
        """
        parts = [prompt] if isinstance(prompt, str) or media_kind(prompt) is not None else prompt
        if not isinstance(parts, list | tuple) or not parts:
            raise ItemError(f"prompt {id}: got {type(prompt).__name__}; {EXPECTED}".replace("prompt :", "a prompt:"), "conversation")
        text, found = _joined([_part(part) for part in parts])
        return cls((Message(role, text),), tuple(found["image"]), tuple(found["audio"]), id)

    @classmethod
    def of_document(cls, parts: Sequence[tuple[str, Any]], id: str = "") -> "Conversation":
        """Make a document from parts ("text", text), ("image", raw) and ("audio", raw) in order.

        Strings in the texts that look like markers are escaped (see ``without_markers``).
        """
        text = "\n".join(without_markers(value) if kind == "text" else MARKERS[kind] for kind, value in parts)
        found = {modality: [value for kind, value in parts if kind == modality] for modality in MARKERS}
        return cls((Message("document", text),), tuple(found["image"]), tuple(found["audio"]), id)

    @classmethod
    def of_caption(cls, text: str, *, images: Sequence[Any] = (), audio: Sequence[Any] = (), id: str = "") -> "Conversation":
        """Make a conversation in which the user shows images and clips and the assistant answers with a caption (LLaVA's first stage)."""
        shown = MARKERS["image"] * len(images) + MARKERS["audio"] * len(audio)
        messages = (*((Message("user", shown),) if shown else ()), Message("assistant", text))
        return cls(messages, tuple(images), tuple(audio), id)

    @classmethod
    def parse(cls, row: Any, folder: str | Path | None = None, id: str = "") -> "Conversation":
        """Parse a JSON row: LLaVA's format, or messages whose content is a string or a list of parts.

        Args:
            row: the row, or its list of messages.
            folder: folder to which relative paths of images and clips refer.
            id: name of the conversation in error messages; empty takes the row's own "id".

        Raises:
            ItemError: the row has another format, or its parts do not fit together.
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
    """Convert any accepted input to a conversation.

    Args:
        raw: a ``Conversation``, a string, a list of parts, a list of messages, or a JSON row.
        id: name of the conversation in error messages, unless ``raw`` has one.
        role: role of the message made from a string or a list of parts.

    Raises:
        ItemError: ``raw`` has another type, or its parts do not fit together.
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
    """Escape markers in an external text: ``<image>`` becomes ``< image>``, so that no tokenizer reads it as a special token."""
    return _SYMBOL.sub(r"< \1\2>", text)


def media_kind(raw: Any) -> str | None:
    """Return "image" or "audio" for an input that can be an image or a clip, otherwise None (also for strings).

    Arrays and tensors of bytes (uint8) count as images, all others as audio.
    """
    if isinstance(raw, Path):
        return "audio" if raw.suffix.lower() in AUDIO_SUFFIXES else "image"
    if isinstance(raw, bytes):
        return "audio" if raw.startswith(AUDIO_BEGINNINGS) else "image"
    if isinstance(raw, Image.Image | Tiles | Frame | Video):
        return "image"
    if isinstance(raw, np.ndarray | torch.Tensor):
        return "image" if raw.dtype in (np.uint8, torch.uint8) else "audio"
    return None


def _of_messages(
    rows: Sequence[Any], keys: Sequence[str], listed: dict[str, list[Any]], folder: str | Path | None, id: str
) -> Conversation:
    """Make a conversation from JSON messages.

    Args:
        rows: the messages.
        keys: the keys of role and content in each message.
        listed: media that the row lists beside its messages, by modality; markers take them in order.
        folder: folder to which relative paths refer.
        id: name of the conversation in error messages.
    """
    role_key, content_key = keys
    messages, found = [], {modality: iter(values) for modality, values in listed.items()}
    media: dict[str, list[Any]] = {modality: [] for modality in MARKERS}
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or role_key not in row or content_key not in row:
            raise ItemError(f"{_named(id)}: message {number + 1} has no {role_key!r} and {content_key!r}", "conversation")
        role, content = row[role_key], row[content_key]
        if isinstance(content, str):
            text = content
            for modality, marker in MARKERS.items():
                media[modality] += [value for _, value in zip(range(text.count(marker)), found[modality], strict=False)]
        elif isinstance(content, list | tuple):
            text, parts = _joined([_json_part(part, found, folder, id) for part in content])
            for modality in MARKERS:
                media[modality] += parts[modality]
        else:
            raise ItemError(
                f"{_named(id)}: message {number + 1} holds {type(content).__name__}; {content_key!r} is a string or a list of parts",
                "conversation",
            )
        messages.append(Message(ALIASES.get(role, role) if isinstance(role, str) else repr(role), text))
    rest = {modality: list(values) for modality, values in found.items()}  # media without marker; Conversation raises
    return Conversation(tuple(messages), (*media["image"], *rest["image"]), (*media["audio"], *rest["audio"]), id)


def _part(raw: Any) -> tuple[str, Any]:
    """Return ("text", text) or (modality, raw) for one part of a prompt; raise ItemError for anything else."""
    if isinstance(raw, str):
        suffix = Path(raw[-8:]).suffix.lower()  # the end only, because a long text is not a valid path
        if suffix in {*IMAGE_SUFFIXES, *AUDIO_SUFFIXES, *VIDEO_SUFFIXES} and "\n" not in raw and Path(raw).is_file():
            raise ItemError(
                f"a prompt holds {raw!r} as text, which is the name of a file; give pathlib.Path({raw!r}) to use the file", "path"
            )
        return "text", raw
    kind = media_kind(raw)
    if kind is None:
        raise ItemError(f"a prompt holds {type(raw).__name__}; {EXPECTED}", "conversation")
    return kind, raw


def _json_part(part: Any, listed: Mapping[str, Any], folder: str | Path | None, id: str) -> tuple[str, Any]:
    """Parse one element of a content list: ``{"type": "image", "path": ...}``; without a path it takes the next listed medium."""
    if isinstance(part, str):
        return "text", part
    kind = part.get("type") if isinstance(part, Mapping) else None
    kind = KINDS.get(str(kind), kind)
    if kind == "text" and isinstance(part.get("text"), str):
        return "text", part["text"]
    if not isinstance(kind, str) or kind not in (*MARKERS, "video"):
        raise ItemError(
            f"{_named(id)}: a part of a message is {str(part)[:60]}; allowed types are text, image, video, audio", "conversation"
        )
    value = next((part[key] for key in (kind, "path", "url", f"{kind}_url") if part.get(key) is not None), None)
    value = value.get("url") if isinstance(value, Mapping) else value
    if value is None and kind in MARKERS:
        value = next(listed[kind], None)
    if value is None:
        raise ItemError(f"{_named(id)}: a part of type {kind!r} names no file; add the key {kind!r} or 'path'", "markers")
    if isinstance(value, Mapping | list | int | float):  # JSON; from Python a path, picture or array is allowed
        raise ItemError(f"{_named(id)}: a part of type {kind!r} has the path {shown(value, 60)}; allowed is a text", "conversation")
    return "image" if kind == "video" else kind, _located(value, folder, id)


def _joined(parts: Sequence[tuple[str, Any]]) -> tuple[str, dict[str, list[Any]]]:
    """Join parts to one text with markers; return it with the media by modality.

    A line break separates a marker from a text beside it, unless white space does already.
    """
    text, found = "", {modality: [] for modality in MARKERS}
    before = ""
    for kind, value in parts:
        piece = value if kind == "text" else MARKERS[kind]
        if text and piece and {kind, before} != {kind} and not text[-1].isspace() and not piece[0].isspace():
            text += "\n"
        text += piece
        before = kind
        if kind != "text":
            found[kind].append(value)
    return text, found


def _split_markers(text: str) -> list[str]:
    """Split a text into markers and the texts between them; empty texts are dropped."""
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
    """Return the media of one modality that a row lists beside its messages."""
    value = next((row[key] for key in MEDIA_KEYS[modality] if row.get(key) is not None), [])
    return list(value) if isinstance(value, list | tuple) else [value]


def _located(value: Any, folder: str | Path | None, id: str) -> Any:
    """Resolve a path from JSON against ``folder``; return values that are not strings unchanged.

    Raises:
        ItemError: the value is a URL, because nothing is downloaded.
    """
    if not isinstance(value, str):
        return value
    if value.startswith(("http://", "https://", "data:")):
        raise ItemError(f"{_named(id)}: {value[:60]!r} is an address (URL); download it and give the file's path", "path")
    return Path(folder or "", value.removeprefix("file://"))


def _named(id: str) -> str:
    return f"conversation {id}" if id else "a conversation"
