"""Emoji as conversations: captioning, and questions about a drawing with its label and tags as the correct answers.

Data and splits are those of ``zoo.sources.emoji``: one style and a tenth of the concepts are never trained on.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zoo.registry import register
from zoo.sources.emoji import Drawing, Emoji, EmojiSplit
from zoo.sources.wording.questions import Question, checked_kinds, sample_of, texts_of
from zoo.types import Sample, Source, Split

KINDS = ("caption", "label", "tags", "choice")
DESCRIBED = ("Describe the picture.", "What does the picture show?", "Write a caption.")  # the chat template "plain" omits these
_QUESTION_SEED = 103  # do not change: test questions must stay the same between runs


@register("source")
class EmojiConversations(Source):
    """A drawing and one question about it.

    Args:
        path: folder written by ``zoo fetch emoji``.
        kinds: kinds of questions, of "caption" (answer: caption, label or tags), "label" (name the concept), "tags" (words for the drawing)
            and "choice" (choose between two labels); None takes all. ["caption"] gives LLaVA's first training stage.
        concepts: concepts that make up the test split: "seen", "unseen" or "all".
        extra: more folders to train on, as in ``emoji``.
        other_share: share of training items that do not show an emoji concept; None takes ``extra`` as it is.
        backgrounds: backgrounds in training: "white" or "varied", as in ``emoji``.

    Raises:
        ConfigError: a kind is unknown, or a value is not allowed in ``emoji``.
        DataError: a folder has no table, or a table has faulty rows.
    """

    modalities = ("image", "conversation")
    splits = Emoji.splits
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        path: str | Path,
        kinds: Sequence[str] | None = None,
        concepts: str = "seen",
        extra: Sequence[str | Path] = (),
        other_share: float | None = None,
        backgrounds: str = "white",
    ) -> None:
        self.kinds = checked_kinds(kinds, KINDS)
        self._emoji = Emoji(path=path, concepts=concepts, extra=extra, other_share=other_share, templates=("{}",), backgrounds=backgrounds)

    def split(self, name: str) -> "EmojiConversationsSplit":
        """Return the questions of one split.

        Raises:
            ConfigError: no such split.
        """
        return EmojiConversationsSplit(self._emoji.split(name), self.kinds, SPLIT_NUMBERS[name])

    def captions(self) -> list[str]:
        """Return the questions and answers of the training split, as text to train a tokenizer on."""
        split = self.split("train")
        others = split.split.drawings[0]
        asked = [question_of(kind, each, others) for each in split.split.drawings for kind in split.kinds_of(each)]
        return sorted({text for question in asked for text in texts_of(question)})


SPLIT_NUMBERS = {name: number for number, name in enumerate(Emoji.splits)}


class EmojiConversationsSplit(Split):
    """Questions about the drawings of one split."""

    def __init__(self, split: EmojiSplit, kinds: Sequence[str], number: int) -> None:
        self.split, self.kinds, self.number = split, list(kinds), number
        if split.order is not None:
            self.order = split.order
        self.named = [index for index, drawing in enumerate(split.drawings) if drawing.label is not None]

    def __len__(self) -> int:
        return len(self.split)

    def kinds_of(self, drawing: Drawing) -> list[str]:
        """Return the kinds of questions that a drawing has the data for, or ["caption"] if there are none."""
        missing = {"label", "choice"} if drawing.label is None else set()
        missing |= set() if drawing.tags else {"tags"}
        return [kind for kind in self.kinds if kind not in missing] or ["caption"]

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Return item ``index`` with a question; without a generator its index is the seed, and the kinds alternate.

        Raises:
            DataError: the image cannot be read; the message begins with the item's id.
        """
        image = self.split.sample(index, generator).inputs["image"]
        drawn = generator if generator is not None else np.random.default_rng((_QUESTION_SEED, self.number, index))
        drawing = self.split.drawings[index]
        kinds = self.kinds_of(drawing)
        kind = kinds[index % len(kinds) if generator is None else int(drawn.integers(len(kinds)))]
        other = self.split.drawings[self.named[int(drawn.integers(len(self.named)))]] if self.named else drawing
        return sample_of(drawing.name, question_of(kind, drawing, other, drawn), [image], drawn)


def question_of(kind: str, drawing: Drawing, other: Drawing, generator: np.random.Generator | None = None) -> Question:
    """Return a question of a kind about a drawing.

    Args:
        kind: one of ``KINDS``.
        other: drawing whose label is the wrong option of a "choice" question; without a different label the kind becomes "label".
        generator: draws the caption and the order of the options; None takes the first caption and puts the right option first.
    """
    label, tags = drawing.label or drawing.text or "", ", ".join(drawing.tags)
    if kind == "caption":
        captions = [text for text in (drawing.text, drawing.label, tags) if text]
        first = 0 if generator is None else int(generator.integers(len(captions)))
        return Question(kind, DESCRIBED, tuple(dict.fromkeys((captions[first], *captions))))
    if kind == "label":
        return Question(kind, ("What is this?", "What does the drawing show?", "Name what you see."), (label,))
    if kind == "tags":
        return Question(kind, ("Which words describe this?", "Give words for this drawing.", "List tags."), (tags, *drawing.tags))
    if other.label is None or other.label == label:
        return question_of("label", drawing, other, generator)
    swapped = generator is not None and bool(generator.integers(2))
    first, second = (other.label, label) if swapped else (label, other.label)
    return Question(kind, (f"Is this {first} or {second}?", f"Which is it: {first} or {second}?"), (label,))
