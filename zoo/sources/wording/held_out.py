"""Detection of held-out concepts in the names and tags of an item, so that training data can be filtered."""

import re
from collections.abc import Iterable

# Words that do not identify a concept.
FILLERS = frozenset("a an and at face for from in of or sign symbol the to with without".split())


def content_words(text: str) -> frozenset[str]:
    """Return the words of a name in lower case and singular, without filler words and single letters.

    If nothing else is left, the filler words are returned. Example: "Grinning cats with smiling eyes" gives grinning, cat, smiling, eye.
    """
    words = frozenset(map(_singular, re.findall(r"[^\W_]+", text.lower())))
    return frozenset(word for word in words - FILLERS if len(word) > 1) or words


class HeldOut:
    """Concepts that must not occur in training data.

    Args:
        held_out: labels of the held-out concepts.
        seen: labels of the concepts that training may show.
    """

    def __init__(self, held_out: Iterable[str], seen: Iterable[str]) -> None:
        self._labels = [content_words(label) for label in held_out]
        known = frozenset(word for label in seen for word in content_words(label))
        self._own_words = frozenset(word for words in self._labels for word in words) - known

    def mentioned(self, *names: str, tags: Iterable[str] = ()) -> bool:
        """Return True if the names and tags of an item mention a held-out concept.

        An item mentions one if a name holds a word that occurs in held-out labels only, or if names and tags together hold all words of a
        held-out label. Example: "french fries" and "green heart" are held out, and "red heart" is seen. Then "fries" is a mention, and
        "a heart" with the tag "green" is one too; "heart" without a tag is not.
        """
        # The first case ignores tags because they are too general: an apple has the tag "fruit", and "kiwi fruit" may be the only label
        # with that word.
        own = frozenset(word for text in names for word in content_words(text))
        every = own.union(word for text in tags for word in content_words(text))
        return bool(own & self._own_words) or any(label <= every for label in self._labels)


def _singular(word: str) -> str:
    """Remove a plural s. The rule is rough, which is enough because both sides of a comparison go through it."""
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
