"""Text corpus for language-model pretraining: documents cut into pieces of whole sentences, single or as sentence pairs.

Papers: for sentence pairs Devlin et al. 2018 (BERT, arXiv 1810.04805), section 3.1 and appendix A.2, and Lan et al. 2019 (ALBERT, arXiv
1909.11942), section 3.1. Reference: google-research/bert ``create_pretraining_data.py``.

Where we differ: the length of a piece is counted in words and not in tokens, because the source does not know the tokenizer. Each piece is
exactly one item. A random number of the item decides if the second text is exchanged; BERT also decides by the rest of the document.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.data.groups import stable_group
from zoo.data.readers.text_documents import Document, cut_sentences, read_documents
from zoo.errors import ConfigError, DataError, name_choices
from zoo.registry import register
from zoo.types import Sample, Source, Split

SPLITS = ("train", "validation", "test")
PAIRS = ("none", "next", "swapped")
BOUNDARIES = ("file", "blank_line", "lines")
FAULTS_SHOWN = 3
TOGETHER, APART = 0, 1  # labels of sentence pairs, as in the reference: 0 is_next, 1 random


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of sentences of one document: indices ``start`` up to but not including ``stop``."""

    document: int
    start: int
    stop: int


@register("source")
class Documents(Source):
    """Text files as pieces of whole sentences; a hash of a document's text assigns the whole document to train, validation or test.

    Args:
        path: a file, or a folder that is searched recursively: .txt and .md files, and .jsonl or .ndjson files with one object per line.
        boundary: end of a document in a text file. "file": the end of the file. "blank_line": an empty line. "lines": every
            ``lines_per_document`` lines, with each line as one sentence (for lists of glosses or verses whose neighbouring lines are
            related).
        lines_per_document: lines per document if ``boundary`` is "lines".
        text_key: name of the text field in JSON lines.
        min_words: minimum number of words; shorter sentences are left out.
        max_words: maximum number of words of a piece; a longer sentence forms a piece by itself.
        pairs: "none" gives a piece as one text. "next" gives the two halves of a piece; in half of the samples the second half is replaced
            by sentences of another document (BERT's next sentence prediction). "swapped" gives both halves; in half of the samples their
            order is swapped (ALBERT's sentence order prediction). The label is 0 for the original pair and 1 for a changed one.
        split_fractions: shares of documents in train, validation and test.
        on_bad: "skip" leaves out files and lines that cannot be used, and lists them in ``skipped``; "error" raises DataError for them.

    Raises:
        ConfigError: a value is not allowed.
        DataError: the path does not exist, nothing in it can be used, or it has faults and ``on_bad`` is "error".
    """

    modalities = ("text",)
    splits = SPLITS
    class_names: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        path: str | Path,
        boundary: str = "file",
        lines_per_document: int = 32,
        text_key: str = "text",
        min_words: int = 1,
        max_words: int = 64,
        pairs: str = "none",
        split_fractions: Sequence[float] = (0.9, 0.05, 0.05),
        on_bad: str = "skip",
    ) -> None:
        for key, value, legal in (("boundary", boundary, BOUNDARIES), ("pairs", pairs, PAIRS), ("on_bad", on_bad, ("error", "skip"))):
            if value not in legal:
                raise ConfigError(f"{key}: there is no {value!r}; {name_choices(value, legal)}")
        for key, number, least in (("lines_per_document", lines_per_document, 2), ("min_words", min_words, 1), ("max_words", max_words, 2)):
            if number < least:
                raise ConfigError(f"{key}: {number}; allowed is {least} or more")
        self.pairs, self.max_words, self.path = pairs, max_words, Path(path)
        self.fractions = _checked_fractions(split_fractions)
        self.skipped: list[str] = []
        found = read_documents(self.path, boundary=boundary, lines=lines_per_document, text_key=text_key, faults=self.skipped)
        self._documents: dict[str, list[Document]] = {name: [] for name in SPLITS}
        for document in found:
            sentences = [sentence for sentence in cut_sentences(document, each_line=boundary == "lines") if _long(sentence, min_words)]
            if sentences:
                self._documents[self._split_of(document)].append(Document(document.id, "", tuple(sentences)))
            else:
                self.skipped.append(f"{document.id}: empty, or no sentence of {min_words} words or more")
        self._settle(on_bad)

    def split(self, name: str) -> "DocumentsSplit":
        """Return the samples of one split.

        Raises:
            ConfigError: no such split.
            DataError: the split is empty.
        """
        if name not in SPLITS:
            raise ConfigError(f"split: there is no {name!r}; {name_choices(name, SPLITS)}")
        made = DocumentsSplit(self._documents[name], max_words=self.max_words, pairs=self.pairs)
        if not len(made):
            counts = ", ".join(f"{split} {len(documents)}" for split, documents in self._documents.items())
            what = " with two sentences" if self.pairs != "none" else ""
            raise DataError(
                f"{self.path}: the split {name!r} is empty: it has no document{what} (documents: {counts}); add documents, choose another "
                "data.source.boundary (blank_line or lines), or change data.source.split_fractions"
            )
        return made

    def captions(self) -> list[str]:
        """Return the sentences of the training split, as text to train a tokenizer on."""
        return [sentence for document in self._documents["train"] for sentence in document.sentences]

    def _split_of(self, document: Document) -> str:
        share, limit = stable_group(document.text) / 2**63, 0.0
        for name, fraction in zip(SPLITS, self.fractions, strict=True):
            limit += fraction
            if share < limit:
                return name
        # Rounding can leave the sum of the fractions just below 1: the rest goes to the last split that is not empty.
        return next(name for name, fraction in zip(reversed(SPLITS), reversed(self.fractions), strict=True) if fraction)

    def _settle(self, on_bad: str) -> None:
        if self.skipped and on_bad == "error":
            shown = "; ".join(self.skipped[:FAULTS_SHOWN]) + (", ..." if len(self.skipped) > FAULTS_SHOWN else "")
            raise DataError(
                f"{self.path}: {len(self.skipped)} files or texts cannot be used ({shown}); correct them, or set data.source.on_bad=skip"
            )
        if not any(self._documents.values()):
            why = f" ({'; '.join(self.skipped[:FAULTS_SHOWN])})" if self.skipped else ""
            raise DataError(f"data.path: {self.path} holds no text that can be used{why}; give .txt, .md or .jsonl files")


class DocumentsSplit(Split):
    """Pieces of the documents of one split.

    With a generator, the cut of a pair and the text from another document are drawn anew each time; without one both are fixed per piece.
    """

    def __init__(self, documents: Sequence[Document], *, max_words: int, pairs: str) -> None:
        self.documents, self.pairs = documents, pairs
        least = 1 if pairs == "none" else 2
        cut = (piece for number, document in enumerate(documents) for piece in _pieces(number, document.sentences, max_words, least))
        self.pieces = list(cut)
        if pairs == "next" and len({piece.document for piece in self.pieces}) < 2:
            self.pieces = []  # one document: there is no other one to take a second text from

    def __len__(self) -> int:
        return len(self.pieces)

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Return piece ``index`` as one text, or as a pair of texts with a label."""
        piece = self.pieces[index]
        document = self.documents[piece.document]
        sentences, name = document.sentences[piece.start : piece.stop], f"{document.id}, sentence {piece.start + 1}"
        if self.pairs == "none":
            return Sample(name, {"text": " ".join(sentences)})
        draw = np.random.default_rng(stable_group(name)) if generator is None else generator
        cut = int(draw.integers(1, len(sentences)))
        first, second = " ".join(sentences[:cut]), " ".join(sentences[cut:])
        if draw.random() < 0.5:
            return Sample(name, {"text": (first, second)}, label=TOGETHER)
        pair = (second, first) if self.pairs == "swapped" else (first, self._from_elsewhere(piece, len(second.split()), draw))
        return Sample(name, {"text": pair}, label=APART)

    def _from_elsewhere(self, piece: Piece, words: int, draw: np.random.Generator) -> str:
        """Draw sentences of another document until they have at least ``words`` words, or the document ends."""
        # This ends: the constructor made sure that at least two documents have pieces.
        while (other := self.pieces[int(draw.integers(len(self.pieces)))]).document == piece.document:
            pass
        sentences = self.documents[other.document].sentences
        start = int(draw.integers(other.start, other.stop))
        stop, count = start + 1, len(sentences[start].split())
        while stop < len(sentences) and count < words:
            count += len(sentences[stop].split())
            stop += 1
        return " ".join(sentences[start:stop])


def _pieces(number: int, sentences: Sequence[str], max_words: int, least: int) -> Iterator[Piece]:
    """Yield runs of sentences with at most ``max_words`` words together, but at least ``least`` sentences each."""
    start = count = 0
    for place, sentence in enumerate(sentences):
        words = len(sentence.split())
        if place - start >= least and count + words > max_words:
            yield Piece(number, start, place)
            start, count = place, 0
        count += words
    if len(sentences) - start >= least:
        yield Piece(number, start, len(sentences))


def _long(sentence: str, min_words: int) -> bool:
    return len(sentence.split()) >= min_words


def _checked_fractions(fractions: Sequence[float]) -> tuple[float, float, float]:
    values = tuple(float(value) for value in fractions)
    if len(values) != 3 or min(values) < 0 or values[0] == 0 or abs(sum(values) - 1) > 1e-6:
        raise ConfigError(f"split_fractions: {list(fractions)}; allowed are three shares for train, validation and test that sum to 1")
    return values[0], values[1], values[2]
