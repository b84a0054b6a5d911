"""Base classes of evaluations, which make figures of a model and a split, and of their results."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar


class Result:
    """Figures of one evaluation, with what is drawn and printed of them.

    A subclass must define ``metrics``, ``num_items``, ``details``, ``title`` and ``draw``; every other word has a default.

    Attributes:
        metrics: figures by name; shares from 0 to 1 unless they stand in ``numbers``.
        num_items: that were evaluated.
        details: more facts for a reader of the figures, by name.
        title: what was evaluated on, in a few words.
        facts: further content of ``metrics.json``.
        tables: title, columns and rows of strings, for the terminal.
        numbers: names of metrics that are not shares.
    """

    metrics: Mapping[str, float]
    num_items: int
    details: Mapping[str, Any]
    title: str
    facts: Mapping[str, Any] = {}
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = ()
    numbers: Collection[str] = ()

    def draw(self, folder: Path) -> str:
        """Write the figure's image into a folder and return its file name; an empty name if there is nothing to draw."""
        raise NotImplementedError


class Evaluation:
    """A measurement of a model on a split.

    A subclass must define ``check`` and ``__call__``; every other word has a default.

    Attributes:
        monitor: metric that decides which checkpoint of a run is the best; None takes the first.
        asr_model: a model that the evaluation also needs, by name; ``connect`` replaces it by the model.
    """

    monitor: ClassVar[str | None] = None
    asr_model: Any = None

    def check(self, model: Any, source: Any) -> None:
        """Raise ConfigError or DataError, before any work, if the model cannot be evaluated on the source."""
        raise NotImplementedError

    def __call__(self, model: Any, source: Any, split: str, *, advance: Callable[[int], object] = lambda items: None) -> Result:
        """Evaluate a model on a split.

        Args:
            model: a system, or an encoder.
            source: with the split.
            split: its name.
            advance: progress callback, called with the number of items done since the last call.
        """
        raise NotImplementedError

    def connect(self, *, asr_model: Any = None, weights_change: bool = False) -> None:
        """Take what the run knows.

        Args:
            asr_model: the model that ``self.asr_model`` names.
            weights_change: True during training, when nothing computed from the weights may be kept for another call.
        """
        if asr_model is not None:
            self.asr_model = asr_model
