"""Conversations changed before they are asked: examples before the question, words behind it, pictures taken away."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from zoo.data.loader import Split
from zoo.data.system_processor import conversation_of
from zoo.errors import ConfigError
from zoo.processors.chat.messages import MARKERS, Conversation, Message, without_markers
from zoo.processors.chat.template_pieces import markers
from zoo.processors.media.image_file import open_image

BLINDS = ("blank", "left_out")
GREY = 128
SILENCE_SAMPLES = 16000


def asked_in(sample: Any) -> Conversation:
    """The conversation of a sample up to its last question; of a picture or clip with a caption that it is shown.

    Raises:
        DataError: the sample holds neither, or nothing is asked in it.
    """
    return conversation_of(sample).question()


def with_words(conversation: Conversation, words: str) -> Conversation:
    """Words behind the user's last message, on a line of their own."""
    if not words:
        return conversation
    *before, last = conversation.messages
    return replace(conversation, messages=(*before, Message(last.role, f"{last.text}\n{words}")))


def followed(conversation: Conversation, answer: str, question: str) -> Conversation:
    """What the assistant said to it, and the user's next question; nothing said leaves that behind the one before."""
    if not answer.strip():
        return with_words(conversation, question)
    said = Message("assistant", without_markers(answer))  # a model may spell a marker letter by letter
    return replace(conversation, messages=(*conversation.messages, said, Message("user", question)))


def asked_instead(conversation: Conversation, words: str) -> Conversation:
    """Other words in place of what the user says last, behind the same pictures and clips."""
    *before, last = conversation.messages
    return replace(conversation, messages=(*before, Message(last.role, f"{markers(last.text)}\n{words}")))


def begun(conversation: Conversation, words: str) -> Conversation:
    """An answer that begins with ``words``, for the assistant to go on with: "An image of"."""
    return replace(conversation, messages=(*conversation.messages, Message("assistant", words))) if words else conversation


def answer_begins(conversation: Conversation, words: str) -> Conversation:
    """An answered conversation whose answer stands behind ``words``: "a dog" -> "An image of a dog"."""
    *before, last = conversation.messages
    return replace(conversation, messages=(*before, Message(last.role, f"{words} {last.text}"))) if words else conversation


def with_examples(conversation: Conversation, examples: Sequence[Conversation]) -> Conversation:
    """Answered conversations before a question, each with its pictures and clips; what the system says of it stays first."""
    system = tuple(message for message in conversation.messages if message.role == "system")
    shown = [message for example in examples for message in example.messages if message.role != "system"]
    asked = [message for message in conversation.messages if message.role != "system"]
    images = [image for each in (*examples, conversation) for image in each.images]
    audio = [clip for each in (*examples, conversation) for clip in each.audio]
    return replace(conversation, messages=(*system, *shown, *asked), images=tuple(images), audio=tuple(audio))


class Examples:
    """Answered items of a split, drawn for each question: a pure function of seed and item.

    Args:
        split: where they are drawn from.
        asked: whether the questions are of the same split, so that an item must not be its own example.

    Raises:
        ConfigError: fewer items than examples.
    """

    def __init__(self, split: Split, number: int, *, seed: int, asked: bool) -> None:
        if number > len(split) - asked:
            raise ConfigError(
                f"evaluation.num_shots: {number} examples of {len(split) - asked} items; lower it, or choose another shots_split"
            )
        self.split, self.number, self.seed, self.asked = split, number, seed, asked

    def __call__(self, index: int) -> list[Conversation]:
        """The examples for item ``index``."""
        return [conversation_of(self.split.sample(row)) for row in self.rows(index)]

    def rows(self, index: int) -> list[int]:
        """Which items they are."""
        generator = np.random.default_rng((self.seed, index))
        drawn = generator.choice(len(self.split) - self.asked, self.number, replace=False)
        return [int(row) + int(self.asked and row >= index) for row in drawn]  # over the item itself


def examples_of(source: Any, split: str, number: int, shots_split: str, seed: int) -> Examples | None:
    """What draws ``number`` examples from ``shots_split`` for questions of ``split``; None for none."""
    return Examples(source.split(shots_split), number, seed=seed, asked=split == shots_split) if number else None


def blinded(conversation: Conversation, how: str) -> Conversation:
    """The same without what is seen and heard.

    Args:
        how: "blank": grey pictures of the same size and silent clips of the same length; "left_out": no markers at all.
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
    if isinstance(image, np.ndarray):
        return np.full_like(image, GREY)
    if isinstance(image, torch.Tensor):
        return torch.full_like(image, GREY)
    return Image.new("RGB", open_image(image).size, (GREY, GREY, GREY))


def _silence(clip: Any) -> Any:
    """A file's length is not known here; a second of silence stands for it."""
    if isinstance(clip, torch.Tensor):
        return torch.zeros_like(clip)
    return np.zeros(SILENCE_SAMPLES if isinstance(clip, str | Path | bytes) else len(clip), dtype=np.float32)
