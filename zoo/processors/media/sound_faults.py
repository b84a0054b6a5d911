"""Errors and warnings about recordings."""

import logging
from functools import lru_cache
from typing import NoReturn

from zoo.errors import ItemError

log = logging.getLogger("zoo")


def refuse(name: str, problem: str) -> NoReturn:
    """Raise the error that a recording cannot be used."""
    raise audio_error(f"{name}: {problem}")


def audio_error(message: str) -> ItemError:
    """Return an error that is counted among those of recordings."""
    return ItemError(message, "audio")


@lru_cache(maxsize=4096)
def say_once(message: str) -> None:
    """Log a warning once, however often a recording is read."""
    log.warning(message)
