"""Kept results of evaluations: one folder for each evaluation and data of a model, and what it holds."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import DataError
from zoo.storage.outside import read_json_object

FOLDER, METRICS = "evaluation", "metrics.json"
WITHOUT_EFFECT = ("num_workers", "augmentation", "mix", "validation_split")  # of the data: training's, or speed alone
FINGERPRINT_LENGTH = 8  # of the hexadecimal digits in a folder's name


@dataclass(frozen=True)
class KeptResult:
    """Result of one evaluation.

    Attributes:
        label: evaluation, data source and split, for example "zero_shot on digits (test)".
        folder: where ``metrics.json`` and the plots are; its name is equal for equal settings of evaluation and data.
        metrics: every number that was measured, by name.
        items: number of evaluated items.
    """

    label: str
    folder: Path
    metrics: dict[str, float]
    items: int

    @property
    def key(self) -> tuple[str, str]:
        """Label and name of the folder, by which results of several models are compared."""
        return self.label, self.folder.name


def fingerprint_of(data: Mapping[str, Any], evaluation: Mapping[str, Any], precision: str | None) -> str:
    """Return a hash of the settings that decide an evaluation's numbers: data, evaluation, and data type of the weights."""
    read = {key: value for key, value in data.items() if key not in WITHOUT_EFFECT}
    settings = {"data": read, "evaluation": dict(evaluation), "precision": precision or "fp32"}
    return hashlib.blake2b(json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def result_folder(place: Path, evaluation: str, data: Mapping[str, Any], fingerprint: str) -> Path:
    """Return the folder of a result under ``place``, for example ``evaluation/zero_shot_digits_test_1f0c2a9b``."""
    words = (evaluation, data["source"]["name"], data["test_split"], fingerprint[:FINGERPRINT_LENGTH])
    return place / FOLDER / "_".join(map(str, words))


def kept_results(place: Path) -> list[KeptResult]:
    """Read every result under ``place``, in the order of the folders' names; those of older versions are in ``evaluation/NAME``.

    Raises:
        DataError: a ``metrics.json`` cannot be read.
    """
    folders = sorted(path.parent for path in (place / FOLDER).glob(f"*/{METRICS}") if not path.parent.name.startswith("."))
    return [_read(folder, read_json_object(folder / METRICS, DataError)) for folder in folders]


def _read(folder: Path, content: Mapping[str, Any]) -> KeptResult:
    metrics = {key: float(value) for key, value in content.items() if _is_number(value) and key != "items"}
    return KeptResult(_label(content, folder), folder, metrics, int(content.get("items", 0)))


def _label(content: Mapping[str, Any], folder: Path) -> str:
    source = content.get("data", {}).get("source", {}).get("name", "unknown data")
    return f"{content.get('evaluation', folder.name)} on {source} ({content.get('split', 'test')})"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
