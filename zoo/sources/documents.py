"""Documents of running text, cut into pieces of whole sentences: what language is learnt from.

Papers: for pairs of texts Devlin et al. 2018 (arXiv 1810.04805), section 3.1 and appendix A.2, and Lan et al. 2019 (ALBERT, arXiv
1909.11942), section 3.1. Reference: google-research/bert ``create_pretraining_data.py``.

Where we differ: pieces are cut by words, before any tokenizer is known, and every piece stands in one item; half of the pairs are
chosen by the item's own numbers and not by what is left of a document.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.data.readers.text_documents import Document, cut_sentences, read_documents
from zoo.errors import ConfigError, DataError, name_choices
from zoo.registry import register
from zoo.sources.wording.captions import stable_group
from zoo.types import Sample

SPLITS = ("train", "validation", "test")
PAIRS = ("none", "next", "swapped")
BOUNDARIES = ("file", "blank_line", "lines")
FAULTS_SHOWN = 3
TOGETHER, APART = 0, 1  # labels of pairs, as in the reference


@dataclass(frozen=True, slots=True)
class Piece:
    """Sentences of one document that are shown together: ``start`` to before ``stop``."""

    document: int
    start: int
    stop: int


@register("source")
class Documents:
    """Texts of files, in pieces of whole sentences; documents as a whole fall into train, validation and test by a hash of their text.

    Args:
        path: a file, or a folder whose files are read with those of the folders below: .txt and .md, and .jsonl or .ndjson with one
            object a line.
        boundary: what ends a document of a text file: "file", its end; "blank_line"; or "lines", so many as ``lines_per_document``,
            each line a sentence (a list of glosses or verses, where the neighbours of a line belong to it).
        lines_per_document: with boundary "lines".
        text_key: of JSON lines.
        min_words: shorter sentences are left out.
        max_words: of a piece; a longer sentence is a piece of its own.
        pairs: "none" shows a piece as one text. "next" shows two halves of a piece, whose second is from another document half of the
            time (BERT's next sentence); "swapped" shows both halves, half of the time in the other order (ALBERT's sentence order).
            Labels: 0 where the two belong together as they stand, else 1.
        split_fractions: shares of documents in train, validation and test.
        on_bad: "skip" leaves out files and lines that cannot be used, and ``skipped`` lists them; "error" refuses them.

    Raises:
        ConfigError: a word or a number that is not allowed.
        DataError: there is no such file or folder, nothing is left of it, or it has faults that are not skipped.
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
        """The samples of one split.

        Raises:
            ConfigError: no such split.
            DataError: nothing fell into it.
        """
        if name not in SPLITS:
            raise ConfigError(f"split: there is no {name!r}; {name_choices(name, SPLITS)}")
        made = DocumentsSplit(self._documents[name], max_words=self.max_words, pairs=self.pairs)
        if not len(made):
            counts = ", ".join(f"{split} {len(documents)}" for split, documents in self._documents.items())
            what = " with two sentences" if self.pairs != "none" else ""
            raise DataError(
                f"{self.path}: no document{what} fell into {name!r} ({counts}); add documents, cut them otherwise "
                "(data.source.boundary=blank_line or lines), or change data.source.split_fractions"
            )
        return made

    def captions(self) -> list[str]:
        """The sentences of training, to train a tokenizer on."""
        return [sentence for document in self._documents["train"] for sentence in document.sentences]

    def _split_of(self, document: Document) -> str:
        share, limit = stable_group(document.text) / 2**63, 0.0
        for name, fraction in zip(SPLITS, self.fractions, strict=True):
            limit += fraction
            if share < limit:
                return name
        return next(name for name, fraction in zip(reversed(SPLITS), reversed(self.fractions), strict=True) if fraction)

    def _settle(self, on_bad: str) -> None:
        if self.skipped and on_bad == "error":
            shown = "; ".join(self.skipped[:FAULTS_SHOWN]) + (", ..." if len(self.skipped) > FAULTS_SHOWN else "")
            raise DataError(f"{self.path}: {len(self.skipped)} files or texts cannot be used ({shown}); mend them, or set on_bad=skip")
        if not any(self._documents.values()):
            why = f" ({'; '.join(self.skipped[:FAULTS_SHOWN])})" if self.skipped else ""
            raise DataError(f"data.path: {self.path} holds no text that can be used{why}; give .txt, .md or .jsonl files")


class DocumentsSplit:
    """Pieces of the documents of one split.

    In training a pair is cut, and its partner drawn, anew each time; without a generator both follow from the piece.
    """

    def __init__(self, documents: Sequence[Document], *, max_words: int, pairs: str) -> None:
        self.documents, self.pairs = documents, pairs
        least = 1 if pairs == "none" else 2
        cut = (piece for number, document in enumerate(documents) for piece in _pieces(number, document.sentences, max_words, least))
        self.pieces = list(cut)
        if pairs == "next" and len({piece.document for piece in self.pieces}) < 2:
            self.pieces = []  # there is no other document that a second text could come from

    def __len__(self) -> int:
        return len(self.pieces)

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Piece ``index`` as one text, or as two with a label."""
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
        """Sentences of another document, about as many words as what they stand for."""
        while (other := self.pieces[int(draw.integers(len(self.pieces)))]).document == piece.document:
            pass  # at least one piece is of another
        sentences = self.documents[other.document].sentences
        start = int(draw.integers(other.start, other.stop))
        stop, count = start + 1, len(sentences[start].split())
        while stop < len(sentences) and count < words:
            count += len(sentences[stop].split())
            stop += 1
        return " ".join(sentences[start:stop])


def _pieces(number: int, sentences: Sequence[str], max_words: int, least: int) -> Iterator[Piece]:
    """Runs of sentences that together have at most ``max_words``, but at least so many sentences."""
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
