"""Changes to conversations before they prompt a model: few-shot examples, instructions, removal of images and audio."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from zoo.data.system_processor import conversation_of
from zoo.errors import ConfigError
from zoo.processors.chat.messages import MARKERS, Conversation, Message, without_markers
from zoo.processors.chat.template_pieces import markers
from zoo.processors.media.image_file import open_image
from zoo.processors.media.video_file import Video, is_video, read_video
from zoo.types import Split

BLINDS = ("blank", "left_out")
GREY = 128  # of 0 to 255
SILENCE_SAMPLES = 16000  # one second at 16 kHz


def asked_in(sample: Any) -> Conversation:
    """Return the conversation of a sample up to its last question; for an image or clip with a caption, a prompt that shows it.

    Raises:
        DataError: the sample has neither a conversation nor a caption, or the conversation has no question.
    """
    return conversation_of(sample).question()


def with_words(conversation: Conversation, words: str) -> Conversation:
    """Append ``words`` to the last message, on a new line; an empty string changes nothing."""
    if not words:
        return conversation
    *before, last = conversation.messages
    return replace(conversation, messages=(*before, Message(last.role, f"{last.text}\n{words}")))


def followed(conversation: Conversation, answer: str, question: str) -> Conversation:
    """Append the assistant's answer and the user's next question; if the answer is empty, extend the last message by the question."""
    if not answer.strip():
        return with_words(conversation, question)
    said = Message("assistant", without_markers(answer))  # a model may spell a marker letter by letter
    return replace(conversation, messages=(*conversation.messages, said, Message("user", question)))


def asked_instead(conversation: Conversation, words: str) -> Conversation:
    """Replace the text of the user's last message; its images and clips stay in front."""
    *before, last = conversation.messages
    return replace(conversation, messages=(*before, Message(last.role, f"{markers(last.text)}\n{words}")))


def begun(conversation: Conversation, words: str) -> Conversation:
    """Begin the assistant's answer with ``words`` ("An image of"), so that the model continues it; an empty string changes nothing."""
    return replace(conversation, messages=(*conversation.messages, Message("assistant", words))) if words else conversation


def answer_begins(conversation: Conversation, words: str) -> Conversation:
    """Put ``words`` before the answer of an answered conversation: "a dog" -> "An image of a dog"."""
    *before, last = conversation.messages
    return replace(conversation, messages=(*before, Message(last.role, f"{words} {last.text}"))) if words else conversation


def with_examples(conversation: Conversation, examples: Sequence[Conversation]) -> Conversation:
    """Put answered conversations, with their images and clips, before a question; the question's system message stays first."""
    system = tuple(message for message in conversation.messages if message.role == "system")
    shown = [message for example in examples for message in example.messages if message.role != "system"]
    asked = [message for message in conversation.messages if message.role != "system"]
    images = [image for each in (*examples, conversation) for image in each.images]
    audio = [clip for each in (*examples, conversation) for clip in each.audio]
    return replace(conversation, messages=(*system, *shown, *asked), images=tuple(images), audio=tuple(audio))


class Examples:
    """Few-shot examples: answered items of a split, drawn for each question as a pure function of seed and item.

    Args:
        split: the split to draw the examples from.
        number: number of examples for each question.
        asked: True if the questions are from the same split; an item is then never its own example.

    Raises:
        ConfigError: the split has fewer items than examples are requested.
    """

    def __init__(self, split: Split, number: int, *, seed: int, asked: bool) -> None:
        if number > len(split) - asked:
            raise ConfigError(
                f"evaluation.num_shots: {number} examples, but only {len(split) - asked} items to draw them from; lower it, or choose "
                "another shots_split"
            )
        self.split, self.number, self.seed, self.asked = split, number, seed, asked

    def __call__(self, index: int) -> list[Conversation]:
        """Return the examples for item ``index``."""
        return [conversation_of(self.split.sample(row)) for row in self.rows(index)]

    def rows(self, index: int) -> list[int]:
        """Return the indices of the examples for item ``index``."""
        generator = np.random.default_rng((self.seed, index))
        drawn = generator.choice(len(self.split) - self.asked, self.number, replace=False)
        return [int(row) + int(self.asked and row >= index) for row in drawn]  # skip the item itself


def examples_of(source: Any, split: str, number: int, shots_split: str, seed: int) -> Examples | None:
    """Return the few-shot examples from ``shots_split`` for questions of ``split``; None if ``number`` is 0."""
    return Examples(source.split(shots_split), number, seed=seed, asked=split == shots_split) if number else None


def blinded(conversation: Conversation, how: str) -> Conversation:
    """Remove the content of images and audio from a conversation.

    Args:
        how: "blank": replace images by grey ones of the same size and clips by silence of the same length (one second for a file).
            "left_out": remove images, clips and their markers.
    """
    if how == "blank":
        images, audio = tuple(map(_grey, conversation.images)), tuple(map(_silence, conversation.audio))
        return replace(conversation, images=images, audio=audio)
    messages = []
    for message in conversation.messages:
        text = message.text
        for marker in MARKERS.values():
            text = text.replace(f"{marker}\n", "").replace(f"\n{marker}", "").replace(marker, "")
        messages.append(Message(message.role, text))
    return replace(conversation, messages=tuple(messages), images=(), audio=())


def _grey(image: Any) -> Any:
    if is_video(image):
        video = image if isinstance(image, Video) else read_video(image)
        return replace(video, frames=tuple(replace(frame, pixels=torch.full_like(frame.pixels, GREY)) for frame in video.frames))
    if isinstance(image, np.ndarray):
        return np.full_like(image, GREY)
    if isinstance(image, torch.Tensor):
        return torch.full_like(image, GREY)
    return Image.new("RGB", open_image(image).size, (GREY, GREY, GREY))


def _silence(clip: Any) -> Any:
    """Return silence as long as the clip; for a file, whose length is unknown here, 16000 samples."""
    if isinstance(clip, torch.Tensor):
        return torch.zeros_like(clip)
    return np.zeros(SILENCE_SAMPLES if isinstance(clip, str | Path | bytes) else len(clip), dtype=np.float32)
