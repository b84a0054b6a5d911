"""Pairs of texts in two languages, or of any text and the text that is to be written from it.

Formats: two files with one text per line, JSON lines, and TMX (Translation Memory eXchange 1.4b, LISA 2005). Pairs of one page go into one
split, because phrases repeat within a page. A pair of validation or test is left out if training has its source or target text, apart from
case, spaces and punctuation.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from zoo.data.groups import stable_group
from zoo.data.order import Order, bucketed
from zoo.errors import ConfigError, DataError
from zoo.registry import register
from zoo.sources.wording.splits import refuse_split
from zoo.storage.outside import refuse_special
from zoo.types import Sample, Source, Split

SPLITS = ("train", "validation", "test")
FOLDER_FILE = "pairs.jsonl"  # in a folder of ``zoo fetch``
XML_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
ENTITY = "<!ENTITY"  # definitions that could expand without end; TMX has none


@dataclass(frozen=True)
class Pair:
    """One pair: name for messages, source text, target text, and the page that it stands on."""

    id: str
    text: str
    target: str
    page: str


@register("source")
class Parallel(Source):
    """Pairs of source and target text, without repeated pairs and pairs of two equal texts.

    Args:
        path: JSON lines (``.jsonl``), a TMX (``.tmx``), a text file with one source text per line, or a folder with ``pairs.jsonl`` (``zoo
            fetch libreoffice_help_de``).
        target_path: for a text file: the file with one target text per line; lines of equal number belong together.
        source_language: key of the source text in JSON lines, or its language in TMX ("en" also takes "en-US").
        target_language: key or language of the target text.
        page_key: key in JSON lines of the page, document or other group that is kept in one split; without it every source text is one.
        prefix: put before every source text, for example T5's "translate English to German: ".
        min_words: shortest source text, in words.
        max_words: longest source and target text, in words.
        split_fractions: shares of the pages in training, validation and test.
        joined: give both texts as one pair of segments, for translation language modelling (Conneau and Lample 2019, XLM).
        batch_size: number of neighbouring training items of nearly equal length (use the value of training.batch_size); 1 gives a random
            order.

    Raises:
        ConfigError: a number out of its range.
        DataError: a file cannot be read, or holds no pair.
    """

    modalities: Sequence[str] = ("text", "target")  # type: ignore[misc]
    splits = SPLITS

    def __init__(
        self,
        *,
        path: str | Path,
        target_path: str | Path | None = None,
        source_language: str = "en",
        target_language: str = "de",
        page_key: str = "page",
        prefix: str = "",
        min_words: int = 1,
        max_words: int = 100,
        split_fractions: Sequence[float] = (0.96, 0.02, 0.02),
        joined: bool = False,
        batch_size: int = 1,
    ) -> None:
        if not 1 <= min_words <= max_words or batch_size < 1:
            raise ConfigError(
                f"min_words {min_words}, max_words {max_words}, batch_size {batch_size}; allowed are 1 or more, and min_words <= max_words"
            )
        shares = tuple(split_fractions)
        if len(shares) != len(SPLITS) or min(shares) < 0 or not 0.999 < sum(shares) < 1.001 or shares[0] == 0:
            raise ConfigError(f"split_fractions: {list(shares)}; allowed are three shares of {', '.join(SPLITS)} that sum to 1")
        self.languages, self.page_key, self.prefix = (source_language, target_language), page_key, prefix
        self.joined, self.batch_size = joined, batch_size
        if joined:
            self.modalities = ("text",)
        found = list(self._read(Path(path), None if target_path is None else Path(target_path)))
        self._pairs, self._report = _divided(found, (min_words, max_words), shares)
        if not self._pairs["train"]:
            raise DataError(f"data.path: {path} holds no pair for training ({self._report}); change min_words or max_words, or the file")

    def split(self, name: str) -> "ParallelSplit":
        """Return the pairs of one split.

        Raises:
            DataError: no such split.
        """
        refuse_split(name, self.splits)
        return ParallelSplit(self._pairs[name], self)

    def captions(self) -> list[str]:
        """Return source and target texts of the training split, as text to train a tokenizer on."""
        return [text for pair in self._pairs["train"] for text in (self.prefix + pair.text, pair.target)]

    def report(self) -> Mapping[str, Any]:
        """Return how many pairs were read, left out for each reason, and kept in each split."""
        return self._report

    def _read(self, path: Path, target_path: Path | None) -> Iterator[Pair]:
        path = path / FOLDER_FILE if path.is_dir() else path
        for each in (path, target_path):
            if each is not None:
                refuse_special(each, lambda message: DataError(f"data.path: {message}"))
        try:
            if target_path is not None:
                return _read_lines(path, target_path)
            if path.suffix == ".tmx":
                return _read_tmx(path, self.languages)
            if path.suffix == ".jsonl":
                return _read_json_lines(path, self.languages, self.page_key)
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"data.path: {path} cannot be read ({error}); give UTF-8 files") from error
        raise DataError(
            f"data.path: {path} is neither .jsonl nor .tmx; for two text files with one text per line also set data.source.target_path"
        )


class ParallelSplit(Split):
    """Pairs of one split."""

    def __init__(self, pairs: Sequence[Pair], source: Parallel) -> None:
        self.pairs, self.prefix, self.joined = pairs, source.prefix, source.joined
        self.batch_size = source.batch_size
        self.order = self._bucketed if source.batch_size > 1 else None
        self._lengths = np.array([len(pair.text) + len(pair.target) for pair in pairs])

    def __len__(self) -> int:
        return len(self.pairs)

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Return pair ``index``; ``answers`` holds the target text."""
        pair = self.pairs[index]
        text = self.prefix + pair.text
        inputs: dict[str, Any] = {"text": (text, pair.target)} if self.joined else {"text": text, "target": pair.target}
        return Sample(pair.id, inputs, answers=[pair.target])

    def _bucketed(self, seed: int, epoch: int) -> Order:
        return bucketed(self._lengths, self.batch_size, seed, epoch)


def _read_lines(path: Path, target_path: Path) -> Iterator[Pair]:
    ours, theirs = (each.read_text(encoding="utf-8").splitlines() for each in (path, target_path))
    if len(ours) != len(theirs):
        raise DataError(
            f"data.path: {path} has {len(ours)} lines and {target_path} has {len(theirs)}; lines of equal number belong together, so that "
            "both must have equally many"
        )
    return (Pair(f"line {i}", a.strip(), b.strip(), a.strip()) for i, (a, b) in enumerate(zip(ours, theirs, strict=True), 1))


def _read_json_lines(path: Path, languages: tuple[str, str], page_key: str) -> Iterator[Pair]:
    lines = path.read_text(encoding="utf-8").splitlines()

    def pairs() -> Iterator[Pair]:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"data.path: {path}, line {number}: no JSON ({error}); correct or remove the line") from error
            ours, theirs = (row.get(key) if isinstance(row, dict) else None for key in languages)
            if not isinstance(ours, str) or not isinstance(theirs, str):
                held = ", ".join(row) if isinstance(row, dict) else type(row).__name__
                raise DataError(
                    f"data.path: {path}, line {number}: no texts under {languages[0]!r} and {languages[1]!r} (it holds {held}); set "
                    "data.source.source_language and target_language to two of its keys"
                )
            yield Pair(f"line {number}", ours.strip(), theirs.strip(), str(row.get(page_key, ours)))

    return pairs()


def _read_tmx(path: Path, languages: tuple[str, str]) -> Iterator[Pair]:
    """Read the units of a TMX that hold both languages."""
    head = path.read_bytes()[:65536]
    if ENTITY.encode() in head or ENTITY.encode("utf-16-le") in head:
        raise DataError(f"data.path: {path} defines XML entities, which no TMX needs; remove the definitions")

    def pairs() -> Iterator[Pair]:
        try:
            for number, (_, unit) in enumerate((e for e in ElementTree.iterparse(path) if e[1].tag == "tu"), 1):
                texts = {_language(variant): _segment(variant) for variant in unit.iter("tuv")}
                ours, theirs = (_find(texts, language) for language in languages)
                unit.clear()
                if ours is not None and theirs is not None:
                    yield Pair(f"unit {number}", ours, theirs, ours)
        except ElementTree.ParseError as error:
            raise DataError(f"data.path: {path} is no valid XML ({error}); correct the file") from error

    return pairs()


def _language(variant: ElementTree.Element) -> str:
    return (variant.get(XML_LANGUAGE) or variant.get("lang") or "").lower()


def _segment(variant: ElementTree.Element) -> str:
    segment = variant.find("seg")
    return "" if segment is None else " ".join("".join(segment.itertext()).split())


def _find(texts: Mapping[str, str], language: str) -> str | None:
    wanted = language.lower()
    return next((text for code, text in texts.items() if code == wanted or code.startswith(f"{wanted}-")), None)


def _divided(pairs: Sequence[Pair], words: tuple[int, int], shares: tuple[float, ...]) -> tuple[dict[str, list[Pair]], dict[str, int]]:
    """Return the pairs of each split, and numbers of those read and left out."""
    found: dict[str, list[Pair]] = {name: [] for name in SPLITS}
    report = {"read": len(pairs), "empty or equal": 0, "repeated": 0, "too short or long": 0, "also in training": 0}
    seen = set()
    for pair in pairs:
        if not pair.text or not pair.target or pair.text == pair.target:
            report["empty or equal"] += 1
        elif (pair.text, pair.target) in seen:
            report["repeated"] += 1
        elif len(pair.text.split()) < words[0] or max(len(pair.text.split()), len(pair.target.split())) > words[1]:
            report["too short or long"] += 1
        else:
            seen.add((pair.text, pair.target))
            found[_split_of(pair.page, shares)].append(pair)
    known = {_letters(text) for pair in found["train"] for text in (pair.text, pair.target)}
    for name in SPLITS[1:]:
        own = [pair for pair in found[name] if known.isdisjoint((_letters(pair.text), _letters(pair.target)))]
        report["also in training"] += len(found[name]) - len(own)
        found[name] = own
    return found, report | {name: len(each) for name, each in found.items()}


def _letters(text: str) -> str:
    """Return the letters and digits of a text in lower case, by which two texts count as equal; all of it if it has none."""
    return "".join(filter(str.isalnum, text.casefold())) or text


def _split_of(page: str, shares: tuple[float, ...]) -> str:
    place = stable_group(page) / 2**63
    return "test" if place >= shares[0] + shares[1] and shares[2] else "validation" if place >= shares[0] and shares[1] else "train"
