"""Checks of outside values against declared types, with msgspec; the errors name file, key, value and the allowed type.

Values are checked, never converted: the caller keeps what the file said, and keys that a schema does not mention stay.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypedDict, TypeVar

import msgspec

from zoo.errors import WeightsError
from zoo.storage.outside import Fault, read_json, shown

T = TypeVar("T")
LONGEST_NAME = 255  # of a file, as Linux, macOS and Windows allow
TYPES = {"int": int, "float": float, "str": str, "bool": bool, "object": dict, "array": list, "null": type(None)}
WORDS = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false", "object": "an object", "array": "a list"}


def check(value: T, schema: Any, origin: object, error: Fault = WeightsError, remedy: str = "fetch or write the file again") -> T:
    """Return ``value`` unchanged if it has the type ``schema``.

    Args:
        schema: any type that msgspec understands, for example a TypedDict with ``total=False``.
        origin: file or row, for messages.
        remedy: last words of the message.

    Raises:
        ZooError: as ``error`` makes it, with the key, the value and what is allowed.
    """
    try:
        msgspec.convert(value, schema, strict=True)
    except msgspec.ValidationError as fault:
        reason, _, place = str(fault).partition(" - at `")
        path = place.removesuffix("`").removeprefix("$").lstrip(".")
        key, got = _at(value, path, reason)
        key = f" {key}:" if key else ""
        allowed = reason.replace("Expected ", "allowed is ").partition(", got ")[0] if reason.startswith("Expected") else reason
        allowed = re.sub(r"`([^`]*)`", lambda types: " or ".join(WORDS.get(name, name) for name in types[1].split(" | ")), allowed)
        raise error(f"{origin}:{key} got {shown(got)} ({type(got).__name__}); {allowed}; {remedy}") from fault
    except UnicodeEncodeError as fault:  # of a text where another type is allowed, which the message would hold
        raise error(f"{origin}: a text in it has half a character ({ascii(fault.object[fault.start])}); {remedy}") from fault
    return value


def _is_expected(value: Any, reason: str) -> bool:
    """Return True if a value has one of the types in ``Expected `object | null```, or the reason names none of them."""
    expected = reason.partition("`")[2].partition("`")[0].split(" | ")
    types = [TYPES[name] for name in expected if name in TYPES]
    return not types or type(value) in types


def _at(value: Any, path: str, reason: str) -> tuple[str, Any]:
    """Return the full key and the value at a path as msgspec writes it, for example ``vision_config.layers[3].name``.

    In a mapping msgspec writes ``[...]`` instead of the key; the first entry of another type than the expected one is taken.
    """
    key = ""
    for word in filter(None, path.replace("[...]", ".[*]").replace("[", ".[").split(".")):
        name: Any = word
        if word == "[*]" and isinstance(value, dict):
            name = next((name for name, each in value.items() if not _is_expected(each, reason)), None)
        elif word.startswith("[") and word[1:-1].isdigit():
            name = int(word[1:-1])
        try:
            value = value[name]
        except (LookupError, TypeError):
            return path, value
        key = f"{key}[{name}]" if isinstance(name, int) else f"{key}.{name}".strip(".")
    return key, value


class ShardIndex(TypedDict):
    """Content of ``model.safetensors.index.json``: the file of each tensor."""

    weight_map: dict[str, Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_NAME)]]


def read_shard_names(path: Path) -> Mapping[str, str]:
    """Read the index of sharded weights: file names by names of tensors.

    Raises:
        WeightsError: not an index, or a value that is no file name.
    """
    return check(read_json(path), ShardIndex, path, remedy="fetch the directory again")["weight_map"]
