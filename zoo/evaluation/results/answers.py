"""What a system that talks said to each question, and what is written down of it: figures, every answer, a page to look at."""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.data.system_processor import conversation_of
from zoo.errors import ConfigError, DataError, name_choices
from zoo.evaluation.results.html_report import media_card, picture, player, write_page
from zoo.processors.chat.messages import MARKERS, Conversation
from zoo.storage.files import write_whole
from zoo.types import Sample

ANSWERS_FILE, REPORT_FILE = "answers.jsonl", "report.html"
SAMPLE_RATE_HZ = 16000  # of clips that are arrays, where the system has no processor of audio to say another


@dataclass
class Answer:
    """One question and what was said to it.

    Attributes:
        scores: by name, for example ``exact_match``; empty where only all answers together are judged.
        blind: what the same model said without seeing or hearing anything; None where it was not asked.
        conversation: with its pictures and clips, where the page shows them.
    """

    id: str
    kind: str
    question: str
    answer: str
    references: list[str]
    scores: dict[str, float] = field(default_factory=dict)
    rationale: str | None = None
    blind: str | None = None
    conversation: Conversation | None = None

    @property
    def row(self) -> dict[str, Any]:
        """What is written down of it; what there is not is left out."""
        told = {"id": self.id, "kind": self.kind or None, "question": self.question, "rationale": self.rationale, "answer": self.answer}
        told |= {"blind": self.blind, "references": self.references}
        return {name: value for name, value in told.items() if value is not None} | self.scores


@dataclass
class AnswersResult:
    """Figures and the answers behind them.

    Attributes:
        metrics: shares from 0 to 1 (CIDEr may be above), by name.
        by_kind: the same for the questions of each kind; empty where there is one kind only.
        judged_by: which of an answer's scores says whether it is right; None where no single answer is.
        sample_rate_hz: of clips that are arrays.
    """

    metrics: dict[str, float]
    answers: list[Answer]
    details: dict[str, Any] = field(default_factory=dict)
    by_kind: dict[str, dict[str, float]] = field(default_factory=dict)
    judged_by: str | None = None
    sample_rate_hz: int = SAMPLE_RATE_HZ

    @property
    def num_items(self) -> int:
        """How many questions were asked."""
        return len(self.answers)

    @property
    def title(self) -> str:
        """What was evaluated on, in a few words."""
        kinds = f", {len(self.by_kind)} kinds" if self.by_kind else ""
        return f"{self.num_items} questions{kinds}"

    @property
    def facts(self) -> dict[str, Any]:
        """What ``metrics.json`` holds beside figures and details."""
        return {"by_kind": self.by_kind, "answers": ANSWERS_FILE, "report": REPORT_FILE}

    @property
    def tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Title, columns and rows of what a terminal shows beside the figures."""
        shown = [answer for answer in self.answers if answer.conversation is not None][:8]
        examples = [[_short(a.question), _short(a.answer), _short(a.references[0])] for a in shown]
        found = [("examples", ["question", "answer", "reference"], examples)]
        if self.by_kind:
            columns = ["kind", *next(iter(self.by_kind.values()))]
            rows = [
                [kind, *(f"{v:.0f}" if n == "items" else f"{100 * v:.2f} %" for n, v in row.items())] for kind, row in self.by_kind.items()
            ]
            found.insert(0, ("by kind", columns, rows))
        return found

    def draw(self, folder: Path) -> str:
        """Write every answer as a line of JSON, and the page; returns the page's name."""
        lines = [json.dumps(answer.row, ensure_ascii=False) for answer in self.answers]
        (folder / ANSWERS_FILE).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="backslashreplace")
        figures = ", ".join(f"{name} {100 * value:.2f} %" for name, value in self.metrics.items())
        cards = [self._card(answer) for answer in self.answers if answer.conversation is not None]
        said = [figures, f"{len(cards)} of {self.title} are shown"]
        write_whole(folder / REPORT_FILE, lambda file: write_page(file, "Questions and answers", said, cards))
        return REPORT_FILE

    def _card(self, answer: Answer) -> str:
        assert answer.conversation is not None
        shown = [picture(image) for image in answer.conversation.images]
        shown += [player(clip, self.sample_rate_hz) for clip in answer.conversation.audio]
        right = None if self.judged_by is None else answer.scores[self.judged_by]
        kind = "card" if right is None else "card right" if right > 0.5 else "card wrong"
        mark = "" if right is None else "\u2713 right" if right == 1 else "\u2717 wrong" if right == 0 else f"{100 * right:.0f} % right"
        said = {"question": answer.question, "rationale": answer.rationale, "answer": answer.answer, "blind answer": answer.blind}
        said |= {"reference": " | ".join(dict.fromkeys(answer.references)), "verdict": mark}
        body = "".join(
            f'<p><span class="name">{name}</span>{html.escape(text)}</p>' for name, text in said.items() if text or (name == "answer")
        )
        head = f'<h2 title="{html.escape(answer.id)}">{html.escape(answer.kind or answer.id)}</h2>'
        return media_card(shown, head + body, kind=kind)


def _short(text: str, most: int = 60) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 3] + "..."


def question_text(conversation: Conversation) -> str:
    """What was asked last, without markers."""
    text = conversation.messages[-1].text
    for marker in MARKERS.values():
        text = text.replace(marker, "")
    return text.strip()


class Shown:
    """Which answers the page shows, evenly spread; the others' pictures are let go.

    Args:
        most: of them.
        length: of the split; where only some kinds are asked, fewer are shown.
    """

    def __init__(self, most: int, length: int, limit: int | None) -> None:
        total = length if limit is None else min(limit, length)
        self.every, self.count = -(-total // most) if most else 0, 0

    def __call__(self, answer: Answer, conversation: Conversation) -> Answer:
        """The answer, with its conversation where it is shown."""
        if self.every and self.count % self.every == 0:
            answer.conversation = conversation
        self.count += 1
        return answer


def references_of(sample: Sample) -> list[str]:
    """What counts as right: the sample's answers, or what its conversation ends with.

    Raises:
        DataError: neither is there.
    """
    found = sample.answers or [conversation_of(sample).answer]
    if not any(found):
        raise DataError(f"item {sample.id}: has no reference answer; give it 'answers', or end its conversation with the assistant's")
    return list(found)


def check_source(source: Any, kinds: Sequence[str] | None) -> None:
    """Raise ConfigError for a source without conversations and captions, or without one of the kinds of questions."""
    if "conversation" not in source.modalities and "text" not in source.modalities:
        raise ConfigError(
            f"evaluation: the source gives {', '.join(source.modalities)}, and answers are held against texts; choose a source of "
            "conversations or captions (data=...)"
        )
    known = getattr(source, "kinds", None) or []
    for kind in kinds or []:
        if known and kind not in known:
            raise ConfigError(f"evaluation.kinds: there is no {kind!r}; {name_choices(kind, known)}")


def answers_by_kind(answers: Sequence[Answer], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """The mean of each score over the questions of each kind, and how many these are; empty where there is one kind only."""
    kinds = sorted({answer.kind for answer in answers})
    if len(kinds) < 2:
        return {}
    of = {kind: [answer for answer in answers if answer.kind == kind] for kind in kinds}
    return {kind: {"items": float(len(some)), **mean_scores(some, names)} for kind, some in of.items()}


def mean_scores(answers: Sequence[Answer], names: Sequence[str]) -> dict[str, float]:
    """The mean of each score."""
    return {name: sum(answer.scores[name] for answer in answers) / len(answers) for name in names}


def sample_rate_of(model: Any) -> int:
    """The sample rate that the model's processor of audio takes arrays to have."""
    parts = getattr(getattr(model, "processor", None), "parts", {})
    return int(getattr(parts.get("audio"), "sample_rate_hz", SAMPLE_RATE_HZ))
