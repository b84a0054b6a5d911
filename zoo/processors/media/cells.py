"""Cells of CSV and TSV files that spreadsheets open: a text from outside is never run as a formula.

A spreadsheet computes a cell that begins with ``=``, ``+``, ``-`` or ``@``. Such a text gets a ``'`` in front, which spreadsheets do not
show; a number such as ``-0.25`` stays. A reader that wants the text back removes one leading ``'`` if one of these characters follows.
"""

import csv
import math
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

FORMULA = ("=", "+", "-", "@")


def cell(value: Any) -> Any:
    """Return the value of a cell; a text that a spreadsheet would compute gets a ``'`` in front."""
    if not isinstance(value, str) or not value.lstrip(" \t\r\n\0'").startswith(FORMULA) or _is_number(value):
        return value
    return "'" + value


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def write_rows(file: TextIO, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as CSV, with every cell protected."""
    csv.writer(file).writerows([cell(value) for value in row] for row in rows)
