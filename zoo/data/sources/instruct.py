"""Conversations of your own: JSON or JSON lines, of LLaVA's form or of messages, with pictures and clips in files beside them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from zoo.data.messages import Conversation
from zoo.data.sources._captions import stable_group
from zoo.data.sources.digits import refuse_split
from zoo.errors import ConfigError, DataError, ItemError
from zoo.registry import register
from zoo.types import Sample

SPLITS = ("train", "validation", "test")
VALIDATION_SHARE = 0.02


@dataclass(frozen=True)
class Row:
    """One conversation as it is written, to be read when it is asked for."""

    text: bytes
    file: Path
    number: int

    @property
    def name(self) -> str:
        """Where it stands."""
        return f"{self.file.name}:{self.number}"


@register("source")
class Instruct:
    r"""The conversations of one file or several.

    A row is LLaVA's ``{"image": "a.png", "conversations": [{"from": "human", "value": "<image>\nwhat?"}, ...]}`` or
    ``{"messages": [{"role": "user", "content": ...}, ...]}``, whose content is a string or a list of parts; ``answers`` (a list) and
    ``kind`` are kept for evaluation. A row that cannot be used is an error of the item (``data.on_bad_item``).

    Args:
        path: a JSON or JSON-lines file, or a list of them.
        weights: how often each file is shown, in relation: [2, 1] shows the first twice as often as the second, whatever their lengths;
            None shows every conversation once in an epoch.
        validation: a file, or several; None takes one conversation in fifty of ``path`` out of training, by a hash of its text.
        test: likewise; None tests on validation.
        folder: that paths of pictures and clips are relative to; None: each file's own.

    Raises:
        ConfigError: weights that do not fit the files.
        DataError: a file that cannot be read, or holds nothing.
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
            raise DataError(f"data.path: {empty} holds no conversation to train on; give one JSON object a line, or a JSON list of them")

    def split(self, name: str) -> "InstructSplit":
        """The conversations of one split.

        Raises:
            DataError: no such split, or nothing in it.
        """
        refuse_split(name, SPLITS)
        if not self._rows[name]:
            raise DataError(f"data.{name}: no conversation fell into it; name a file with data.source.{name}=PATH")
        order = WeightedOrder(self._sizes, self.weights) if name == "train" and self.weights is not None else None
        return InstructSplit(self._rows[name], self.folder, order)

    def captions(self) -> list[str]:
        """All that is said in training, to train a tokenizer on; rows that cannot be used are left out."""
        texts: dict[str, None] = {}
        for row in self._rows["train"]:
            try:
                said = conversation_of(row, self.folder)[0]
            except ItemError:
                continue
            texts |= dict.fromkeys(message.text for message in said.messages)
        return list(texts)


class WeightedOrder:
    """An epoch in which files have given shares, and the conversations of each stand equally often, up to one.

    With files of 2 and 4 and weights [1, 1], an epoch of six is for example ``[0 3 1 5 0 2]``: three of each.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float | int]) -> None:
        self.starts = np.cumsum([0, *sizes[:-1]])
        ends = np.round(np.cumsum(np.array(weights, dtype=float)) / sum(weights) * sum(sizes)).astype(int)
        self.sizes, self.counts = list(sizes), np.diff(ends, prepend=0)

    def __call__(self, seed: int, epoch: int) -> Int[np.ndarray, " places"]:
        generator = np.random.default_rng((seed, epoch))
        drawn = []
        for start, size, count in zip(self.starts, self.sizes, self.counts, strict=True):
            whole, rest = divmod(int(count), size)
            drawn += [start + np.tile(np.arange(size), whole), start + generator.choice(size, rest, replace=False)]
        return generator.permutation(np.concatenate(drawn))


class InstructSplit:
    """Conversations, read when asked for; their pictures and clips are paths until the processor opens them."""

    def __init__(self, rows: Sequence[Row], folder: Path | None, order: WeightedOrder | None = None) -> None:
        self.rows, self.folder = rows, folder
        if order is not None:
            self.order = order

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Conversation ``index``, always the same.

        Raises:
            ItemError: the row cannot be used; the message begins with where it stands.
        """
        row = self.rows[index]
        conversation, answers, kind = conversation_of(row, self.folder)
        given = [conversation.answer] if conversation.answer else []
        return Sample(row.name, {"conversation": conversation}, answers=answers or given, kind=kind)


def conversation_of(row: Row, folder: Path | None) -> tuple[Conversation, list[str], str]:
    """The conversation of a row, its reference answers, and the kind of its question.

    Raises:
        ItemError: the row is not valid JSON or no conversation.
    """
    try:
        content = json.loads(row.text)
    except ValueError as error:
        raise ItemError(f"conversation {row.name} is not valid JSON ({error})", "json") from error
    conversation = Conversation.parse(content, row.file.parent if folder is None else folder, row.name)
    content = content if isinstance(content, dict) else {}
    answers = content.get("answers", [])
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise ItemError(f"conversation {row.name}: answers are {str(answers)[:60]}; give a list of strings", "conversation")
    return conversation, answers, str(content.get("kind", ""))


def read_rows(file: Path) -> Iterator[Row]:
    """The rows of a JSON list or of JSON lines, each as its own text.

    Raises:
        DataError: the file cannot be read, or is JSON of another kind.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"data.path: {file} cannot be read ({error}); give a file of JSON or JSON lines") from error
    if not content.lstrip().startswith(b"["):
        lines = enumerate(content.splitlines(), start=1)
        yield from (Row(line, file, number) for number, line in lines if line.strip())
        return
    try:
        rows = json.loads(content)
    except ValueError as error:
        raise DataError(f"data.path: {file} is not valid JSON ({error}); mend it, or write one JSON object a line") from error
    yield from (Row(json.dumps(row).encode(), file, number) for number, row in enumerate(rows, start=1))


def _listed(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    listed = [paths] if isinstance(paths, str | Path) else paths
    return [Path(path) for path in listed]


def _rows_of(paths: str | Path | Sequence[str | Path]) -> list[Row]:
    return [row for file in _listed(paths) for row in read_rows(file)]


def _is_validation(row: Row) -> bool:
    return stable_group(row.text.decode("utf-8", "surrogateescape")) < VALIDATION_SHARE * 2**63
