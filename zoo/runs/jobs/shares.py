"""Shares of a job: which parts belong to one of several workers. No torch is imported here, because every command reads the option."""

import re
from dataclasses import dataclass

from zoo.errors import ConfigError


@dataclass(frozen=True)
class Share:
    """Share number ``index`` (from 0) of ``count`` shares; it holds the parts whose number modulo ``count`` is ``index``."""

    index: int
    count: int

    def holds(self, part: int) -> bool:
        """Return True if a part belongs to this share."""
        return part % self.count == self.index

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


WHOLE = Share(0, 1)


def read_share(text: str) -> Share:
    """Parse ``I/N``, for example ``3/16``.

    Raises:
        ConfigError: another form, or I is not between 0 and N - 1.
    """
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not found or int(found[1]) >= int(found[2]):
        example = "for example --shard $SLURM_ARRAY_TASK_ID/16 with sbatch --array=0-15"
        raise ConfigError(f"--shard: got {text!r}; allowed is I/N with I from 0 to N - 1, {example}")
    return Share(int(found[1]), int(found[2]))
