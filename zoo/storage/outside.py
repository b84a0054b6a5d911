"""Files that somebody else wrote: only ordinary ones are opened, and their text is read within limits.

A JSON or YAML file of a checkpoint, an index or a table may hold anything: another type, a number of 5,000 digits, brackets nested
100,000 deep, or aliases that expand to a billion entries. Every fault becomes one error that names the file. No torch is imported.
"""

import json
import os
import re
import stat
import struct
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from zoo.errors import ConfigError, DataError, WeightsError, ZooError, first_line

Fault = Callable[[str], ZooError]  # a class of errors, or ``functools.partial(ItemError, reason=...)``
MAX_TEXT_BYTES = 2**28  # the largest tokenizer.json in use has about 35 MB
MAX_DEPTH = 100  # nested lists and objects; real files stay below 20
MAX_ENTRIES = 20_000_000  # after aliases are expanded; a tokenizer has about one million
MAX_DIGITS = 400  # of a whole number: more than any float holds; Python itself stops at 4,300
MAX_SHOWN = 160  # characters of a value or a name in a message
DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # they show "gpj.exe" as "exe.jpg"
KINDS = {
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISSOCK: "a socket",
    stat.S_ISDIR: "a folder",
}


def shown(value: object, most: int = MAX_SHOWN) -> str:
    """Return the representation of an outside value for a message, cut after ``most`` characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of too many digits, or a list that holds itself
        text = f"a {type(value).__name__} that is too long to show"
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def printable(text: str, keep: str = "") -> str:
    r"""Return a text from outside with everything escaped that a terminal would obey instead of show.

    Control characters, the marks that reverse the direction of writing, and bytes of file names that are not UTF-8 become ``\x1b``.

    Args:
        keep: control characters that stay, for example the line break.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter if letter in keep or not _is_control(letter) else repr(letter)[1:-1] for letter in text)


def _is_control(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in DIRECTIONS


def refuse_special(path: Path, error: Fault = DataError) -> None:
    """Raise an error unless a path is an ordinary file; a pipe or a device would block, or never end, once it is opened.

    Raises:
        ZooError: as ``error`` makes it; the path is missing, cannot be looked at, or is a folder, pipe, device or socket.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as fault:
        raise error(f"{path}: no such file; check the path (the current folder is {Path.cwd()})") from fault
    except (OSError, ValueError) as fault:  # a name that is too long or holds a zero byte
        reason = fault.strerror if isinstance(fault, OSError) else str(fault)
        raise error(f"{shown(str(path))}: cannot be opened ({reason}); give the path of a file that you may read") from fault
    kind = next((word for test, word in KINDS.items() if test(mode)), None)
    if kind is not None:
        raise error(f"{path}: cannot be opened, it is {kind}; only ordinary files are read here; give the path of a file")


def read_text(path: Path, error: Fault = WeightsError) -> str:
    """Read an ordinary UTF-8 file of at most ``MAX_TEXT_BYTES``.

    Raises:
        ZooError: as ``error`` makes it; the file is not ordinary, too large, not UTF-8, or cannot be read.
    """
    refuse_special(path, error)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TEXT_BYTES + 1)
        if len(data) > MAX_TEXT_BYTES:
            raise error(f"{path}: has more than {MAX_TEXT_BYTES:,} bytes, which no config or tokenizer has; give another file")
        return data.decode("utf-8-sig")
    except OSError as fault:
        raise error(f"{path}: cannot be read ({fault.strerror}); check the file's mode and the disk") from fault
    except UnicodeDecodeError as fault:
        raise error(f"{path}: is not UTF-8 text (byte {fault.start}: {fault.reason}); save it as UTF-8, or fetch it again") from fault


def parse_json(text: str | bytes, origin: object, error: Fault = WeightsError) -> Any:
    """Parse JSON from outside, with limits on depth and digits.

    Args:
        origin: file, row or member, for messages.

    Raises:
        ZooError: as ``error`` makes it; not JSON, nested too deep, or a number of too many digits.
    """
    try:
        found = json.loads(text, parse_int=_parse_int)
    except RecursionError as fault:
        raise error(f"{origin}: is JSON nested more than {MAX_DEPTH} deep, which is never read; make it flatter") from fault
    except UnicodeDecodeError as fault:
        raise error(f"{origin}: is not UTF-8 text ({fault.reason}); save it as UTF-8") from fault
    except ValueError as fault:
        raise error(
            f"{origin}: is not JSON that can be read ({first_line(fault)[:MAX_SHOWN]}); write it again, or fetch it again"
        ) from fault
    refuse_unbounded(found, origin, error)
    return found


def _parse_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits; allowed are {MAX_DIGITS}")
    return int(digits)


def read_json(path: Path, error: Fault = WeightsError) -> Any:
    """Read a JSON file from outside.

    Raises:
        ZooError: as ``error`` makes it; see ``read_text`` and ``parse_json``; or a text in it has half a character, which other
            libraries do not take.
    """
    text = read_text(path, error)
    found = parse_json(text, path, error)
    if "\\ud" in text.lower():
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError as fault:
            half = ascii(fault.object[fault.start]).strip("'")
            raise error(f"{path}: a text in it has half a character ({half}); write or fetch the file again") from fault
    return found


def read_json_object(path: Path, error: Fault = WeightsError) -> dict[str, Any]:
    """Read a JSON file from outside that must hold an object.

    Raises:
        ZooError: as ``error`` makes it; see ``read_json``, or the file holds something else.
    """
    found = read_json(path, error)
    if not isinstance(found, dict):
        raise error(f"{path}: holds {kind_of(found)}, not a JSON object; fetch it again")
    return found


def read_yaml_object(path: Path, error: Fault = ConfigError) -> dict[str, Any]:
    """Read a YAML file from outside that must hold a mapping with string keys; tags that build objects are refused.

    Raises:
        ZooError: as ``error`` makes it; not YAML, a tag, nested too deep, aliases without end, or not a mapping.
    """
    text = read_text(path, error)
    if _nests_deeply(text):  # the loader written in C would overflow its stack
        raise error(f"{path}: is YAML nested more than {MAX_DEPTH} deep, which is never read; make it flatter")
    try:
        found = yaml.load(text, Loader=yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader)
    except RecursionError as fault:
        raise error(f"{path}: is YAML nested more than {MAX_DEPTH} deep, which is never read; make it flatter") from fault
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, OverflowError) as fault:
        # the others come from PyYAML's constructors: a date 2026-13-45, an unhashable key, a broken !!binary
        reason = " ".join(str(fault).split())[:MAX_SHOWN]
        raise error(f"{path}: cannot be read ({reason}); it must be plain YAML without tags") from fault
    refuse_unbounded(found, path, error)
    if not isinstance(found, dict):
        raise error(f"{path}: holds {kind_of(found)}, not a YAML mapping; write KEY: VALUE lines")
    _refuse_odd_keys(found, path, error)
    return found


def _nests_deeply(text: str) -> bool:
    """Return True if a YAML text could nest more than a thousand levels, by brackets, by dashes in one line, or by indentation."""
    depth = 0
    for bracket in re.findall(r"[][{}]", text):
        depth += 1 if bracket in "[{" else -1
        if depth > 10 * MAX_DEPTH:
            return True
    return re.search(rf"(?:[-?] +){{{MAX_DEPTH}}}|^[ ]{{{10 * MAX_DEPTH}}}", text, re.MULTILINE) is not None


def _refuse_odd_keys(found: Any, path: Path, error: Fault) -> None:
    """Raise an error for a key that is no string or number, or a value that plain YAML made into an object."""
    if isinstance(found, Mapping):
        for key, value in found.items():
            if not isinstance(key, str | int) or isinstance(key, bool):
                raise error(f"{path}: has the key {shown(key)} ({kind_of(key)}); keys must be words")
            _refuse_odd_keys(value, path, error)
    elif isinstance(found, list):
        for value in found:
            _refuse_odd_keys(value, path, error)
    elif not isinstance(found, str | int | float | None):
        raise error(f"{path}: holds {shown(found)} ({kind_of(found)}); allowed are texts, numbers, true, false and null: put it in quotes")


def refuse_unbounded(found: Any, origin: object, error: Fault = WeightsError) -> None:
    """Raise an error if a parsed value nests too deep, holds itself, or is too large after its YAML aliases are expanded."""
    counts: dict[int, int] = {}  # entries below each container, by its id: an alias is visited once
    open_now: set[int] = set()

    def count(value: Any, depth: int) -> int:
        if isinstance(value, int) and not -(10**MAX_DIGITS) < value < 10**MAX_DIGITS:
            raise error(f"{origin}: holds a number of more than {MAX_DIGITS} digits; write a smaller one")
        if not isinstance(value, dict | list):
            return 1
        if id(value) in counts:
            return counts[id(value)]
        if depth > MAX_DEPTH or id(value) in open_now:
            raise error(f"{origin}: is nested more than {MAX_DEPTH} deep, or holds itself, which is never read; make it flatter")
        open_now.add(id(value))
        total = 1 + sum(count(each, depth + 1) for each in (value.values() if isinstance(value, dict) else value))
        open_now.discard(id(value))
        if total > MAX_ENTRIES:
            raise error(f"{origin}: holds more than {MAX_ENTRIES:,} entries, which no config has; remove the repeated aliases")
        counts[id(value)] = total
        return total

    count(found, 0)


@contextmanager
def understanding(origin: object, error: Fault = WeightsError) -> Iterator[None]:
    """Turn what Python raises on outside values of an unforeseen type or size into an error that names the file.

    This is the last net behind the declared types (``zoo.storage.checked``); ``ZOO_DEBUG=1`` shows the cause.

    Raises:
        ZooError: as ``error`` makes it.
    """
    try:
        yield
    except ZooError:
        raise
    except (TypeError, AttributeError, LookupError, ArithmeticError, ValueError, RecursionError, MemoryError, struct.error) as fault:
        reason = f"{type(fault).__name__}: {first_line(fault)[:MAX_SHOWN]}"
        raise error(
            f"{origin}: a value in it has a type or size that cannot be used ({reason}); correct the file, or fetch it again"
        ) from fault


def kind_of(value: object) -> str:
    """Return the word for the type of a JSON or YAML value."""
    if value is None:
        return "null"
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a whole number", float: "a number"}
    return kinds.get(type(value), f"a {type(value).__name__}")
