"""Sentiment classification of sentences rendered as images, which tests OCR-free reading.

Source: the task of Rendered SST-2, Radford et al. 2021 (CLIP, arXiv 2103.00020), section 3.1.1 and appendix E.2, with the question of
Huang et al. 2023 (Kosmos-1, arXiv 2302.14045), section 4.3. Where we differ: the sentences are generated from a subject, a word of praise
or blame, and an optional "not" that reverses the sentiment, so that one word is not enough to classify a sentence.
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from zoo.data.groups import stable_group
from zoo.errors import ConfigError
from zoo.processors.chat.messages import MARKERS, Conversation, Message
from zoo.registry import register
from zoo.sources.wording.splits import refuse_split
from zoo.types import Sample, Source, Split

SPLITS = {"train": range(8), "validation": range(8, 9), "test": range(9, 10)}  # values of (hash of the sentence) % 10
CLASSES = ("negative", "positive")
WORDS = {
    "positive": "brilliant charming clever delightful excellent funny lovely moving superb wonderful".split(),
    "negative": "awful boring clumsy dreadful dull lifeless painful stupid terrible weak".split(),
}
SUBJECTS = ("film", "story", "acting", "music", "dialogue", "ending", "plot", "camera work", "first hour", "leading role")
FORMS = ("The {} is {}.", "I found the {} {}.", "We all thought the {} was {}.", "Everyone says that the {} is {}.")
ADVERBS = ("", "truly", "rather", "often")
QUESTION = "what is the sentiment of the opinion?"
LINES = 9  # font size = image size / LINES
_SEED = 104  # do not change: the order of the sentences must stay the same between runs


@register("source")
class RenderedText(Source):
    """An image of an opinion, a question about its sentiment, and the answer; no test sentence occurs in training.

    Args:
        size: width and height of an image in pixels, at least 64.
        question: text of the question.

    Raises:
        ConfigError: the image is too small for legible letters, or the question is empty.
    """

    modalities = ("image", "conversation")
    splits = tuple(SPLITS)
    class_names = CLASSES
    templates: tuple[str, ...] = ()

    def __init__(self, *, size: int = 224, question: str = QUESTION) -> None:
        if size < 64:
            raise ConfigError(f"size: {size}; allowed is 64 or more, for legible letters")
        if not question.strip():
            raise ConfigError(f"question: {question!r}; give one, for example {QUESTION!r}")
        self.size, self.question = size, question

    def split(self, name: str) -> "RenderedTextSplit":
        """Return the opinions of "train", "validation" or "test".

        Raises:
            DataError: no such split.
        """
        refuse_split(name, self.splits)
        return RenderedTextSplit(self, name)

    def captions(self) -> list[str]:
        """Return the question and the answers, as text to train a tokenizer on."""
        return [self.question, *(f" {name}" for name in CLASSES)]


class RenderedTextSplit(Split):
    """The opinions of one split, in random order."""

    def __init__(self, source: RenderedText, name: str) -> None:
        self.source, self.name = source, name
        own = [(text, label) for text, label in opinions() if stable_group(text) % 10 in SPLITS[name]]
        self.opinions = [own[i] for i in np.random.default_rng(_SEED).permutation(len(own))]

    def __len__(self) -> int:
        return len(self.opinions)

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Return opinion ``index``; a generator places the text at random, without one it is centred."""
        text, label = self.opinions[index]
        picture = draw_text(text, self.source.size, generator)
        messages = (Message("user", f"{MARKERS['image']}\n{self.source.question}"), Message("assistant", CLASSES[label]))
        id = f"rendered_text:{self.name}:{index}"
        conversation = Conversation(messages, (picture,), id=id)
        return Sample(id, {"conversation": conversation}, None, label, [CLASSES[label]], choices=list(CLASSES))


def opinions() -> list[tuple[str, int]]:
    """Return every sentence with its class: 0 is negative, 1 is positive."""
    found = []
    for form in FORMS:
        for subject in SUBJECTS:
            for adverb in ADVERBS:
                for denied in (False, True):
                    for label, name in enumerate(CLASSES):
                        words = " ".join(word for word in ("not" if denied else "", adverb) if word)
                        found += [(form.format(subject, f"{words} {word}".strip()), label ^ denied) for word in WORDS[name]]
    return found


def draw_text(text: str, size: int, generator: np.random.Generator | None = None) -> UInt8[np.ndarray, "size size 3"]:
    """Draw black text on white with line breaks where needed; a generator places it at random, None centres it."""
    image = Image.new("RGB", (size, size), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size / LINES)
    edge = size // 24
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and pen.textlength(longer, font=font) > size - 2 * edge:
            lines.append(word)
        else:
            lines[-1] = longer
    left, top, right, bottom = pen.multiline_textbbox((0, 0), "\n".join(lines), font=font)
    free = (max(size - 2 * edge - (right - left), 0), max(size - 2 * edge - (bottom - top), 0))
    shares = (0.5, 0.5) if generator is None else generator.random(2)
    pen.multiline_text((edge - left + free[0] * shares[0], edge - top + free[1] * shares[1]), "\n".join(lines), fill="black", font=font)
    return np.asarray(image)
