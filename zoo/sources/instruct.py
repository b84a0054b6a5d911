"""Visual instruction data of the user: conversations in JSON or JSON lines (LLaVA's format or messages), with media in separate files."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from zoo.data.groups import stable_group
from zoo.errors import ConfigError, DataError, ItemError
from zoo.processors.chat.messages import Conversation
from zoo.registry import register
from zoo.sources.wording.splits import refuse_split
from zoo.storage.outside import parse_json, refuse_special
from zoo.types import Sample, Source, Split

SPLITS = ("train", "validation", "test")
VALIDATION_SHARE = 0.02


@dataclass(frozen=True)
class Row:
    """One conversation as unparsed JSON; it is parsed when its sample is read.

    Attributes:
        number: line number, or position in a JSON list, from 1.
    """

    text: bytes
    file: Path
    number: int

    @property
    def name(self) -> str:
        """Position of the row for messages, ``FILE:NUMBER``."""
        return f"{self.file.name}:{self.number}"


@register("source")
class Instruct(Source):
    r"""Conversations of one or several files.

    A row is LLaVA's ``{"image": "a.png", "conversations": [{"from": "human", "value": "<image>\nwhat?"}, ...]}`` or
    ``{"messages": [{"role": "user", "content": ...}, ...]}``, where content is a string or a list of parts. Optional ``answers`` (a list of
    reference answers) and ``kind`` are used in evaluation. A row that cannot be used raises an error when its item is read
    (see ``data.on_bad_item``).

    Args:
        path: a JSON or JSON-lines file, or a list of them.
        weights: relative frequency of each file in an epoch: [2, 1] takes twice as many conversations from the first file as from the
            second, independently of their lengths. None takes every conversation once.
        validation: one or several files; None takes one conversation in fifty of ``path`` out of training, by a hash of its text.
        test: one or several files; None uses the validation split.
        folder: base folder of the paths of images and audio clips; None takes the folder of each file.

    Raises:
        ConfigError: the number of weights differs from the number of files, or a weight is not positive.
        DataError: a file cannot be read, or has no conversation to train on.
    """

    modalities = ("image", "audio", "conversation")
    splits = SPLITS
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        path: str | Path | Sequence[str | Path],
        weights: Sequence[float | int] | None = None,
        validation: str | Path | Sequence[str | Path] | None = None,
        test: str | Path | Sequence[str | Path] | None = None,
        folder: str | Path | None = None,
    ) -> None:
        files = _listed(path)
        if weights is not None and (len(weights) != len(files) or min(weights) <= 0):
            raise ConfigError(f"weights: {list(weights)} for {len(files)} file(s); give a positive number for each file of path")
        self.weights, self.folder = weights, None if folder is None else Path(folder)
        rows = [list(read_rows(file)) for file in files]
        kept = [[row for row in each if validation is not None or not _is_validation(row)] for each in rows]
        held = [row for each in rows for row in each if _is_validation(row)] if validation is None else _rows_of(validation)
        self._rows = {"train": [row for each in kept for row in each], "validation": held, "test": held if test is None else _rows_of(test)}
        self._sizes = [len(each) for each in kept]
        if not all(self._sizes):
            empty = files[self._sizes.index(0)]
            raise DataError(f"data.path: {empty} holds no conversation to train on; give one JSON object per line, or a JSON list of them")

    def split(self, name: str) -> "InstructSplit":
        """Return the conversations of one split.

        Raises:
            DataError: no such split, or it is empty.
        """
        refuse_split(name, SPLITS)
        if not self._rows[name]:
            raise DataError(f"data.{name}: the split has no conversation; give a file with data.source.{name}=PATH")
        order = WeightedOrder(self._sizes, self.weights) if name == "train" and self.weights is not None else None
        return InstructSplit(self._rows[name], self.folder, order)

    def captions(self) -> list[str]:
        """Return the messages of the training split, as text to train a tokenizer on; rows that cannot be used are left out."""
        texts: dict[str, None] = {}
        for row in self._rows["train"]:
            try:
                said = conversation_of(row, self.folder)[0]
            except ItemError:
                continue
            texts |= dict.fromkeys(message.text for message in said.messages)
        return list(texts)


class WeightedOrder:
    """Order of an epoch in which each file has a given share of the items.

    Within a file, the numbers of repeats of any two items differ by one at most. Example: with files of 2 and 4 items and weights [1, 1],
    an epoch of six is ``[0 3 1 5 0 2]``: three items of each file.

    Args:
        sizes: number of items of each file; their sum is the length of an epoch.
        weights: relative shares of the files.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float | int]) -> None:
        self.starts = np.cumsum([0, *sizes[:-1]])
        # Rounding the cumulative counts, not each count, makes their sum exactly the length of the epoch.
        ends = np.round(np.cumsum(np.array(weights, dtype=float)) / sum(weights) * sum(sizes)).astype(int)
        self.sizes, self.counts = list(sizes), np.diff(ends, prepend=0)

    def __call__(self, seed: int, epoch: int) -> Int[np.ndarray, " places"]:
        generator = np.random.default_rng((seed, epoch))
        drawn = []
        for start, size, count in zip(self.starts, self.sizes, self.counts, strict=True):
            whole, rest = divmod(int(count), size)
            drawn += [start + np.tile(np.arange(size), whole), start + generator.choice(size, rest, replace=False)]
        return generator.permutation(np.concatenate(drawn))


class InstructSplit(Split):
    """One split of conversations, parsed lazily; images and audio clips stay paths until the processor opens them."""

    def __init__(self, rows: Sequence[Row], folder: Path | None, order: WeightedOrder | None = None) -> None:
        self.rows, self.folder = rows, folder
        if order is not None:
            self.order = order

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Return conversation ``index``; the generator is not used.

        Raises:
            ItemError: the row cannot be used; the message begins with its position.
        """
        row = self.rows[index]
        conversation, answers, kind = conversation_of(row, self.folder)
        given = [conversation.answer] if conversation.answer else []
        return Sample(row.name, {"conversation": conversation}, answers=answers or given, kind=kind)


def conversation_of(row: Row, folder: Path | None) -> tuple[Conversation, list[str], str]:
    """Return the conversation of a row, its reference answers, and the kind of its question.

    Args:
        folder: base folder of media paths; None takes the folder of the row's file.

    Raises:
        ItemError: the row is not valid JSON, or not a conversation.
    """
    content = parse_json(row.text, f"conversation {row.name}", lambda message: ItemError(message, "json"))
    conversation = Conversation.parse(content, row.file.parent if folder is None else folder, row.name)
    content = content if isinstance(content, dict) else {}
    answers = content.get("answers", [])
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise ItemError(f"conversation {row.name}: answers are {str(answers)[:60]}; give a list of strings", "conversation")
    return conversation, answers, str(content.get("kind", ""))


def read_rows(file: Path) -> Iterator[Row]:
    """Yield the rows of a JSON list or of JSON lines.

    Raises:
        DataError: the file cannot be read, or begins with "[" and is not valid JSON.
    """
    refuse_special(file, lambda message: DataError(f"data.path: {message}"))
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"data.path: {file} cannot be read ({error}); give a file of JSON or JSON lines") from error
    if not content.lstrip().startswith(b"["):
        lines = enumerate(content.splitlines(), start=1)
        yield from (Row(line, file, number) for number, line in lines if line.strip())
        return
    rows = parse_json(content, f"data.path: {file}", DataError)
    yield from (Row(json.dumps(row).encode(), file, number) for number, row in enumerate(rows, start=1))


def _listed(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    listed = [paths] if isinstance(paths, str | Path) else paths
    return [Path(path) for path in listed]


def _rows_of(paths: str | Path | Sequence[str | Path]) -> list[Row]:
    return [row for file in _listed(paths) for row in read_rows(file)]


def _is_validation(row: Row) -> bool:
    return stable_group(row.text.decode("utf-8", "surrogateescape")) < VALIDATION_SHARE * 2**63
