"""Whether an item names a concept that is held out of training, by the words it is described with."""

import re
from collections.abc import Iterable

# Words that say nothing about which concept it is.
FILLERS = frozenset("a an and at face for from in of or sign symbol the to with without".split())


def content_words(text: str) -> frozenset[str]:
    """The words of a name in lower case and singular, without fillers unless there is nothing else.

    "Grinning cats with smiling eyes" -> grinning, cat, smiling, eye. A letter alone is a filler too.
    """
    words = frozenset(map(_singular, re.findall(r"[^\W_]+", text.lower())))
    return frozenset(word for word in words - FILLERS if len(word) > 1) or words


class HeldOut:
    """The concepts that training must not show, against those that it may.

    Args:
        held_out: labels of the concepts held out.
        seen: labels of those that training shows.
    """

    def __init__(self, held_out: Iterable[str], seen: Iterable[str]) -> None:
        self._labels = [content_words(label) for label in held_out]
        known = frozenset(word for label in seen for word in content_words(label))
        self._own_words = frozenset(word for words in self._labels for word in words) - known

    def mentioned(self, *names: str, tags: Iterable[str] = ()) -> bool:
        """Whether names hold a word that only held-out labels have, or names and tags all words of such a label.

        With "french fries" and "green heart" held out and "red heart" seen: "fries" is a mention and so is "a heart" tagged green,
        "heart" alone is none. Tags alone say too little: that of an apple is "fruit", which "kiwi fruit" may have to itself.
        """
        own = frozenset(word for text in names for word in content_words(text))
        every = own.union(word for text in tags for word in content_words(text))
        return bool(own & self._own_words) or any(label <= every for label in self._labels)


def _singular(word: str) -> str:
    """Without the s of a plural, if roughly: both sides of a comparison are treated alike."""
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
