"""Base classes of sources, from which samples come, and of their splits."""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np


@dataclass
class Sample:
    """One item of a source, still raw.

    Attributes:
        id: file and row, or another name that leads back to the item.
        inputs: raw input by modality: an image (PIL or uint8 array), a waveform, a string.
        group: items with equal numbers have the same meaning; None if the source has no such information.
        label: class number, for evaluation.
        answers: right answers to a conversation's last question, the plainest first, or reference captions.
        kind: kind of the question ("sum", "capital"), for metrics by kind; empty if there is one kind only.
        choices: strings or images of which one is right, if an answer is chosen and not written.
    """

    id: str
    inputs: dict[str, Any]
    group: int | None = None
    label: int | None = None
    answers: list[str] = field(default_factory=list)
    kind: str = ""
    choices: list[Any] = field(default_factory=list)


class Split:
    """The samples of one split of a source.

    A subclass must define ``__len__`` and ``sample``; every other word has a default.

    Attributes:
        max_bad_share: the share of items that may be skipped because they cannot be used; None makes the first one an error.
        order: ``order(seed, epoch)`` returns the order in which training takes the items; None shuffles them.
    """

    max_bad_share: float | None = None
    order: Callable[[int, int], Any] | None = None

    def __len__(self) -> int:
        """Return the number of items."""
        raise NotImplementedError

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Return item ``index``.

        Args:
            index: from 0.
            generator: lets the source vary the item (caption, position); without one it is always the same.

        Raises:
            DataError: the item cannot be used.
        """
        raise NotImplementedError

    def identities(self, modality: str) -> Sequence[Any] | None:
        """Return for each item a value that is equal if its input of a modality is the same; None if the source does not know."""
        return None

    def weigh(self, lengths: Sequence[int]) -> None:
        """Take the lengths of all items in tokens, for a source that mixes by tokens; nothing by default."""

    def tolerating(self, share: float | None) -> "Split":
        """Return a copy with another ``max_bad_share``."""
        other = copy(self)
        other.max_bad_share = share
        return other


class Source:
    """A collection of samples in splits; it never sees a model.

    A subclass must set ``modalities`` and ``splits`` and define ``split``; every other word has a default.

    Attributes:
        modalities: modalities of its samples' inputs, for example ``("image", "text")``.
        splits: names that ``split`` accepts; the first is for training.
        class_names: labels in the order of ``Sample.label``; empty if there are no classes.
        templates: prompts with ``{}`` in place of a class name.
        kinds: kinds of its questions; empty if there is one kind only.
        skipped: a message for each entry that the source left out.
        reads_remote: keywords with URLs that it reads itself; of all others, the file or folder is copied to this disk before.
    """

    reads_remote: ClassVar[Sequence[str]] = ()
    modalities: ClassVar[Sequence[str]]
    splits: Sequence[str]
    class_names: Sequence[str] = ()
    templates: Sequence[str] = ()
    kinds: Sequence[str] = ()
    skipped: Sequence[str] = ()

    def split(self, name: str) -> Split:
        """Return the samples of one split.

        Raises:
            ConfigError: there is no such split; the message names those that there are.
        """
        raise NotImplementedError

    def captions(self) -> Sequence[str]:
        """Return every text that training may show, to train a tokenizer on."""
        return []

    def report(self) -> Mapping[str, Any]:
        """Return figures of what the source holds and left out, by name; none by default."""
        return {}
