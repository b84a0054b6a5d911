"""Names of splits, checked."""

from collections.abc import Sequence

from zoo.errors import DataError, name_choices


def refuse_split(name: str, known: Sequence[str]) -> None:
    """Raise DataError unless the source has a split of this name."""
    if name not in known:
        raise DataError(f"split: there is no {name!r}; {name_choices(name, known)}")
