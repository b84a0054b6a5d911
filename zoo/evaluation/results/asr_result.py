"""Results of speech recognition: metrics, a file of all transcripts, and a page with the worst recordings to listen to."""

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
from zoo.types import Result, Sample

TEXTS_FILE, REPORT_FILE = "texts.jsonl", "report.html"
SHOWN = 8  # number of worst recordings in the table for the terminal and in metrics.json
LONGEST_SECONDS = 60.0  # longer recordings get no player on the page, because their samples are stored inside the page


@dataclass
class Recognition:
    """One recording with its transcript and its errors.

    Attributes:
        audio: path or samples; None for those that the page does not show.
        seconds: duration of the recording.
        text: the transcript before normalisation.
        compared: normalised reference and transcript with their differences.
        other: the same for the transcript by short windows; None unless both kinds of windows were evaluated (``mode="both"``).
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
        """The word error rate; the higher one if there are two transcripts."""
        return max(each.words.rate for each in (self.compared, self.other) if each is not None)

    @property
    def row(self) -> dict[str, Any]:
        """The recording's line in ``texts.jsonl``, as a dict."""
        fields = {"id": self.id, "kind": self.kind or None, "seconds": round(self.seconds, 3), "text": self.text}
        fields |= {"reference": self.compared.reference, "heard": self.compared.heard, "marked": self.compared.marked}
        fields |= {"words": self.compared.words.units, "errors": self.compared.words.errors}
        if self.other is not None:
            fields |= {"short_heard": self.other.heard, "short_errors": self.other.words.errors}
        return {name: value for name, value in fields.items() if value is not None}


@dataclass
class AsrResult(Result):
    """Word and character errors of one split.

    Attributes:
        metrics: shares of the reference words (``cer``: of the reference characters); error rates may be above 1.
        by_kind: the same metrics for each kind of recording; empty if the split has one kind only.
        shown: number of recordings on the page, the worst first.
        sample_rate_hz: sample rate of recordings that are arrays.
    """

    metrics: dict[str, float]
    heard: list[Recognition]
    details: dict[str, Any] = field(default_factory=dict)
    by_kind: dict[str, dict[str, float]] = field(default_factory=dict)
    shown: int = 60
    sample_rate_hz: int = 16000

    @property
    def num_items(self) -> int:
        """Number of recordings."""
        return len(self.heard)

    @property
    def title(self) -> str:
        """A short description of the evaluated data."""
        return f"{self.num_items} recordings, {sum(row.seconds for row in self.heard) / 60:.1f} minutes"

    @property
    def worst(self) -> list[Recognition]:
        """The recordings with errors, the highest word error rate first."""
        return sorted((row for row in self.heard if row.badness), key=lambda row: -row.badness)

    @property
    def facts(self) -> dict[str, Any]:
        """Further entries of ``metrics.json``, beside metrics and details."""
        worst = [{"id": row.id, "marked": row.compared.marked} for row in self.worst[:SHOWN]]
        return {"by_kind": self.by_kind, "worst": worst, "texts": TEXTS_FILE, "report": REPORT_FILE}

    @property
    def tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Tables for the terminal, each with a title, column names and rows of strings."""
        found = []
        if self.by_kind:
            columns = ["items", "wer", "cer", "exact_match"]
            rows = [
                [kind, f"{row['items']:.0f}", *(f"{100 * row[n]:.2f} %" if n in row else "-" for n in columns[1:])]
                for kind, row in self.by_kind.items()
            ]
            found.append(("by kind", ["kind", *columns], rows))
        if self.worst:
            rows = [[row.id[-40:], f"{row.compared.words.errors}/{row.compared.words.units}", row.compared.excerpt] for row in self.worst]
            found.append(("worst", ["recording", "errors/words", "[substituted -> by] [-deleted-] [+inserted+]"], rows[:SHOWN]))
        return found

    def draw(self, folder: Path) -> str:
        """Write all transcripts as lines of JSON and the report page into ``folder``; return the file name of the page."""
        lines = "".join(json.dumps(row.row, ensure_ascii=False) + "\n" for row in self.heard)
        (folder / TEXTS_FILE).write_text(lines, encoding="utf-8", errors="backslashreplace")
        shown = by_badness(self.heard)[: self.shown]
        intro = [f"{len(shown)} of {self.title} are shown, the worst first"]
        looks = {
            "summary": [(name, f"{100 * value:.2f} %") for name, value in self.metrics.items()],
            "filters": [("with errors", "wrong"), ("without errors", "right")],
        }
        cards = map(self._card, shown)
        write_whole(folder / REPORT_FILE, lambda file: write_page(file, "References and transcripts", intro, cards, **looks))
        return REPORT_FILE

    def _card(self, row: Recognition) -> str:
        lines = {"reference": row.compared.reference, "transcript": row.compared.heard or "(nothing)"}
        if row.compared.words.errors:
            lines["differences"] = row.compared.marked
        if row.other is not None and row.other.heard != row.compared.heard:
            lines["transcript by short windows"] = row.other.heard or "(nothing)"
        body = "".join(f'<p><span class="name">{name}</span>{html.escape(text)}</p>' for name, text in lines.items())
        head = f'<h2 title="{html.escape(row.id)}">{html.escape(row.id)}</h2>'
        shown = [player(row.audio, self.sample_rate_hz)] if row.audio is not None and row.seconds <= LONGEST_SECONDS else []
        return media_card(shown, head + body, kind="card right" if not row.compared.words.errors else "card wrong")


def by_badness(heard: Sequence[Recognition]) -> list[Recognition]:
    """Sort recordings by word error rate, the highest first; equal ones keep their order."""
    return sorted(heard, key=lambda row: -row.badness)


def audio_of(sample: Sample, rate_hz: int) -> Any:
    """Return a sample's recording in a form that ``transcribe`` accepts: a path, or mono samples at ``rate_hz``.

    Raises:
        DataError: the samples or the sample rate are not valid.
    """
    raw = sample.inputs["audio"]
    if isinstance(raw, tuple):
        return resample(to_mono(np.asarray(raw[0]), sample.id), checked_rate(raw[1], sample.id), rate_hz)
    return raw
