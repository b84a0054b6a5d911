"""Reader of CSV (with any separator) and JSON-lines tables that reports faulty rows one by one instead of failing."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from zoo.errors import ConfigError, DataError, ZooError, name_choices
from zoo.storage.outside import parse_json, refuse_special

CSV_SUFFIXES = (".csv", ".tsv", ".tab")
SUFFIXES = (*CSV_SUFFIXES, ".jsonl", ".ndjson", ".json")  # .json: one object a line, as NeMo writes its manifests
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}  # tried in this order; open_clip's tables have tabs
LONGEST_CELL = 2**31 - 1  # characters; Python's csv module stops at 131,072 by default


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        number: number of the row from 1, as a spreadsheet (CSV) or an editor (JSON lines) shows it.
        fault: why the row cannot be used, or None.
    """

    number: int
    values: dict[str, Any] = field(default_factory=dict)
    fault: str | None = None


def read_table(path: Path, keys: Sequence[str], *, separator: str | None = None) -> Iterator[Row]:
    """Yield the rows of a table.

    Args:
        keys: columns that every row needs.
        separator: character between the cells of a CSV table; None takes the first of comma, tab, semicolon and bar that separates the
            keys in the header.

    Raises:
        ConfigError: the separator is not a single character.
        DataError: the file cannot be read, is neither CSV nor JSON lines, or its CSV header lacks a key.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"data.table: {path} is neither CSV nor JSON lines; the name must end in one of {' '.join(SUFFIXES)}")
    refuse_special(path, _table_error)
    if separator is not None and (len(separator) != 1 or separator in '"\r\n'):
        raise ConfigError(f"separator: got {separator!r}; allowed is one character, for example ',' or \"\\t\"")
    is_csv = path.suffix.lower() in CSV_SUFFIXES
    read, newline = (partial(_read_csv, separator=separator), "") if is_csv else (_read_json_lines, "\n")
    try:
        # Bytes that are not UTF-8 become lone surrogates, so that one bad row does not spoil the rest.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline) as file:
            yield from map(_check_unicode, read(path, file, keys))
    except OSError as error:
        raise DataError(f"data.table: {path} cannot be read ({error.strerror}); check the path and its mode") from error


def _table_error(message: str) -> DataError:
    return DataError(f"data.table: {message}")


def missing_key(key: str, present: Sequence[str]) -> str:
    """Return an error message for a missing key, with the present keys and a near match if there is one."""
    hint = name_choices(key, present)
    return f"no key {key!r}; keys present: {', '.join(map(str, present)) or 'none'}" + (f"; {hint}" if hint.startswith("did") else "")


def _read_csv(path: Path, file: TextIO, keys: Sequence[str], separator: str | None) -> Iterator[Row]:
    separator = separator or _find_separator(file, keys)
    reader = csv.reader(file, delimiter=separator, strict=True)
    header = _next_record(reader)
    if not isinstance(header, list):
        raise DataError(f"data.table: {path} {'is empty' if header is None else header}; its first row must name the columns")
    if not is_unicode(header):
        raise DataError(f"data.table: {path}: the first row is not UTF-8; save the file as UTF-8")
    for key in keys:
        if header.count(key) != 1:
            fault = missing_key(key, header) if key not in header else f"column {key!r} occurs {header.count(key)} times"
            raise DataError(f"data.table: {path}: {fault}; rename the column or set the *_key options")
    number = 1
    while (record := _next_record(reader)) is not None:
        number += 1
        if isinstance(record, str):
            yield Row(number, fault=record)
        elif record and len(record) != len(header):
            cells = f"quote cells that hold {SEPARATORS.get(separator, repr(separator))}"
            yield Row(number, fault=f"{len(record)} cells where the header has {len(header)}; {cells}")
        elif record:  # empty lines are skipped
            yield Row(number, dict(zip(header, record, strict=True)))


def _find_separator(file: TextIO, keys: Sequence[str]) -> str:
    """Return the separator under which the header holds every key; the most frequent one if there are no keys, or none does."""
    place = file.tell()
    header = file.readline()
    file.seek(place)
    counts = {each: header.count(each) for each in SEPARATORS}
    most = max(counts, key=lambda each: counts[each])  # of equal counts the first: a comma
    names = {each: _next_record(csv.reader([header], delimiter=each)) or [] for each in SEPARATORS}
    return next((each for each in SEPARATORS if keys and all(key in names[each] for key in keys)), most)


def _next_record(reader: Iterator[list[str]]) -> list[str] | str | None:
    """Return the next record, a message if it is malformed, or None at the end of the file."""
    limit = csv.field_size_limit(LONGEST_CELL)  # one setting for all of Python, so it is put back
    try:
        return next(reader)
    except StopIteration:
        return None
    except csv.Error as error:
        return f"malformed CSV ({error})"
    finally:
        csv.field_size_limit(limit)


def _read_json_lines(path: Path, file: TextIO, keys: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            values = parse_json(line, "the row")
        except ZooError as error:
            yield Row(number, fault=f"malformed JSON ({error})")
            continue
        if not isinstance(values, dict):
            yield Row(number, fault=f"a JSON {type(values).__name__}, where an object with the keys {', '.join(keys)} is expected")
            continue
        missing = [missing_key(key, list(values)) for key in keys if key not in values]
        yield Row(number, values, fault="; ".join(missing) or None)


def _check_unicode(row: Row) -> Row:
    texts = [value for pair in row.values.items() for value in pair if isinstance(value, str)]
    return row if is_unicode(texts) else Row(row.number, fault="not UTF-8; save the file as UTF-8")


def is_unicode(texts: Sequence[str]) -> bool:
    """Return True if no text holds a lone surrogate, which stands for a byte that is not UTF-8."""
    try:
        "".join(texts).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
