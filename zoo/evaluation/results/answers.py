"""Results of evaluations by generated or chosen answers: metrics, a file of all answers, and a report page with examples."""

import html
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.data.system_processor import conversation_of
from zoo.errors import ConfigError, DataError, name_choices
from zoo.evaluation.results.html_report import media_card, picture, player, write_page
from zoo.processors.chat.messages import MARKERS, Conversation
from zoo.processors.chat.videos import with_frames
from zoo.storage.files import write_whole
from zoo.types import Result, Sample, part_of

ANSWERS_FILE, REPORT_FILE = "answers.jsonl", "report.html"
SAMPLE_RATE_HZ = 16000  # assumed for clips that are arrays if the system has no audio processor that defines the rate


@dataclass
class Answer:
    """One question with the answer of the system.

    Attributes:
        scores: scores of this answer by name, for example ``exact_match``; empty if only the whole set of answers is scored.
        rationale: text that the system generated before the answer; None if it was not asked to.
        blind: answer of the same model to the question without images and audio; None if this was not evaluated.
        conversation: the question with its images and clips, if the page shows them; else None, to free memory.
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
        """The answer's line in ``answers.jsonl``, as a dict without missing values."""
        fields = {"id": self.id, "kind": self.kind or None, "question": self.question, "rationale": self.rationale, "answer": self.answer}
        fields |= {"blind": self.blind, "references": self.references}
        return {name: value for name, value in fields.items() if value is not None} | self.scores


@dataclass
class AnswersResult(Result):
    """Metrics of one split and the answers that they are computed from.

    Attributes:
        metrics: shares from 0 to 1 by name; CIDEr may be above 1.
        by_kind: the same metrics for each kind of question; empty if the split has one kind only.
        judged_by: name of the score that decides if a single answer is right; None if single answers are not scored.
        sample_rate_hz: sample rate of clips that are arrays.
    """

    metrics: dict[str, float]
    answers: list[Answer]
    details: dict[str, Any] = field(default_factory=dict)
    by_kind: dict[str, dict[str, float]] = field(default_factory=dict)
    judged_by: str | None = None
    sample_rate_hz: int = SAMPLE_RATE_HZ

    @property
    def num_items(self) -> int:
        """Number of questions."""
        return len(self.answers)

    @property
    def title(self) -> str:
        """A short description of the evaluated data."""
        kinds = f", {len(self.by_kind)} kinds" if self.by_kind else ""
        return f"{self.num_items} questions{kinds}"

    @property
    def facts(self) -> dict[str, Any]:
        """Further entries of ``metrics.json``, beside metrics and details."""
        return {"by_kind": self.by_kind, "answers": ANSWERS_FILE, "report": REPORT_FILE}

    @property
    def tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Tables for the terminal, each with a title, column names and rows of strings."""
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
        """Write all answers as lines of JSON and the report page into ``folder``; return the file name of the page."""
        lines = [json.dumps(answer.row, ensure_ascii=False) for answer in self.answers]
        (folder / ANSWERS_FILE).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="backslashreplace")
        cards = [self._card(answer) for answer in self.answers if answer.conversation is not None]
        intro = [f"{len(cards)} of {self.title} are shown"]
        looks = {
            "summary": [(name, f"{100 * value:.2f} %") for name, value in self.metrics.items()],
            "filters": [("right", "right"), ("wrong", "wrong")] if self.judged_by is not None else [],
        }
        write_whole(folder / REPORT_FILE, lambda file: write_page(file, "Questions and answers", intro, cards, **looks))
        return REPORT_FILE

    def _card(self, answer: Answer) -> str:
        assert answer.conversation is not None
        shown = [picture(image) for image in with_frames(answer.conversation, None).images]
        shown += [player(clip, self.sample_rate_hz) for clip in answer.conversation.audio]
        right = None if self.judged_by is None else answer.scores[self.judged_by]
        kind = "card" if right is None else "card right" if right > 0.5 else "card wrong"
        mark = "" if right is None else "\u2713 right" if right == 1 else "\u2717 wrong" if right == 0 else f"{100 * right:.0f} % right"
        lines = {"question": answer.question, "rationale": answer.rationale, "answer": answer.answer, "blind answer": answer.blind}
        lines |= {"reference": " | ".join(dict.fromkeys(answer.references)), "verdict": mark}
        body = "".join(
            f'<p><span class="name">{name}</span>{html.escape(text)}</p>' for name, text in lines.items() if text or (name == "answer")
        )
        head = f'<h2 title="{html.escape(answer.id)}">{html.escape(answer.kind or answer.id)}</h2>'
        return media_card(shown, head + body, kind=kind)


def _short(text: str, most: int = 60) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 3] + "..."


def question_text(conversation: Conversation) -> str:
    """Return the text of the last message without image and audio markers."""
    text = conversation.messages[-1].text
    for marker in MARKERS.values():
        text = text.replace(marker, "")
    return text.strip()


class Shown:
    """Selection of the answers that the page shows, evenly spread; only their items are read again, for the images and clips.

    Args:
        most: maximum number of answers to show.
        length: number of items in the split. If only some kinds of items are evaluated, fewer than ``most`` are shown.
        limit: maximum number of items to evaluate; None for all.
        read: function from an item's index in the split to its conversation.
    """

    def __init__(self, most: int, length: int, limit: int | None, read: Callable[[int], Conversation]) -> None:
        self.read = read
        total = length if limit is None else min(limit, length)
        self.every, self.count = -(-total // most) if most else 0, 0

    def __call__(self, answer: Answer, index: int) -> Answer:
        """Return the answer of item ``index``, with its conversation attached if the page shows it."""
        if self.every and self.count % self.every == 0:
            answer.conversation = self.read(index)
        self.count += 1
        return answer


def references_of(sample: Sample) -> list[str]:
    """Return the reference answers: the sample's ``answers``, or else the last message of its conversation.

    Raises:
        DataError: the sample has no reference answer.
    """
    found = sample.answers or [conversation_of(sample).answer]
    if not any(found):
        raise DataError(
            f"item {sample.id}: has no reference answer; give it 'answers', or end its conversation with the assistant's message"
        )
    return list(found)


def check_source(source: Any, kinds: Sequence[str] | None) -> None:
    """Raise ConfigError if a source has neither conversations nor captions, or lacks one of ``kinds``."""
    if "conversation" not in source.modalities and "text" not in source.modalities:
        raise ConfigError(
            f"evaluation: the source gives {', '.join(source.modalities)}, but answers are compared with texts; choose a source of "
            "conversations or captions (data=...)"
        )
    known = list(source.kinds)
    for kind in kinds or []:
        if known and kind not in known:
            raise ConfigError(f"evaluation.kinds: there is no {kind!r}; {name_choices(kind, known)}")


def answers_by_kind(answers: Sequence[Answer], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return for each kind of question the mean scores and the number of items; empty if there is one kind only."""
    kinds = sorted({answer.kind for answer in answers})
    if len(kinds) < 2:
        return {}
    of = {kind: [answer for answer in answers if answer.kind == kind] for kind in kinds}
    return {kind: {"items": float(len(some)), **mean_scores(some, names)} for kind, some in of.items()}


def mean_scores(answers: Sequence[Answer], names: Sequence[str]) -> dict[str, float]:
    """Return the mean over answers of each of the named scores."""
    return {name: sum(answer.scores[name] for answer in answers) / len(answers) for name in names}


def sample_rate_of(model: Any) -> int:
    """Return the sample rate in Hz that the model's audio processor expects of arrays; 16000 without one."""
    audio = part_of(model, "audio")
    return SAMPLE_RATE_HZ if audio is None else int(audio.sample_rate_hz)
