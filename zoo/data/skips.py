"""Items that could not be used: counted by reason, with the first examples of each."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from zoo.errors import ConfigError, DataError, name_choices

POLICIES = ("error", "skip")
MAX_SHARE = 0.1
EXAMPLES = 5  # of each reason
FEWEST_ITEMS = 100  # before so many were asked for, their number stands for them: one bad item of two is no bad data set


class Skips:
    """What one process skipped so far.

    Args:
        max_share: of the items asked for; more end the run.

    Raises:
        ConfigError: a share outside [0, 1].
    """

    def __init__(self, max_share: float = MAX_SHARE) -> None:
        if not 0 <= max_share <= 1:
            raise ConfigError(f"data.max_bad_share: {max_share}; allowed is a share from 0 to 1")
        self.max_share, self.items = max_share, 0
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    @property
    def total(self) -> int:
        """Items skipped."""
        return self.counts.total()

    def add(self, faults: Iterable[DataError], items: int) -> None:
        """Count faults among so many items asked for.

        Raises:
            DataError: too large a share of them cannot be used.
        """
        self.items += items
        for fault in faults:
            reason = getattr(fault, "reason", "other")
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
        """Counts by reason, the most frequent first: ``image 12, caption 3``."""
        return ", ".join(f"{reason} {count}" for reason, count in self.counts.most_common())

    def state(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"items": self.items, "skipped": dict(self.counts), "examples": self.examples}

    def restore(self, *states: Mapping[str, Any]) -> "Skips":
        """Take over the sum of saved states."""
        self.items, self.counts, self.examples = 0, Counter(), {}
        for state in states:
            self.items += state["items"]
            self.counts.update(state["skipped"])
            for reason, found in state["examples"].items():
                self.examples[reason] = [*self.examples.get(reason, ()), *found][:EXAMPLES]
        return self


class Tolerant:
    """A source whose splits all have one tolerance of bad items: the attribute ``max_bad_share``, None where one is an error.

    Raises:
        ConfigError: an unknown policy, or a share outside [0, 1].
    """

    def __init__(self, source: Any, on_bad_item: str, max_bad_share: float = MAX_SHARE) -> None:
        if on_bad_item not in POLICIES:
            raise ConfigError(f"data.on_bad_item: there is no {on_bad_item!r}; {name_choices(str(on_bad_item), POLICIES)}")
        self._source = source
        self._max_bad_share = Skips(max_bad_share).max_share if on_bad_item == "skip" else None

    def split(self, name: str) -> Any:
        """The source's split."""
        split = self._source.split(name)
        split.max_bad_share = self._max_bad_share
        return split

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)
