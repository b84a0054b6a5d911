"""Word and character errors of what was heard against what was said, counted after both are written in one way.

Errors are those of the shortest edit (Levenshtein 1966), by jiwer; rates are sums over a corpus, never means of utterances. How texts
are written in one way: Radford et al. 2022 (Whisper, arXiv 2212.04356), section 4.4 and appendix C, by the package
``whisper-normalizer``, which keeps openai-whisper's own rules.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.errors import ConfigError, name_choices

NORMALISATIONS = ("english", "basic", "characters", "none")
MARKS = {"substitute": "[{0} -> {1}]", "delete": "[-{0}-]", "insert": "[+{1}+]", "equal": "{0}"}
CONTEXT = 3  # words beside a difference, in an excerpt


@dataclass(frozen=True)
class Edits:
    """Of one kind of unit, words or characters.

    Attributes:
        units: of the references.
    """

    units: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    def __add__(self, other: "Edits") -> "Edits":
        return Edits(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    @property
    def errors(self) -> int:
        """All of them."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors for each unit, which may be above 1. Where nothing was said, everything heard is an error: 0 or infinite."""
        return self.share(self.errors)

    def share(self, count: int) -> float:
        """A count for each unit."""
        return count / self.units if self.units else float("inf") if count else 0.0


@dataclass(frozen=True)
class Compared:
    """What was said and heard, as they are compared, and how they differ.

    Attributes:
        pieces: the reference word by word, with what was heard in its place: kind of edit and text.
    """

    reference: str
    heard: str
    words: Edits
    characters: Edits
    pieces: tuple[tuple[str, str], ...]

    @property
    def marked(self) -> str:
        """As ``press [nine -> five] [-now-] [+please+]``."""
        return " ".join(text for _, text in self.pieces)

    @property
    def excerpt(self) -> str:
        """The same, with a few words around each difference."""
        return " ".join(_shortened(text.split()) if kind == "equal" else text for kind, text in self.pieces)


class WordJudge:
    """Counts errors after it has written both texts in one way.

    Args:
        normalise: "english" (Whisper's: lower case, no fillers and notes in brackets, contractions written out, numbers as digits,
            American spelling), "basic" (any language: lower case, no marks and punctuation), "characters" (the same for languages without
            spaces: every character is a word), or "none".

    Raises:
        ConfigError: an unknown word, or a library that is not installed.
    """

    def __init__(self, normalise: str = "english") -> None:
        if normalise not in NORMALISATIONS:
            raise ConfigError(f"normalise: there is no {normalise!r}; {name_choices(normalise, NORMALISATIONS)}")
        self.normalise, self._jiwer = normalise, _library("jiwer")
        self._change = _normaliser(normalise)

    def __call__(self, reference: str, heard: str) -> Compared:
        """Compare one pair."""
        said, found = (" ".join(self._change(text).split()) for text in (reference, heard))
        words = self._jiwer.process_words(said, found)
        return Compared(said, found, _edits(words, said.split()), _edits(self._jiwer.process_characters(said, found), said), _pieces(words))


def summed(several: Sequence[Compared]) -> tuple[Edits, Edits]:
    """Words and characters of a corpus."""
    return sum((each.words for each in several), Edits()), sum((each.characters for each in several), Edits())


def _edits(found: Any, units: Sequence[str]) -> Edits:
    return Edits(len(units), found.substitutions, found.deletions, found.insertions)


def _pieces(found: Any) -> tuple[tuple[str, str], ...]:
    said, heard = found.references[0], found.hypotheses[0]
    texts = [
        (
            chunk.type,
            " ".join(said[chunk.ref_start_idx : chunk.ref_end_idx]),
            " ".join(heard[chunk.hyp_start_idx : chunk.hyp_end_idx]),
        )
        for chunk in found.alignments[0]
    ]
    return tuple((kind, MARKS[kind].format(*pair)) for kind, *pair in texts)


def _shortened(words: Sequence[str]) -> str:
    """Of many words the first and last."""
    return " ".join(words if len(words) <= 2 * CONTEXT else [*words[:CONTEXT], "...", *words[-CONTEXT:]])


def _normaliser(name: str) -> Callable[[str], str]:
    if name == "none":
        return str
    if name == "english":
        return _library("whisper_normalizer.english").EnglishTextNormalizer()
    return _library("whisper_normalizer.basic").BasicTextNormalizer(split_letters=name == "characters")


def _library(module: str) -> Any:
    try:
        return __import__(module, fromlist=["_"])
    except ImportError as error:
        package = {"jiwer": "jiwer"}.get(module, "whisper-normalizer")
        raise ConfigError(f"evaluation: word errors need {package}; install it with: pip install 'multimodal-zoo[metrics]'") from error
