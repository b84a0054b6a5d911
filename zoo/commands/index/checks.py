"""Checks of the files of an index, which may come from anybody or be damaged."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from msgspec import Meta

from zoo.errors import DataError
from zoo.storage.checked import check
from zoo.storage.outside import parse_json, read_json_object, shown

REMEDY = "make the index again with zoo embed ... --restart"
Count = Annotated[int, Meta(ge=0)]


class ManifestFile(TypedDict):
    """Content of ``manifest.json``."""

    format: int
    model: str
    weights: str
    preprocessing: str
    modality: str
    dim: Annotated[int, Meta(ge=1)]
    dtype: Literal["float32", "float16"]
    storage: str
    count: Count
    failed: Count
    origin: str
    listing: str
    items: str


class ItemLine(TypedDict, total=False):
    """One line of ``items.jsonl``, ``failed.jsonl`` or the listing of a job."""

    path: str
    text: str
    size: Count
    mtime_ns: int
    error: str


def check_manifest(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the content of a manifest if its values have the right types.

    Raises:
        DataError: with file, key, value and what is allowed.
    """
    return check(dict(content), ManifestFile, path, DataError, REMEDY)


def check_item(line: str | bytes, origin: str) -> dict[str, Any]:
    """Parse one line that describes an item.

    Raises:
        DataError: the line is no JSON object, or names neither a text nor a file with size and time.
    """
    item = check(parse_json(line, origin, DataError), ItemLine, origin, DataError, REMEDY)
    if "text" not in item and not {"path", "size", "mtime_ns"} <= set(item):
        raise DataError(f"{origin}: got {shown(item)}; allowed is an item with text, or with path, size and mtime_ns; {REMEDY}")
    return item


def check_shape(shape: Sequence[int], wanted: tuple[int, int], path: Path) -> None:
    """Raise DataError unless the vectors have the number of rows and the length that the manifest tells."""
    if tuple(shape) != wanted and not (wanted[0] == 0 and shape[0] == 0):
        raise DataError(f"{path}: holds vectors of shape {list(shape)}, the manifest tells {list(wanted)}; {REMEDY}")


def read_plan(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Read the plan of an unfinished job.

    Raises:
        DataError: it cannot be read, or a key is missing.
    """
    plan = read_json_object(path, DataError)
    for key in ("listing", *keys):
        if not isinstance(plan.get(key), str):
            raise DataError(f"{path}: {key} is {shown(plan.get(key))}; allowed is a text; start over with --restart")
    return plan
