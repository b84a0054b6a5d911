"""Samples of a source."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Sample:
    """One item of a source, still raw.

    Attributes:
        id: file and row, or another name that leads back to the item.
        inputs: raw input by modality: an image (PIL or uint8 array), a waveform, a string.
        group: items of equal group mean the same; None where the source does not know.
        label: class number, for evaluation.
        answers: what a judge takes for right, the plainest first: of a conversation's last question, or references of a caption.
        kind: of the question ("sum", "capital"), for figures by kind; empty where there is one kind only.
        choices: strings, or pictures, of which one is right; where answers are chosen and not written.
    """

    id: str
    inputs: dict[str, Any]
    group: int | None = None
    label: int | None = None
    answers: list[str] = field(default_factory=list)
    kind: str = ""
    choices: list[Any] = field(default_factory=list)
