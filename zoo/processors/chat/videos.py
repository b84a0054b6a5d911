"""Videos in conversations: frames in place of a video for systems that take pictures only."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from zoo.processors.chat.messages import MARKERS, Conversation, Message
from zoo.processors.media.video_file import Video, is_video, read_video

MARKER = MARKERS["image"]


def with_frames(conversation: Conversation, *, as_one: bool) -> Conversation:
    """Return the conversation with its video files decoded.

    Args:
        as_one: True keeps a video as one item; False puts each frame in its place as a picture, with its own marker on its own line.

    Raises:
        DataError: a video cannot be read.
    """
    if not any(is_video(raw) for raw in conversation.images):
        return conversation
    images = [read_video(raw) if isinstance(raw, Path) and is_video(raw) else raw for raw in conversation.images]
    if as_one:
        return replace(conversation, images=tuple(images))
    numbers = iter([len(raw.frames) if isinstance(raw, Video) else 1 for raw in images])
    messages = tuple(Message(message.role, _lengthened(message.text, numbers)) for message in conversation.messages)
    frames = [frame for raw in images for frame in (raw.frames if isinstance(raw, Video) else [raw])]
    return replace(conversation, messages=messages, images=tuple(frames))


def _lengthened(text: str, numbers: Iterator[int]) -> str:
    """Repeat each marker of a text as often as the next number says."""
    first, *rest = text.split(MARKER)
    return first + "".join("\n".join([MARKER] * next(numbers)) + piece for piece in rest)
