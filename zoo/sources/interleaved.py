"""Interleaved image-text documents from JSON lines or webdataset tar shards.

Papers: OBELICS, Laurencon et al. 2023 (arXiv 2306.16527); Multimodal C4, Zhu et al. 2023 (arXiv 2304.06939). Rows of both formats are read.
Where we differ: images must be files, URLs are not downloaded; documents are read by random access, so that a run resumes exactly.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.data.readers.document_filter import Document, DocumentFilter
from zoo.data.readers.interleaved_rows import SPLITS, DocumentsSplit, Place, Rows, checked_fractions, share_out
from zoo.errors import DataError, ItemError
from zoo.registry import register
from zoo.sources.shards import find_shards
from zoo.sources.wording.splits import refuse_split
from zoo.storage.copies import localised
from zoo.types import Source

Patterns = str | Path | Sequence[str | Path]
FAULTS_SHOWN = 3


@register("source")
class Interleaved(Source):
    """Interleaved documents of JSON-lines files or tar shards.

    A row has one of these forms, with paths relative to the file or to ``folder``::

        {"parts": ["text", {"image": "a.png"}, {"type": "audio", "path": "b.wav"}, {"type": "text", "text": "more"}]}
        {"texts": ["text", null, "more"], "images": [null, "a.png", null]}
        {"text_list": ["text", "more"], "image_info": [{"image_name": "a.png", "matched_text_index": 1}]}
        {"text": "a caption", "image": "a.png"}

    Rows that cannot be read are left out and counted, and so are documents and images that the filter keywords drop. ``report()`` returns
    the counts, and ``skipped`` lists the documents.

    Args:
        path: JSON-lines files or tar shards for training: one or a list; tar names may be patterns (``data/*.tar``,
            ``data/{000..009}.tar``).
        validation: the same for the validation split; None takes documents out of ``path``, by a hash of their content.
        test: the same for the test split.
        folder: base folder of the paths in JSON lines; None takes the folder of each file.
        split_fractions: shares of the documents of ``path`` in train, validation and test. The share of a split with its own files is not
            used, and the other shares are scaled to sum to 1.
        max_images, min_size, exclude_images, min_words, single_image_share, deduplicate, similarity: filters, see
            ``zoo.data.readers.document_filter.DocumentFilter``. Kosmos-1 uses max_images=5, min_size=64 and single_image_share=0.5.

    Raises:
        ConfigError: a value is not allowed.
        DataError: a file cannot be read, or no document is left to train on.
    """

    modalities = ("image", "audio", "conversation")
    splits = SPLITS
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        path: Patterns,
        validation: Patterns | None = None,
        test: Patterns | None = None,
        folder: str | Path | None = None,
        split_fractions: Sequence[float] = (0.96, 0.02, 0.02),
        max_images: int | None = None,
        min_size: int = 0,
        exclude_images: Sequence[str] = (),
        min_words: int = 0,
        single_image_share: float = 1.0,
        deduplicate: str = "none",
        similarity: float = 0.8,
    ) -> None:
        fractions = list(checked_fractions(split_fractions))
        self.sieve = DocumentFilter(
            max_images=max_images,
            min_size=min_size,
            exclude_images=exclude_images,
            min_words=min_words,
            single_image_share=single_image_share,
            deduplicate=deduplicate,
            similarity=similarity,
        )
        self._rows: dict[str, Rows] = {}
        self._places: dict[str, list[tuple[str, Place]]] = {name: [] for name in SPLITS}
        given = {"train": path, "validation": validation, "test": test}
        for number, (split, patterns) in enumerate(given.items()):
            if patterns is not None:
                self._rows[split] = Rows(_files(patterns, "path" if split == "train" else split), None if folder is None else Path(folder))
                fractions[number] = fractions[number] if split == "train" else 0.0
        fractions = [fraction / sum(fractions) for fraction in fractions]
        for split, rows in self._rows.items():
            for place in rows.places:
                document = self._read(rows, place)
                if document is not None:
                    chosen = share_out(document.key, fractions) if split == "train" else split
                    self._places[chosen].append((split, place))
        if not self._places["train"]:
            why = f" ({'; '.join(self.skipped[:FAULTS_SHOWN])})" if self.skipped else ""
            raise DataError(f"data.path: {path} holds no document to train on{why}; give JSON lines or tar shards of documents")

    @property
    def skipped(self) -> list[str]:
        """Documents that are left out, each with the reason."""
        return self.sieve.dropped

    def report(self) -> dict[str, dict[str, int]]:
        """Return the numbers of documents and images that were kept, and that were dropped for each reason."""
        return self.sieve.report()

    def split(self, name: str) -> DocumentsSplit:
        """Return the documents of one split.

        Raises:
            DataError: no such split, or it is empty.
        """
        refuse_split(name, SPLITS)
        if not self._places[name]:
            raise DataError(f"data.{name}: the split has no document; give files with data.source.{name}=PATH, or change split_fractions")
        return DocumentsSplit(self._places[name], self._document, self.sieve)

    def captions(self) -> list[str]:
        """Return the texts of the training split, as text to train a tokenizer on."""
        texts = (value for place in self._places["train"] for kind, value in self._document(place).parts if kind == "text")
        return list(dict.fromkeys(texts))

    def _document(self, place: tuple[str, Place]) -> Document:
        return self._rows[place[0]].read(place[1])

    def _read(self, rows: Rows, place: Place) -> Document | None:
        try:
            return self.sieve.keep(rows.read(place))
        except ItemError as error:
            self.sieve.refuse(place.name, error.reason, str(error))
            return None


def _files(patterns: Any, key: str) -> list[Path]:
    """Return the files of patterns: names that end in ``.tar`` are tar shards, all others are JSON-lines files without patterns.

    Remote files are copied into the cache.
    """
    listed = [patterns] if isinstance(patterns, str | Path) else list(patterns)
    shards = [str(pattern) for pattern in listed if str(pattern).endswith(".tar")]
    others = [str(pattern) for pattern in listed if not str(pattern).endswith(".tar")]
    found = find_shards(shards, f"data.source.{key}") if shards else []
    return [Path(localised(str(name))) for name in (*others, *found)]
