"""Filter of interleaved documents: number and size of images, amount of text, and removal of duplicate texts.

Paper: Huang et al. 2023 (Kosmos-1, arXiv 2302.14045), section 3.1 and appendix B.1.3: at most five images per page, no image below 64
pixels, and half of the pages with one image removed. Near duplicates are found by MinHash over 5-word shingles (Lee et al. 2021,
arXiv 2107.06499).
"""

import fnmatch
import io
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from zoo.data.groups import stable_group
from zoo.errors import ConfigError, name_choices
from zoo.processors.chat.messages import MARKERS, Conversation
from zoo.processors.media.image_file import DECODE_ERRORS

WAYS = ("none", "exact", "near")
PERMUTATIONS = 128  # of MinHash; the error of the estimated Jaccard similarity is about 1 / sqrt(128) = 0.09
SHINGLE = 5  # words per shingle, the unit that two texts are compared by
ADDRESSES = ("http://", "https://", "data:", "//")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Document:
    """Texts, images and audio clips in order: ("text", text), ("image", path or bytes), ("audio", path or bytes)."""

    id: str
    parts: tuple[tuple[str, Any], ...]

    @property
    def text(self) -> str:
        """All text parts, joined by line breaks."""
        return "\n".join(value for kind, value in self.parts if kind == "text")

    @property
    def key(self) -> str:
        """Text whose hash chooses the split: equal documents get equal keys, different images with the same caption do not."""
        names = [self.id if isinstance(value, bytes) else Path(value).name for kind, value in self.parts if kind != "text"]
        return "\n".join([self.text, *names])

    def count(self, kind: str) -> int:
        """Return the number of parts of a kind ("text", "image" or "audio")."""
        return sum(each == kind for each, _ in self.parts)

    def conversation(self) -> Conversation:
        """Return the document as a ``Conversation``, the input of the processor."""
        return Conversation.of_document(self.parts, self.id)


class DocumentFilter:
    """Filter that drops images, then documents, and counts both by reason.

    Args:
        max_images: maximum number of images per document; the first ones are kept. None sets no limit.
        min_size: minimum length in pixels of an image's shorter side; 0 opens no image.
        exclude_images: patterns of image paths to drop, for example ``*/icons/*``.
        min_words: minimum number of words of a document.
        single_image_share: share of the documents with exactly one image that are kept, from 0 to 1; a hash of their text chooses them.
        deduplicate: "none" keeps all. "exact" drops a document whose words equal those of an earlier one; case, spaces and punctuation
            do not count. "near" also drops a document that is similar to an earlier one.
        similarity: for "near": minimum Jaccard similarity of the two sets of 5-word shingles, above 0 and up to 1.

    Raises:
        ConfigError: a value is not allowed, or "near" is chosen and the package datasketch is not installed.
    """

    def __init__(
        self,
        *,
        max_images: int | None = 5,
        min_size: int = 64,
        exclude_images: Sequence[str] = (),
        min_words: int = 1,
        single_image_share: float = 1.0,
        deduplicate: str = "exact",
        similarity: float = 0.8,
    ) -> None:
        if deduplicate not in WAYS:
            raise ConfigError(f"deduplicate: there is no {deduplicate!r}; {name_choices(str(deduplicate), WAYS)}")
        for key, number in (("max_images", 0 if max_images is None else max_images), ("min_size", min_size), ("min_words", min_words)):
            if number < 0:
                raise ConfigError(f"{key}: {number}; allowed is 0 or more")
        if not 0 <= single_image_share <= 1 or not 0 < similarity <= 1:
            raise ConfigError(
                f"single_image_share: {single_image_share}, similarity: {similarity}; "
                "allowed are 0 to 1 for single_image_share, and above 0 up to 1 for similarity"
            )
        if isinstance(exclude_images, str):
            raise ConfigError(f"exclude_images: {exclude_images!r} is one string; give a list of patterns, for example ['*/icons/*']")
        self.max_images, self.min_size, self.exclude, self.min_words = max_images, min_size, tuple(exclude_images), min_words
        self.single_image_share, self.deduplicate = single_image_share, deduplicate
        self.documents, self.images = Counter(), Counter()  # counts by reason; "kept" counts as a reason
        self.dropped: list[str] = []
        self._seen: dict[int, str] = {}  # id of the first document with a text
        self._similar = _Similar(similarity) if deduplicate == "near" else None

    def trim(self, document: Document, faults: list[tuple[str, str]] | None = None) -> Document:
        """Return the document without the dropped images.

        Args:
            faults: output list; (reason, image path) is appended for each dropped image, with an empty path for an image given as bytes.
        """
        parts, kept = [], 0
        for kind, value in document.parts:
            if kind == "image":
                reason = "beyond max_images" if self.max_images is not None and kept >= self.max_images else self._fault(value)
                if reason is not None:
                    if faults is not None:
                        faults.append((reason, "" if isinstance(value, bytes) else str(value)))
                    continue
                kept += 1
            parts.append((kind, value))
        return Document(document.id, tuple(parts))

    def keep(self, document: Document) -> Document | None:
        """Return the document without dropped images, or None if the document is dropped; both are counted."""
        faults: list[tuple[str, str]] = []
        trimmed = self.trim(document, faults)
        reason = self._reason(trimmed)
        self.images.update(each for each, _ in faults)
        self.images["kept" if reason is None else "in dropped documents"] += trimmed.count("image")
        self.documents["kept" if reason is None else reason.partition(" (")[0]] += 1
        if reason is not None:
            self.dropped.append(f"{document.id}: {reason}")
        return trimmed if reason is None else None

    def refuse(self, id: str, reason: str, why: str) -> None:
        """Count a document that cannot be read.

        Args:
            id: name of the document.
            reason: short reason to count by.
            why: full message, listed in ``dropped``.
        """
        self.documents[reason] += 1
        self.dropped.append(f"{id}: {why}")

    def report(self) -> dict[str, dict[str, int]]:
        """Return the number of documents and of images kept, and dropped by reason, the most frequent reason first."""
        return {
            name: {"kept": counts["kept"], **{k: n for k, n in counts.most_common() if k != "kept" and n}}
            for name, counts in (("documents", self.documents), ("images", self.images))
        }

    def _reason(self, document: Document) -> str | None:
        """Return the reason for dropping a document, or None to keep it."""
        text = document.text
        words = _WORD.findall(text.lower())
        if len(words) < self.min_words or not (words or any(document.count(m) for m in MARKERS)):
            return f"too few words ({len(words)})"
        if document.count("image") == 1 and stable_group("single " + text) >= self.single_image_share * 2**63:
            return "one picture"
        if self.deduplicate == "none" or not words:
            return None
        digest = stable_group(" ".join(words))
        if digest in self._seen:
            return f"duplicate (of {self._seen[digest]})"
        near = self._similar.find(words, document.id) if self._similar is not None else None
        if near is not None:
            return f"near duplicate (of {near})"
        self._seen[digest] = document.id
        return None

    def _fault(self, image: Any) -> str | None:
        """Return the reason for dropping an image, or None to keep it."""
        if isinstance(image, str) and image.startswith(ADDRESSES):
            return "address"
        name = "" if isinstance(image, bytes) else Path(image).as_posix()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.exclude):
            return "excluded"
        if not isinstance(image, bytes) and not os.path.isfile(image):  # also False for a name that the file system does not allow
            return "missing"
        if not self.min_size:
            return None
        try:
            with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
                return "too small" if min(opened.size) < self.min_size else None
        except (*DECODE_ERRORS, Image.DecompressionBombError):
            return "unreadable"


class _Similar:
    """MinHash index of texts, to find near duplicates.

    Args:
        similarity: minimum Jaccard similarity of two texts' shingles.

    Raises:
        ConfigError: the package datasketch is not installed.
    """

    def __init__(self, similarity: float) -> None:
        try:
            from datasketch import MinHash, MinHashLSH
        except ImportError as error:
            raise ConfigError(f"deduplicate: near needs datasketch ({error}); zoo install documents, or choose exact") from error
        self._hash: Any = MinHash
        self.similarity, self.index, self.hashes = similarity, MinHashLSH(threshold=similarity, num_perm=PERMUTATIONS), {}

    def find(self, words: Sequence[str], id: str) -> str | None:
        """Return the id of the first document that is similar enough; if there is none, add this one and return None."""
        runs = {" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))}
        own = self._hash(num_perm=PERMUTATIONS, seed=1)
        own.update_batch([run.encode() for run in sorted(runs)])
        key = len(self.hashes)
        found: Any = self.index.query(own)  # candidate keys: the index is approximate, so each one is compared below
        near = [other for other in sorted(found) if own.jaccard(self.hashes[other][1]) >= self.similarity]
        if near:
            return self.hashes[near[0]][0]
        self.index.insert(key, own)
        self.hashes[key] = id, own
        return None
