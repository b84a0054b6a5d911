"""Word-by-word translation with a dictionary learnt from pairs of texts: a baseline without a neural network.

Source: Brown et al. 1993, IBM model 1: every word of the target was translated from one word of the source, or from none, independently of
its place. Reference: nltk 3.10, ``IBMModel1``.
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int

TOKENS = re.compile(r"\w+(?:[-.']\w+)*|[^\w\s]")  # a word, with hyphens and points inside; or one sign
NO_SPACE_BEFORE, NO_SPACE_AFTER = set(".,;:!?)]}%"), set("([{")
NO_WORD = 0  # id of the empty source word, from which words come that translate none


class WordLexicon:
    """The most probable translation of each source word, by IBM model 1.

    Source words are compared in lower case; those that training does not contain stay as they are.

    Args:
        pairs: source and target texts.
        iterations: rounds of expectation maximisation; the first starts from equal probabilities.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]], *, iterations: int = 5) -> None:
        sources: dict[str, int] = {"": NO_WORD}
        self.targets: dict[str, int] = {}
        ours, theirs = [], []
        for source, target in pairs:
            ours.append([NO_WORD, *(sources.setdefault(word.lower(), len(sources)) for word in TOKENS.findall(source))])
            theirs.append([self.targets.setdefault(word, len(self.targets)) for word in TOKENS.findall(target)])
        self.sources = sources
        self.links, self.probabilities = _fit(ours, theirs, len(self.targets), iterations)
        words = list(self.targets)
        order = np.argsort(self.probabilities, kind="stable")  # of equal source words the last, the most probable, stays
        best = dict(zip((self.links[order] // max(len(words), 1)).tolist(), (self.links[order] % max(len(words), 1)).tolist(), strict=True))
        self.best = {word: words[best[number]] for word, number in sources.items() if number in best}

    def probability(self, target: str, source: str) -> float:
        """Return the probability that a source word is translated by a target word; the empty source word stands for none."""
        first, second = self.sources.get(source.lower()), self.targets.get(target)
        if first is None or second is None:
            return 0.0
        key = first * len(self.targets) + second
        place = int(np.searchsorted(self.links, key))
        return float(self.probabilities[place]) if place < len(self.links) and self.links[place] == key else 0.0

    def translate(self, text: str) -> str:
        """Replace each word by its most probable translation, in the order of the source."""
        found = ""
        for word in (self.best.get(word.lower(), word) for word in TOKENS.findall(text)):
            glued = not found or word in NO_SPACE_BEFORE or found[-1] in NO_SPACE_AFTER
            found += word if glued else f" {word}"
        return found


def _fit(
    ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]], num_targets: int, iterations: int
) -> tuple[Int[np.ndarray, " links"], Float[np.ndarray, " links"]]:
    """Return the pairs of words that occur in one pair of texts, as source * num_targets + target in rising order, and t(target | source).

    One row per source word and target word of a pair of texts: the probabilities of the source words of each target word sum to 1 there.
    """
    codes, columns, column = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
    for source, target in zip(ours, theirs, strict=True):
        codes.append((np.asarray(source, np.int64)[:, None] * num_targets + np.asarray(target, np.int64)).ravel())
        columns.append(np.tile(np.arange(column, column + len(target)), len(source)))
        column += len(target)
    links, rows = np.unique(np.concatenate(codes), return_inverse=True)
    column_of = np.concatenate(columns)
    source_of = links // max(num_targets, 1)
    probabilities = np.ones(len(links))
    for _ in range(iterations):
        values = probabilities[rows]
        values /= np.bincount(column_of, values)[column_of]  # expected counts
        counts = np.bincount(rows, values, minlength=len(links))
        probabilities = counts / np.bincount(source_of, counts)[source_of]
    return links, probabilities
