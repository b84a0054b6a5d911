"""Checks of outside values against declared types, with msgspec; the errors name file, key, value and the allowed type.

Values are checked, never converted: the caller keeps what the file said, and keys that a schema does not mention stay.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import msgspec

from zoo.errors import WeightsError, ZooError
from zoo.storage.outside import read_json, shown

T = TypeVar("T")
WORDS = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false", "object": "an object", "array": "a list"}


def check(value: T, schema: Any, origin: object, error: type[ZooError] = WeightsError, remedy: str = "fetch or write the file again") -> T:
    """Return ``value`` unchanged if it has the type ``schema``.

    Args:
        schema: any type that msgspec understands, for example a TypedDict with ``total=False``.
        origin: file or row, for messages.
        remedy: last words of the message.

    Raises:
        ZooError: of the class ``error``, with the key, the value and what is allowed.
    """
    try:
        msgspec.convert(value, schema, strict=True)
    except msgspec.ValidationError as fault:
        reason, _, place = str(fault).partition(" - at `")
        path = place.removesuffix("`").removeprefix("$").lstrip(".")
        got = _at(value, path)
        key = f" {path}:" if path else ""
        allowed = reason.replace("Expected ", "allowed is ").partition(", got ")[0] if reason.startswith("Expected") else reason
        allowed = re.sub(r"`([^`]*)`", lambda types: " or ".join(WORDS.get(name, name) for name in types[1].split(" | ")), allowed)
        raise error(f"{origin}:{key} got {shown(got)} ({type(got).__name__}); {allowed}; {remedy}") from fault
    return value


def _at(value: Any, path: str) -> Any:
    """Return the value at a path as msgspec writes it: ``vision_config.layers[3].name``; ``[...]`` stands for some element."""
    for word in path.replace("[", ".[").split("."):
        if word.startswith("[") and isinstance(value, list) and word[1:-1].isdigit():
            value = value[int(word[1:-1])]
        elif isinstance(value, dict) and word in value:
            value = value[word]
        elif word:
            return value
    return value


class ShardIndex(TypedDict):
    """Content of ``model.safetensors.index.json``: the file of each tensor."""

    weight_map: dict[str, str]


def read_shard_names(path: Path) -> Mapping[str, str]:
    """Read the index of sharded weights: file names by names of tensors.

    Raises:
        WeightsError: not an index, or a value that is no file name.
    """
    return check(read_json(path), ShardIndex, path, remedy="fetch the directory again")["weight_map"]
