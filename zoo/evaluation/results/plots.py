"""Plots that show names and texts from outside."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def text_as_written() -> Iterator[None]:
    """Context, or decorator of a function that draws, in which matplotlib takes no text for a formula: ``$x^{$`` would be an error."""
    import matplotlib

    with matplotlib.rc_context({"text.parse_math": False}):
        yield
