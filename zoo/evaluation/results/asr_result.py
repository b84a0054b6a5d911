"""Recordings, what was heard of them, and what is written down of it: figures, every text, a page with the worst to listen to."""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from zoo.evaluation.measures.wer import Compared
from zoo.evaluation.results.html_report import media_card, player, write_page
from zoo.processors.media.audio_file import checked_rate, resample, to_mono
from zoo.storage.files import write_whole
from zoo.types import Sample

TEXTS_FILE, REPORT_FILE = "texts.jsonl", "report.html"
SHOWN = 8  # of the worst, on a terminal
LONGEST_SECONDS = 60.0  # of a recording that the page plays


@dataclass
class Heard:
    """One recording.

    Attributes:
        audio: a path, samples, or None where they were forgotten.
        text: as it was transcribed.
        compared: reference and text, normalised, with their differences.
        other: the same of the short way, where both were taken.
    """

    id: str
    kind: str
    audio: Any
    seconds: float
    text: str
    compared: Compared
    other: Compared | None = None

    @property
    def badness(self) -> float:
        """The higher word error rate."""
        return max(each.words.rate for each in (self.compared, self.other) if each is not None)

    @property
    def row(self) -> dict[str, Any]:
        """What is written down of it."""
        told = {"id": self.id, "kind": self.kind or None, "seconds": round(self.seconds, 3), "text": self.text}
        told |= {"reference": self.compared.reference, "heard": self.compared.heard, "marked": self.compared.marked}
        told |= {"words": self.compared.words.units, "errors": self.compared.words.errors}
        if self.other is not None:
            told |= {"short_heard": self.other.heard, "short_errors": self.other.words.errors}
        return {name: value for name, value in told.items() if value is not None}


@dataclass
class HeardResult:
    """Figures of a split.

    Attributes:
        metrics: shares of the references' words (``cer``: characters); rates of errors may be above 1.
        by_kind: the same for the recordings of each kind; empty where there is one kind only.
        shown: so many recordings stand on the page, the worst first.
    """

    metrics: dict[str, float]
    heard: list[Heard]
    details: dict[str, Any] = field(default_factory=dict)
    by_kind: dict[str, dict[str, float]] = field(default_factory=dict)
    shown: int = 60
    sample_rate_hz: int = 16000

    @property
    def num_items(self) -> int:
        """How many recordings."""
        return len(self.heard)

    @property
    def title(self) -> str:
        """What was evaluated on, in a few words."""
        return f"{self.num_items} recordings, {sum(row.seconds for row in self.heard) / 60:.1f} minutes"

    @property
    def worst(self) -> list[Heard]:
        """Those with errors, most errors for each word first."""
        return sorted((row for row in self.heard if row.badness), key=lambda row: -row.badness)

    @property
    def facts(self) -> dict[str, Any]:
        """What ``metrics.json`` holds beside figures and details."""
        worst = [{"id": row.id, "marked": row.compared.marked} for row in self.worst[:SHOWN]]
        return {"by_kind": self.by_kind, "worst": worst, "texts": TEXTS_FILE, "report": REPORT_FILE}

    @property
    def tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Title, columns and rows of what a terminal shows beside the figures."""
        found = []
        if self.by_kind:
            columns = ["items", "wer", "cer", "exact_match"]
            rows = [[kind, f"{row['items']:.0f}", *(f"{100 * row[n]:.2f} %" for n in columns[1:])] for kind, row in self.by_kind.items()]
            found.append(("by kind", ["kind", *columns], rows))
        if self.worst:
            rows = [[row.id[-40:], f"{row.compared.words.errors}/{row.compared.words.units}", row.compared.excerpt] for row in self.worst]
            found.append(("worst", ["recording", "errors/words", "[said -> heard] [-not heard-] [+not said+]"], rows[:SHOWN]))
        return found

    def draw(self, folder: Path) -> str:
        """Write every text as a line of JSON, and the page; returns the page's name."""
        lines = "".join(json.dumps(row.row, ensure_ascii=False) + "\n" for row in self.heard)
        (folder / TEXTS_FILE).write_text(lines, encoding="utf-8", errors="backslashreplace")
        figures = ", ".join(f"{name} {100 * value:.2f} %" for name, value in self.metrics.items())
        shown = by_badness(self.heard)[: self.shown]
        said = [figures, f"{len(shown)} of {self.title} are shown, the worst first"]
        write_whole(folder / REPORT_FILE, lambda file: write_page(file, "Said and heard", said, map(self._card, shown)))
        return REPORT_FILE

    def _card(self, row: Heard) -> str:
        words = {"said": row.compared.reference, "heard": row.compared.heard or "(nothing)"}
        if row.compared.words.errors:
            words["differences"] = row.compared.marked
        if row.other is not None and row.other.heard != row.compared.heard:
            words["heard the short way"] = row.other.heard or "(nothing)"
        body = "".join(f'<p><span class="name">{name}</span>{html.escape(text)}</p>' for name, text in words.items())
        head = f'<h2 title="{html.escape(row.id)}">{html.escape(row.id)}</h2>'
        shown = [player(row.audio, self.sample_rate_hz)] if row.audio is not None and row.seconds <= LONGEST_SECONDS else []
        return media_card(shown, head + body, kind="card right" if not row.compared.words.errors else "card wrong")


def by_badness(heard: Sequence[Heard]) -> list[Heard]:
    """The worst first; of equal ones those that stood before."""
    return sorted(heard, key=lambda row: -row.badness)


def forget(heard: Sequence[Heard], most: int) -> None:
    """Let samples go, where many are kept, of all recordings that cannot be among the ``most`` worst any more."""
    kept = [row for row in heard if isinstance(row.audio, np.ndarray)]
    if len(kept) > 2 * most:
        for row in by_badness(kept)[most:]:
            row.audio = None


def audio_of(sample: Sample, rate_hz: int) -> Any:
    """A sample's recording as ``transcribe`` takes it: a path, or mono samples at the given rate.

    Raises:
        DataError: samples or a rate that are none.
    """
    raw = sample.inputs["audio"]
    if isinstance(raw, tuple):
        return resample(to_mono(np.asarray(raw[0]), sample.id), checked_rate(raw[1], sample.id), rate_hz)
    return raw
