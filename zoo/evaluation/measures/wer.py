"""Word and character errors of transcripts against references, counted after both texts are normalised.

Errors are those of the shortest edit (Levenshtein 1966), computed by jiwer. A rate divides the sum of errors over a corpus by the sum of
words; it is not a mean over utterances. Normalisation: Radford et al. 2022 (Whisper, arXiv 2212.04356), section 4.4 and appendix C, by
the package ``whisper-normalizer``, which has the rules of openai-whisper.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.errors import ConfigError, name_choices

NORMALISATIONS = ("english", "basic", "characters", "none")
MARKS = {"substitute": "[{0} -> {1}]", "delete": "[-{0}-]", "insert": "[+{1}+]", "equal": "{0}"}
CONTEXT = 3  # words before and after a difference in an excerpt


@dataclass(frozen=True)
class Edits:
    """Counts of edit operations on words or on characters.

    Attributes:
        units: number of words or characters in the references.
    """

    units: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    def __add__(self, other: "Edits") -> "Edits":
        return Edits(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    @property
    def errors(self) -> int:
        """Number of all errors: substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors divided by ``units``; may be above 1. For an empty reference it is 0 without errors, else infinite."""
        return self.share(self.errors)

    def share(self, count: int) -> float:
        """Return a count divided by ``units``; for an empty reference 0 if the count is 0, else infinity."""
        return count / self.units if self.units else float("inf") if count else 0.0


@dataclass(frozen=True)
class Compared:
    """Normalised reference and transcript with their differences.

    Attributes:
        reference: the normalised reference text.
        heard: the normalised transcript.
        words: counts of word errors.
        characters: counts of character errors.
        pieces: (kind of edit, marked text) of each aligned stretch of words, in order.
    """

    reference: str
    heard: str
    words: Edits
    characters: Edits
    pieces: tuple[tuple[str, str], ...]

    @property
    def marked(self) -> str:
        """The reference with all differences marked: ``press [nine -> five] [-now-] [+please+]``."""
        return " ".join(text for _, text in self.pieces)

    @property
    def excerpt(self) -> str:
        """The marked text, shortened to a few words around each difference."""
        return " ".join(_shortened(text.split()) if kind == "equal" else text for kind, text in self.pieces)


class WordErrorCounter:
    """Normalise reference and transcript, align them, and count word and character errors.

    Args:
        normalise: rules that both texts pass through. "english": Whisper's rules (lower case, no fillers or notes in brackets,
            contractions written out, numbers as digits, American spelling). "basic": for any language (lower case, no diacritics or
            punctuation). "characters": as "basic" for languages without spaces; every character counts as a word. "none": no change.

    Raises:
        ConfigError: an unknown option value, or a library that is not installed.
    """

    def __init__(self, normalise: str = "english") -> None:
        if normalise not in NORMALISATIONS:
            raise ConfigError(f"normalise: there is no {normalise!r}; {name_choices(normalise, NORMALISATIONS)}")
        self.normalise, self._jiwer = normalise, _library("jiwer")
        self._change = _normaliser(normalise)

    def __call__(self, reference: str, heard: str) -> Compared:
        """Compare one reference with one transcript."""
        expected, got = (" ".join(self._change(text).split()) for text in (reference, heard))
        words = self._jiwer.process_words(expected, got)
        return Compared(
            expected, got, _edits(words, expected.split()), _edits(self._jiwer.process_characters(expected, got), expected), _pieces(words)
        )


def summed(several: Sequence[Compared]) -> tuple[Edits, Edits]:
    """Return the edit counts of a corpus: of its words and of its characters."""
    return sum((each.words for each in several), Edits()), sum((each.characters for each in several), Edits())


def _edits(found: Any, units: Sequence[str]) -> Edits:
    return Edits(len(units), found.substitutions, found.deletions, found.insertions)


def _pieces(found: Any) -> tuple[tuple[str, str], ...]:
    expected, got = found.references[0], found.hypotheses[0]
    texts = [
        (
            chunk.type,
            " ".join(expected[chunk.ref_start_idx : chunk.ref_end_idx]),
            " ".join(got[chunk.hyp_start_idx : chunk.hyp_end_idx]),
        )
        for chunk in found.alignments[0]
    ]
    return tuple((kind, MARKS[kind].format(*pair)) for kind, *pair in texts)


def _shortened(words: Sequence[str]) -> str:
    """Return the first and last ``CONTEXT`` words, joined by "..." if words between them are left out."""
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
        raise ConfigError(f"evaluation: word errors need {package}; install it with: zoo install metrics") from error
