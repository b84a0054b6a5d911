"""Videos in conversations: pictures in place of a video for systems that take no video as one item."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.processors.chat.messages import MARKERS, Conversation, Message
from zoo.processors.media.video_file import Frame, Video, is_video, read_video
from zoo.types import Tiler

MARKER = MARKERS["image"]


def with_frames(conversation: Conversation, tiler: Tiler | None) -> Conversation:
    """Return the conversation with its video files decoded.

    Args:
        tiler: if it takes frames, a video stays one item; otherwise its pictures, each of one frame or of as many as the tiler joins, have
            their own markers, with the tiler's text before each.

    Raises:
        DataError: a video cannot be read.
    """
    if not any(is_video(raw) for raw in conversation.images):
        return conversation
    images = [read_video(raw) if isinstance(raw, Path) and is_video(raw) else raw for raw in conversation.images]
    if tiler is not None and tiler.takes_frames:
        return replace(conversation, images=tuple(images))
    pictures: list[Sequence[Any]] = [_pictures(raw, tiler) if isinstance(raw, Video) else [raw] for raw in images]
    shown = zip(images, pictures, strict=True)
    written = iter([_lines(found, tiler) if isinstance(raw, Video) else MARKER for raw, found in shown])
    timed = tiler is not None and not tiler.frame_break
    messages = tuple(Message(message.role, _replaced(message.text, written, timed)) for message in conversation.messages)
    return replace(conversation, messages=messages, images=tuple(picture for found in pictures for picture in found))


def _pictures(video: Video, tiler: Tiler | None) -> Sequence[Frame | Video]:
    """Return the pictures of a video: its frames, or parts of it if the tiler joins frames."""
    return video.frames if tiler is None or not tiler.takes_videos else video.parts(tiler.frames)


def _lines(pictures: Sequence[Frame | Video], tiler: Tiler | None) -> str:
    """Return the text that stands for the pictures of a video."""
    before, between = ("", "\n") if tiler is None else (tiler.frame_text, tiler.frame_break)
    texts = [before.format(number=number, seconds=_seconds(picture)) + MARKER for number, picture in enumerate(pictures, 1)]
    return between.join(texts)


def _seconds(picture: Frame | Video) -> float:
    """Return the time of a picture in its video: of several frames, the middle of the first and the last."""
    ends = (picture.frames[0], picture.frames[-1]) if isinstance(picture, Video) else (picture, picture)
    return (ends[0].seconds + ends[1].seconds) / 2


def _replaced(text: str, written: Iterator[str], timed: bool) -> str:
    """Replace each marker of a text by the next of ``written``.

    Args:
        written: a marker, or the text of a video.
        timed: leave out a line break before the text of a video; chat templates of tokenizers leave it out before a marker, which that text
            replaces.
    """
    found, *rest = text.split(MARKER)
    for piece in rest:
        new = next(written)
        found = (found.removesuffix("\n") if timed and new != MARKER else found) + new + piece
    return found
