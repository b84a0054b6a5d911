"""Videos in conversations: frames in place of a video for systems that take pictures only."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.processors.chat.messages import MARKERS, Conversation, Message
from zoo.processors.media.video_file import Video, is_video, read_video
from zoo.types import Tiler

MARKER = MARKERS["image"]


def with_frames(conversation: Conversation, tiler: Tiler | None) -> Conversation:
    """Return the conversation with its video files decoded.

    Args:
        tiler: if it takes frames, a video stays one item; otherwise each frame is a picture, with its own marker on its own line.

    Raises:
        DataError: a video cannot be read.
    """
    if not any(is_video(raw) for raw in conversation.images):
        return conversation
    images = [read_video(raw) if isinstance(raw, Path) and is_video(raw) else raw for raw in conversation.images]
    if tiler is not None and tiler.takes_frames:
        return replace(conversation, images=tuple(images))
    written = iter([_lines(raw, tiler) for raw in images])
    messages = tuple(Message(message.role, _replaced(message.text, written)) for message in conversation.messages)
    frames = [frame for raw in images for frame in (raw.frames if isinstance(raw, Video) else [raw])]
    return replace(conversation, messages=messages, images=tuple(frames))


def _lines(raw: Any, tiler: Tiler | None) -> str:
    """Return the text that stands for a picture, or for the frames of a video."""
    if not isinstance(raw, Video):
        return MARKER
    before = "" if tiler is None else tiler.frame_text
    return "\n".join(before.format(number=number) + MARKER for number in range(1, len(raw.frames) + 1))


def _replaced(text: str, written: Iterator[str]) -> str:
    """Replace each marker of a text by the next of ``written``."""
    first, *rest = text.split(MARKER)
    return first + "".join(next(written) + piece for piece in rest)
