"""Durations as users of Lightning and Slurm write them."""

import math
import re

from zoo.errors import ConfigError

DURATION = re.compile(r"(?:(\d+)[-:])?(\d+):([0-5]?\d):([0-5]?\d)")  # [DAYS: or DAYS-]HOURS:MINUTES:SECONDS


def seconds_of(duration: str | float, key: str = "max_time") -> float:
    """Return a duration in seconds; a number counts seconds.

    Examples: ``00:20:00`` and ``1200`` are 20 minutes, ``01:12:00:00`` (Lightning) and ``1-12:00:00`` (Slurm) are 36 hours. ``20:00``
    is refused, because Slurm reads it as minutes and seconds, and people as hours and minutes.

    Raises:
        ConfigError: neither a number above 0 nor a duration of that form.
    """
    found = DURATION.fullmatch(duration.strip()) if isinstance(duration, str) else None
    if found is not None:
        days, hours, minutes, seconds = (int(number or 0) for number in found.groups())
        total = float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
    else:
        try:
            total = float(duration)
        except ValueError:
            total = math.nan
    if not 0 < total < math.inf:
        raise ConfigError(f"{key}: {duration!r}; give HH:MM:SS, DD:HH:MM:SS, or a number of seconds above 0, for example 11:50:00")
    return total
