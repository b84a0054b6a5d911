"""In-context learning: accuracy of the last word of a document given 0, 1, 2, 4 or 8 examples before it.

A document is "<image> A<image> B ... <image> A". The question is the last picture; the prompt shows the k pairs right before it and omits
earlier ones. The questions are the same at every k, so that differences come from the examples. The answer is chosen by likelihood among
the words of the document; chance is one divided by the number of different words.

Sources: Brown et al. 2020 (arXiv 2005.14165), section 2.1 and figure 1.2, for accuracy over the number of examples; Tsimpoukelli et al.
2021 (Frozen, arXiv 2106.13884), section 4.3, for new words bound to pictures in the context.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from zoo.data.system_processor import conversation_of
from zoo.errors import ConfigError, DataError
from zoo.evaluation.measures.choices import credit
from zoo.evaluation.measures.requirements import checked_limits, refuse_model
from zoo.evaluation.measures.split_reader import Reading, Row
from zoo.processors.chat.messages import MARKERS, Conversation
from zoo.registry import register
from zoo.types import Evaluation, Result, Sample

PICTURE = "in_context.png"
_MARKER = re.compile("(" + "|".join(map(re.escape, MARKERS.values())) + ")")


@dataclass
class Point:
    """Mean results at one number of examples.

    Attributes:
        items: number of documents that have enough examples.
        accuracy: share of these documents whose last word was chosen.
        chance: expected accuracy of guessing among the document's words.
        seen: share of these documents whose last word occurs in the examples shown.
    """

    items: int = 0
    accuracy: float = 0.0
    chance: float = 0.0
    seen: float = 0.0

    def add(self, accuracy: float, chance: float, seen: float) -> None:
        """Add one document to the running means."""
        self.items += 1
        for name, value in (("accuracy", accuracy), ("chance", chance), ("seen", seen)):
            mean = getattr(self, name)
            setattr(self, name, mean + (value - mean) / self.items)


@dataclass
class InContextResult(Result):
    """Accuracy over the number of examples.

    Attributes:
        curve: results by number of examples, in ascending order.
    """

    curve: dict[int, Point]
    num_items: int
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float]:
        """Shares from 0 to 1: accuracy and chance at the most examples, gain over the fewest examples, and accuracy at each number."""
        first, *_, last = [next(iter(self.curve.values())), *self.curve.values()]
        named = {"accuracy": last.accuracy, "chance": last.chance, "gain": last.accuracy - first.accuracy}
        return named | {f"accuracy@{number}": point.accuracy for number, point in self.curve.items()}

    @property
    def title(self) -> str:
        """A short description of the evaluated data."""
        return f"{self.num_items} documents"

    @property
    def facts(self) -> dict[str, Any]:
        """Further entries of ``metrics.json``, beside metrics and details."""
        return {"curve": [{"examples": number, **vars(point)} for number, point in self.curve.items()]}

    @property
    def tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Tables for the terminal, each with a title, column names and rows of strings."""
        columns = ["examples", "documents", "accuracy", "chance", "answer is among the examples"]
        rows = [
            [str(number), str(point.items), *(f"{100 * share:.2f} %" for share in (point.accuracy, point.chance, point.seen))]
            for number, point in self.curve.items()
        ]
        return [("accuracy over the number of examples", columns, rows)]

    def draw(self, folder: Path) -> str:
        """Draw accuracy and chance over the number of examples into a PNG file in ``folder``; return the file name."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.0, 4.0), layout="constrained")
        axes = figure.add_subplot()
        numbers = list(self.curve)
        for name, style in (("accuracy", "o-"), ("chance", "--"), ("seen", ":")):
            label = "answer is among the examples" if name == "seen" else name
            axes.plot(numbers, [100 * getattr(point, name) for point in self.curve.values()], style, label=label)
        axes.set(xlabel="examples before the question", ylabel="%", ylim=(0, 102), xticks=numbers, title=self.title)
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(folder / PICTURE, dpi=110)
        return PICTURE


@register("evaluation")
class InContext(Evaluation):
    """Accuracy of the last word of documents of pictures and words, over the number of examples before it.

    Args:
        num_examples: numbers of examples to evaluate; a document with fewer examples is left out at that number.
        batch_size: number of documents processed together.
        limit: maximum number of documents, spread over the split; null uses all.

    Raises:
        ConfigError: a number out of its range.
    """

    shares_items = True
    monitor = "accuracy"  # the metric that selects the best checkpoint if training.monitor is not set

    def __init__(self, *, num_examples: Sequence[int] = (0, 1, 2, 4, 8), batch_size: int = 16, limit: int | None = None) -> None:
        if isinstance(num_examples, str) or not num_examples or any(number < 0 for number in num_examples):
            raise ConfigError(f"num_examples: {num_examples!r}; give a list of numbers, each 0 or more, for example [0, 1, 2, 4, 8]")
        checked_limits({"batch_size": batch_size, "limit": limit})
        self.num_examples, self.batch_size, self.limit = sorted(set(num_examples)), batch_size, limit

    def check(self, model: Any, source: Any) -> None:
        """Raise ConfigError if the model cannot score answers, or if the source has no documents."""
        refuse_model(model, ("score",), "in_context")
        if "conversation" not in source.modalities:
            raise ConfigError(
                f"evaluation: 'in_context' needs documents of pictures and words; the source gives {', '.join(source.modalities)}: choose "
                "data=digit_documents"
            )

    @torch.inference_mode()
    def __call__(self, model: Any, source: Any, split: str, *, advance: Callable[[int], None] = lambda items: None) -> InContextResult:
        """Evaluate a system on one split.

        Args:
            advance: progress callback; receives the number of documents just finished.

        Raises:
            ConfigError: this evaluation cannot use the model or the source.
            DataError: a document does not alternate pictures and words, or no document has enough examples.
        """
        self.check(model, source)
        curve = {number: Point() for number in self.num_examples}
        reading = Reading(source.split(split), limit=self.limit, batch_size=self.batch_size, advance=advance)
        for found in reading(lambda rows: self._scored(model, rows)):
            for number, accuracy, chance, seen in found:
                curve[number].add(accuracy, chance, seen)
        curve = {number: point for number, point in curve.items() if point.items}
        if not curve:
            raise DataError(
                f"evaluation.num_examples: no document has {self.num_examples[0]} pictures before its last one; give smaller numbers, or "
                "raise data.source.num_examples"
            )
        return InContextResult(curve, reading.items, reading.details)

    def _scored(self, model: Any, rows: Sequence[Row]) -> list[tuple[int, float, float, float]]:
        """Return for each question of some documents its number of examples, and the arguments of ``Point.add``."""
        asked = [question for _, sample in rows for question in questions_of(sample, self.num_examples)]
        return [
            (each.number, credit(scores, each.choices.index(each.answer)), 1 / len(each.choices), float(each.seen))
            for each, scores in zip(asked, self._scores(model, asked), strict=True)
        ]

    def _scores(self, model: Any, asked: Sequence["Question"]) -> list[list[float]]:
        """Return the log-probability of each choice of each question; one call for all, so that each image is encoded only once."""
        if not asked:
            return []
        prompts = [question.prompt for question in asked for _ in question.choices]
        answers = [choice for question in asked for choice in question.choices]
        scores = iter(model.score(prompts, answers, batch_size=4 * self.batch_size, with_end=False).tolist())
        return [[next(scores) for _ in question.choices] for question in asked]


@dataclass(frozen=True)
class Question:
    """The last picture of a document after ``number`` examples.

    Attributes:
        number: number of examples in the prompt.
        prompt: texts, pictures and clips in order; the last one is the picture or clip in question.
        answer: the right word.
        choices: the words to choose among.
        seen: True if the answer occurs in the examples of the prompt.
    """

    number: int
    prompt: list[Any]
    answer: str
    choices: list[str]
    seen: bool


def questions_of(sample: Sample, numbers: Sequence[int]) -> list[Question]:
    """Build the questions of a document, one for each of ``numbers`` that is not above its number of examples.

    Example: ``[I1, "A", I2, "B", I3, "A"]`` with 1 example gives the prompt ``[I2, "B", I3]`` and the answer "A".

    Raises:
        DataError: the document does not alternate pictures (or clips) and words, or its answer is not among its choices.
    """
    words, pairs = pairs_of(conversation_of(sample), sample.id)
    (query, answer), examples = pairs[-1], pairs[:-1]
    choices = list(sample.choices) or sorted({word for _, word in pairs})
    if answer not in choices or len(choices) < 2:
        raise DataError(
            f"item {sample.id}: its last word is {answer!r}, its choices are {choices}; give at least two, the answer among them"
        )
    found = []
    for number in numbers:
        if number > len(examples):
            continue
        shown = examples[len(examples) - number :]
        prompt = [*words, *(part for pair in shown for part in pair), query]
        found.append(Question(number, prompt, answer, choices, answer in [word for _, word in shown]))
    return found


def pairs_of(conversation: Conversation, id: str = "") -> tuple[list[str], list[tuple[Any, str]]]:
    """Split a document into its leading text (a list of at most one string) and pairs of a picture or clip and the text after it.

    Raises:
        DataError: it is a conversation, it has no picture, or a picture has no text after it.
    """
    media = {modality: iter(conversation.media(modality)) for modality in MARKERS}
    first, *rest = _MARKER.split("\n".join(message.text for message in conversation.messages))
    modality = {marker: name for name, marker in MARKERS.items()}
    pairs = [(next(media[modality[marker]]), text.strip()) for marker, text in zip(rest[::2], rest[1::2], strict=True)]
    if not pairs or any(not text for _, text in pairs) or {message.role for message in conversation.messages} != {"document"}:
        raise DataError(f"item {id}: is not a document of pictures with text after each; in_context needs one (data=digit_documents)")
    return [first.strip()] if first.strip() else [], pairs
