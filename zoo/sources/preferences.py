r"""Preference data: pairs of a chosen and a rejected answer to one prompt, ranked answers, or single answers with a label.

JSON lines in the formats of TRL's data sets, with images and audio clips named as in LLaVA's rows::

    {"prompt": "What is this?", "chosen": "A cat.", "rejected": "No idea.", "image": "cat.png"}
    {"prompt": "What is this?", "answers": ["A black cat.", "A cat.", "No idea."], "image": "cat.png"}
    {"prompt": [{"role": "user", "content": "<image>\nWhat is this?"}], "completion": "A cat.", "label": true, "image": "cat.png"}

A prompt is a string or a list of messages. An answer is a string, a message, or a list of messages whose last one is the answer. Ranked
answers (for head ``reward``) stand from the best to the worst, as many in every row. Without a prompt, the answers are whole conversations
that differ in their last message only.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from zoo.data.groups import stable_group
from zoo.data.readers.table import missing_key, read_table
from zoo.errors import ConfigError, DataError, name_choices
from zoo.processors.chat.messages import MARKERS, MEDIA_KEYS, Conversation
from zoo.registry import register
from zoo.types import Sample, Source, Split

SPLITS = ("train", "validation")
SUFFIXES = (".jsonl", ".ndjson")
FAULTS_SHOWN = 3
CHOSEN, REJECTED = 1, 0  # labels; single answers use the same numbers for desirable and undesirable


@dataclass(frozen=True)
class _Judged:
    """One row: answers from the best to the worst, or a single answer; each is a conversation that ends with the answer."""

    answers: tuple[Conversation, ...]
    labels: tuple[int, ...]


@register("source")
class Preferences(Source):
    """Preference pairs, ranked answers, or single labelled answers; a hash of the prompt assigns a row to train or validation.

    An item is one answer. Its label is 1 if it is chosen or desirable, else 0, and the answers of one row share a group. Of n ranked
    answers, the best has the label n - 1 and the worst 0. In training the answers of a row are adjacent, so that a batch holds whole rows
    if its size is a multiple of their number.

    Args:
        path: a JSON-lines file.
        folder: base folder of the paths of images and audio clips; None takes the folder of the file.
        validation_share: share of the prompts in validation, from 0 to below 1.
        on_bad: "skip" leaves out rows that cannot be used, and lists them in ``skipped``; "error" raises DataError for them.

    Raises:
        ConfigError: a value is not allowed.
        DataError: the file does not exist, no row can be used, rows are faulty and ``on_bad`` is "error", or the file mixes pairs and
            single answers.
    """

    modalities = ("conversation", "image", "audio")
    splits = SPLITS
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    kinds = ("chosen", "rejected", "desirable", "undesirable")  # evaluation reports the perplexity of each kind

    def __init__(
        self, *, path: str | Path, folder: str | Path | None = None, validation_share: float = 0.05, on_bad: str = "error"
    ) -> None:
        if not 0 <= validation_share < 1:
            raise ConfigError(f"validation_share: {validation_share}; allowed is from 0 to below 1")
        if on_bad not in ("error", "skip"):
            raise ConfigError(f"on_bad: there is no {on_bad!r}; {name_choices(on_bad, ('error', 'skip'))}")
        self.path = Path(path)
        if self.path.suffix.lower() not in SUFFIXES or not self.path.is_file():
            raise DataError(f"data.path: {self.path} is not a JSON-lines file; give a file whose name ends in {' or '.join(SUFFIXES)}")
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
        """True if the rows are pairs of answers."""
        return any(len(row.answers) == 2 for rows in self._rows.values() for row in rows)

    def split(self, name: str) -> "PreferencesSplit":
        """Return the answers of one split.

        Raises:
            ConfigError: no such split.
            DataError: the split is empty.
        """
        if name not in SPLITS:
            raise ConfigError(f"split: there is no {name!r}; {name_choices(name, SPLITS)}")
        if not self._rows[name]:
            raise DataError(f"{self.path}: the split {name!r} has no prompt; change data.source.validation_share, or add rows")
        return PreferencesSplit(self._rows[name])

    def captions(self) -> list[str]:
        """Return the messages of the training split, as text to train a tokenizer on."""
        return [m.text for row in self._rows["train"] for conversation in row.answers for m in conversation.messages]

    def _settle(self, on_bad: str) -> None:
        shown = "; ".join(self.skipped[:FAULTS_SHOWN]) + (", ..." if len(self.skipped) > FAULTS_SHOWN else "")
        if self.skipped and on_bad == "error":
            raise DataError(f"{self.path}: {len(self.skipped)} rows cannot be used ({shown}); correct them, or set data.source.on_bad=skip")
        sizes = {len(row.answers) for rows in self._rows.values() for row in rows}
        if not sizes:
            raise DataError(f"{self.path}: holds no row that can be used{f' ({shown})' if shown else ''}")
        if sizes == {1, 2}:
            raise DataError(f"{self.path}: holds pairs (chosen, rejected) and single answers (completion, label); put them into two files")
        if len(sizes) > 1:
            raise DataError(f"{self.path}: holds rows of {sorted(sizes)} answers; put those of each number into a file of its own")


class PreferencesSplit(Split):
    """Answers of one split; the answers of a row are adjacent."""

    def __init__(self, rows: Sequence[_Judged]) -> None:
        self.rows, self.width = rows, len(rows[0].answers)

    def __len__(self) -> int:
        return self.width * len(self.rows)

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Return answer ``index`` with its prompt; the generator is not used."""
        row, place = self.rows[index // self.width], index % self.width
        conversation = row.answers[place]
        group = stable_group(conversation.id.rpartition(" ")[0])
        label = row.labels[place]
        names = ("undesirable", "desirable") if self.width == 1 else ("rejected", "chosen")  # of ranked answers the best is chosen
        kind = names[label >= max(self.width - 1, 1)]
        return Sample(conversation.id, {"conversation": conversation}, group, label, [conversation.answer], kind)

    def order(self, seed: int, epoch: int) -> Int[np.ndarray, " items"]:
        """Return the rows in random order with adjacent answers: pairs in the order 2, 0, 1 are the items ``4 5 0 1 2 3``."""
        rows = np.random.default_rng((seed, epoch)).permutation(len(self.rows))
        return (rows[:, None] * self.width + np.arange(self.width)).flatten()


def _judged(row: Mapping[str, Any], id: str, folder: Path) -> _Judged:
    """Convert a JSON row to conversations with labels.

    Args:
        id: name of the row for messages.
        folder: base folder of media paths.

    Raises:
        DataError: the row is not a preference pair or a labelled answer.
    """
    if "answers" in row:
        said = row["answers"]
        if not isinstance(said, list) or len(said) < 2:
            raise DataError(f"answers: {str(said)[:40]!r}; give a list of at least two answers, from the best to the worst")
        given = {f"answer {place + 1}": answer for place, answer in enumerate(said)}
        return _Judged(_conversations(row, given, id, folder), tuple(reversed(range(len(given)))))
    keys = ("completion",) if "completion" in row else ("chosen", "rejected")
    for key in (*keys, *(("label",) if "completion" in row else ())):
        if key not in row:
            raise DataError(f"{missing_key(key, list(row))}; a row has prompt, chosen and rejected, or prompt, completion and label")
    if "completion" in row and not (isinstance(row["label"], bool) or row["label"] in (0, 1)):
        raise DataError(f"label: {row['label']!r}; allowed are true and false")
    answers = _conversations(row, {key: row[key] for key in keys}, id, folder)
    return _Judged(answers, (CHOSEN, REJECTED) if len(answers) == 2 else (int(row["label"]),))


def _conversations(row: Mapping[str, Any], given: Mapping[str, Any], id: str, folder: Path) -> tuple[Conversation, ...]:
    """Return a conversation for each answer of a row, which are given by their names."""
    media = {key: row[key] for keys in MEDIA_KEYS.values() for key in keys if row.get(key) is not None}
    answers = [
        Conversation.parse({"messages": _messages(row, key, answer), **media}, folder, id=f"{id} {key}") for key, answer in given.items()
    ]
    if any(answer.messages[:-1] != answers[0].messages[:-1] for answer in answers):
        raise DataError(f"{' and '.join(given)} answer different prompts")
    for answer in answers:
        if not answer.answer.strip() or len(answer.messages) < 2:
            raise DataError("an answer is empty, or has no prompt before it")
    return tuple(answers)


def _messages(row: Mapping[str, Any], key: str, answer: Any) -> list[Any]:
    """Return the messages of the prompt, followed by an answer; ``key`` is its name for messages."""
    said = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else [answer] if isinstance(answer, Mapping) else answer
    if not isinstance(said, list) or not said:
        raise DataError(f"{key}: holds {type(answer).__name__}; give a string, a message or messages")
    prompt = row.get("prompt", [])
    if not isinstance(prompt, str):
        return [*prompt, *said] if isinstance(prompt, list) else [prompt, *said]
    # Images and clips that a string prompt does not mention are placed before it.
    shown = "".join(marker * (_number(row, modality) - prompt.count(marker)) for modality, marker in MARKERS.items())
    return [{"role": "user", "content": f"{shown}\n{prompt}" if shown else prompt}, *said]


def _number(row: Mapping[str, Any], modality: str) -> int:
    """Return the number of images or audio clips that a row names."""
    value = next((row[key] for key in MEDIA_KEYS[modality] if row.get(key) is not None), [])
    return len(value) if isinstance(value, list) else 1
