r"""Judged answers: of two answers to one prompt which is the better, or of single ones whether they are desirable.

JSON lines in the forms of TRL's data sets, with pictures and clips as LLaVA's rows name them::

    {"prompt": "What is this?", "chosen": "A cat.", "rejected": "No idea.", "image": "cat.png"}
    {"prompt": [{"role": "user", "content": "<image>\nWhat is this?"}], "completion": "A cat.", "label": true, "image": "cat.png"}

A prompt is a string or messages; an answer is a string, a message, or messages of which the last is the answer. Without a prompt the
messages of "chosen" and "rejected" are whole conversations, equal but for their ends.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from zoo.data.readers.table import missing_key, read_table
from zoo.errors import ConfigError, DataError, name_choices
from zoo.processors.chat.messages import MARKERS, MEDIA_KEYS, Conversation
from zoo.registry import register
from zoo.sources.wording.captions import stable_group
from zoo.types import Sample

SPLITS = ("train", "validation")
SUFFIXES = (".jsonl", ".ndjson")
FAULTS_SHOWN = 3
CHOSEN, REJECTED = 1, 0  # labels; of single answers: desirable and not


@dataclass(frozen=True)
class _Judged:
    """One row: a pair, the chosen answer first, or a single answer."""

    answers: tuple[Conversation, ...]
    labels: tuple[int, ...]


@register("source")
class Preferences:
    """Pairs or single judged answers; one prompt in so many, by a hash of it, is for validation.

    An item is one answer: its label is 1 where it is chosen or desirable, else 0, and answers to one prompt of a row share a group. In
    training the two of a pair stand side by side, so that a batch of even size holds whole pairs.

    Args:
        path: a file of JSON lines.
        folder: that paths of pictures and clips are relative to; None is the file's own.
        validation_share: of the prompts.
        on_bad: "skip" leaves out rows that cannot be used, and ``skipped`` lists them; "error" refuses them.

    Raises:
        ConfigError: a word or a number that is not allowed.
        DataError: no such file, rows that cannot be used, pairs and single answers in one file, or nothing at all.
    """

    modalities = ("conversation", "image", "audio")
    splits = SPLITS
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    kinds = ("chosen", "rejected", "desirable", "undesirable")  # so that perplexity is told of either

    def __init__(
        self, *, path: str | Path, folder: str | Path | None = None, validation_share: float = 0.05, on_bad: str = "error"
    ) -> None:
        if not 0 <= validation_share < 1:
            raise ConfigError(f"validation_share: {validation_share}; allowed is from 0 to below 1")
        if on_bad not in ("error", "skip"):
            raise ConfigError(f"on_bad: there is no {on_bad!r}; {name_choices(on_bad, ('error', 'skip'))}")
        self.path = Path(path)
        if self.path.suffix.lower() not in SUFFIXES or not self.path.is_file():
            raise DataError(f"data.path: {self.path} is no file of JSON lines; give one whose name ends in {' or '.join(SUFFIXES)}")
        self.skipped: list[str] = []
        self._rows: dict[str, list[_Judged]] = {name: [] for name in SPLITS}
        for row in read_table(self.path, ()):
            try:
                if row.fault is not None:
                    raise DataError(row.fault)
                judged = _judged(row.values, f"{self.path.name}:{row.number}", Path(folder or self.path.parent))
            except DataError as fault:
                self.skipped.append(f"line {row.number}: {fault}")
                continue
            share = stable_group(json.dumps([repr(m) for m in judged.answers[0].messages[:-1]])) / 2**63
            self._rows["validation" if share < validation_share else "train"].append(judged)
        self._settle(on_bad)

    @property
    def paired(self) -> bool:
        """Whether the rows hold two answers each."""
        return any(len(row.answers) == 2 for rows in self._rows.values() for row in rows)

    def split(self, name: str) -> "PreferencesSplit":
        """The answers of one split.

        Raises:
            ConfigError: no such split.
            DataError: nothing fell into it.
        """
        if name not in SPLITS:
            raise ConfigError(f"split: there is no {name!r}; {name_choices(name, SPLITS)}")
        if not self._rows[name]:
            raise DataError(f"{self.path}: no prompt fell into {name!r}; change data.source.validation_share, or add rows")
        return PreferencesSplit(self._rows[name])

    def captions(self) -> list[str]:
        """All that is said in training, to train a tokenizer on."""
        return [m.text for row in self._rows["train"] for conversation in row.answers for m in conversation.messages]

    def _settle(self, on_bad: str) -> None:
        shown = "; ".join(self.skipped[:FAULTS_SHOWN]) + (", ..." if len(self.skipped) > FAULTS_SHOWN else "")
        if self.skipped and on_bad == "error":
            raise DataError(f"{self.path}: {len(self.skipped)} rows cannot be used ({shown}); mend them, or set data.source.on_bad=skip")
        sizes = {len(row.answers) for rows in self._rows.values() for row in rows}
        if not sizes:
            raise DataError(f"{self.path}: holds no row that can be used{f' ({shown})' if shown else ''}")
        if len(sizes) > 1:
            raise DataError(f"{self.path}: holds pairs (chosen, rejected) and single answers (completion, label); put them into two files")


class PreferencesSplit:
    """The answers of one split, those of a row side by side."""

    def __init__(self, rows: Sequence[_Judged]) -> None:
        self.rows, self.width = rows, len(rows[0].answers)

    def __len__(self) -> int:
        return self.width * len(self.rows)

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Answer ``index`` with its prompt; nothing is drawn."""
        row, place = self.rows[index // self.width], index % self.width
        conversation = row.answers[place]
        group = stable_group(conversation.id.rpartition(" ")[0])
        label = row.labels[place]
        kind = (("undesirable", "desirable") if self.width == 1 else ("rejected", "chosen"))[label]
        return Sample(conversation.id, {"conversation": conversation}, group, label, [conversation.answer], kind)

    def order(self, seed: int, epoch: int) -> Int[np.ndarray, " items"]:
        """Rows in random order, their answers side by side: rows 2, 0, 1 of pairs are the items ``4 5 0 1 2 3``."""
        rows = np.random.default_rng((seed, epoch)).permutation(len(self.rows))
        return (rows[:, None] * self.width + np.arange(self.width)).flatten()


def _judged(row: Mapping[str, Any], id: str, folder: Path) -> _Judged:
    """A row of JSON as conversations with labels.

    Raises:
        DataError: it is no such row.
    """
    keys = ("completion",) if "completion" in row else ("chosen", "rejected")
    for key in (*keys, *(("label",) if "completion" in row else ())):
        if key not in row:
            raise DataError(f"{missing_key(key, list(row))}; a row has prompt, chosen and rejected, or prompt, completion and label")
    if "completion" in row and not (isinstance(row["label"], bool) or row["label"] in (0, 1)):
        raise DataError(f"label: {row['label']!r}; allowed are true and false")
    media = {key: row[key] for keys in MEDIA_KEYS.values() for key in keys if row.get(key) is not None}
    answers = []
    for key in keys:
        messages = _messages(row, key)
        answers.append(Conversation.parse({"messages": messages, **media}, folder, id=f"{id} {key}"))
    if len(answers) == 2 and answers[0].messages[:-1] != answers[1].messages[:-1]:
        raise DataError("chosen and rejected answer different prompts")
    for answer in answers:
        if not answer.answer.strip() or len(answer.messages) < 2:
            raise DataError("an answer is empty, or has no prompt before it")
    return _Judged(tuple(answers), (CHOSEN, REJECTED) if len(answers) == 2 else (int(row["label"]),))


def _messages(row: Mapping[str, Any], key: str) -> list[Any]:
    """The prompt's messages with an answer behind them."""
    answer = row[key]
    said = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else [answer] if isinstance(answer, Mapping) else answer
    if not isinstance(said, list) or not said:
        raise DataError(f"{key}: holds {type(answer).__name__}; give a string, a message or messages")
    prompt = row.get("prompt", [])
    if not isinstance(prompt, str):
        return [*prompt, *said] if isinstance(prompt, list) else [prompt, *said]
    shown = "".join(marker * (_number(row, modality) - prompt.count(marker)) for modality, marker in MARKERS.items())
    return [{"role": "user", "content": f"{shown}\n{prompt}" if shown else prompt}, *said]


def _number(row: Mapping[str, Any], modality: str) -> int:
    """How many pictures or clips a row names."""
    value = next((row[key] for key in MEDIA_KEYS[modality] if row.get(key) is not None), [])
    return len(value) if isinstance(value, list) else 1
