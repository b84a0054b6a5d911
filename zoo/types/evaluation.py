"""Base classes of evaluations, which compute metrics of a model on a split, and of their results."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar


class Result:
    """Metrics of one evaluation, with their table and plot.

    A subclass must define ``metrics``, ``num_items``, ``details``, ``title`` and ``draw``; every other word has a default.

    Attributes:
        metrics: values by name; a share from 0 to 1, unless the name is listed in ``numbers``.
        num_items: number of items that were evaluated.
        details: further facts about the metrics, by name.
        title: a few words that describe the data.
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
        shares_items: True if it reads its items only by ``Reading``, ``FeatureReader``, ``over_split`` or ``over_batches``
            (``zoo.evaluation.measures``), which divide them among the processes of a run. If False, the first process evaluates while
            the others wait.
        reads_other_splits: True if it also counts items of other splits than the one that it is called with (the progress bar then has no
            estimate).
        limit: maximum number of items; None for all.
        asr_model: a model that the evaluation also needs, by name; ``connect`` replaces it by the model.
    """

    monitor: ClassVar[str | None] = None
    shares_items: ClassVar[bool] = False
    reads_other_splits: ClassVar[bool] = False
    limit: int | None = None
    asr_model: Any = None

    def check(self, model: Any, source: Any) -> None:
        """Raise ConfigError or DataError, before any work, if the model cannot be evaluated on the source."""
        raise NotImplementedError

    def __call__(self, model: Any, source: Any, split: str, *, advance: Callable[[int], object] = lambda items: None) -> Result:
        """Evaluate a model on a split.

        Args:
            model: a system, or an encoder.
            source: data source that contains the split.
            split: name of the split.
            advance: progress callback, called with the number of items done since the last call.
        """
        raise NotImplementedError

    def connect(self, *, asr_model: Any = None, weights_change: bool = False) -> None:
        """Take objects and facts of the run.

        Args:
            asr_model: the model that ``self.asr_model`` names.
            weights_change: True during training; the evaluation must then cache nothing that it computes from the weights.
        """
        if asr_model is not None:
            self.asr_model = asr_model
