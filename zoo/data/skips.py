"""Counts of skipped data items by reason, with the first examples of each reason."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from zoo.errors import ConfigError, DataError, name_choices, reason_of

POLICIES = ("error", "skip")  # values of data.on_bad_item
MAX_SHARE = 0.1  # default of data.max_bad_share
EXAMPLES = 5  # examples kept of each reason
FEWEST_ITEMS = 100  # smallest denominator of the share: after only two items, one bad item does not mean a bad data set


class Skips:
    """Counter of the items that one process has skipped.

    Args:
        max_share: largest allowed share of skipped items among the requested ones; a larger share ends the run.

    Raises:
        ConfigError: the share is outside [0, 1].
    """

    def __init__(self, max_share: float = MAX_SHARE) -> None:
        if not 0 <= max_share <= 1:
            raise ConfigError(f"data.max_bad_share: {max_share}; allowed is a share from 0 to 1")
        self.max_share, self.items = max_share, 0
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    @property
    def total(self) -> int:
        """Number of skipped items."""
        return self.counts.total()

    def add(self, faults: Iterable[DataError], items: int) -> None:
        """Count the faults among the next ``items`` requested items.

        Raises:
            DataError: the share of unusable items is larger than ``max_share``.
        """
        self.items += items
        for fault in faults:
            reason = reason_of(fault)
            self.counts[reason] += 1
            examples = self.examples.setdefault(reason, [])
            if len(examples) < EXAMPLES:
                examples.append(str(fault))
        if self.total > self.max_share * max(self.items, FEWEST_ITEMS):
            raise DataError(
                f"data: {self.total} of {self.items} items cannot be used ({self.reasons()}); at most a share of {self.max_share:g} may "
                "be skipped (data.max_bad_share). The first: " + "; ".join(found[0] for found in self.examples.values())
            )

    def reasons(self) -> str:
        """Format the counts by reason, the most frequent first: ``image 12, caption 3``."""
        return ", ".join(f"{reason} {count}" for reason, count in self.counts.most_common())

    def state(self) -> dict[str, Any]:
        """Return the counts and examples as plain values for JSON."""
        return {"items": self.items, "skipped": dict(self.counts), "examples": self.examples}

    def restore(self, *states: Mapping[str, Any]) -> "Skips":
        """Replace the counts by the sum of saved states (one per process) and return self."""
        self.items, self.counts, self.examples = 0, Counter(), {}
        for state in states:
            self.items += state["items"]
            self.counts.update(state["skipped"])
            for reason, found in state["examples"].items():
                self.examples[reason] = [*self.examples.get(reason, ()), *found][:EXAMPLES]
        return self


class Tolerant:
    """Wrapper of a data source that gives each split the same tolerance of bad items.

    ``max_bad_share`` of each split is then the tolerance; None means that every bad item is an error.

    Args:
        source: the wrapped source; all other attributes are its own.
        on_bad_item: "error" or "skip".
        max_bad_share: largest allowed share of skipped items, for "skip".

    Raises:
        ConfigError: the policy is unknown, or the share is outside [0, 1].
    """

    def __init__(self, source: Any, on_bad_item: str, max_bad_share: float = MAX_SHARE) -> None:
        if on_bad_item not in POLICIES:
            raise ConfigError(f"data.on_bad_item: there is no {on_bad_item!r}; {name_choices(str(on_bad_item), POLICIES)}")
        self._source = source
        self._max_bad_share = Skips(max_bad_share).max_share if on_bad_item == "skip" else None

    def split(self, name: str) -> Any:
        """Return a split of the source with ``max_bad_share`` set."""
        return self._source.split(name).tolerating(self._max_bad_share)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)
