"""Raven's progressive matrices: each candidate is put in the missing place, and the one with the likeliest answer "Yes" is chosen.

Source: Huang et al. 2023 (Kosmos-1, arXiv 2302.14045), section 4.2.2; reported there: 22 % (26 % without instruction tuning), chance 17 %.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from zoo.errors import ConfigError, DataError
from zoo.evaluation.measures.choices import chosen, credit
from zoo.evaluation.measures.few_shot import asked_in
from zoo.evaluation.measures.requirements import checked_limits, refuse_model
from zoo.evaluation.measures.split_reader import Reading, Row
from zoo.evaluation.results.answers import Answer, AnswersResult, Shown, answers_by_kind, check_source, mean_scores, question_text
from zoo.processors.chat.messages import MARKERS, Conversation, Message
from zoo.registry import register
from zoo.types import Evaluation, Sample


@register("evaluation")
class Raven(Evaluation):
    """Share of the puzzles whose right candidate has the likeliest answer "Yes", with chance for comparison.

    Args:
        answer: answer whose likelihood is compared.
        kinds: only puzzles of these layouts, for example [2x2]; null takes all.
        examples: number of puzzles that the report shows, evenly spread.
        batch_size: number of puzzles processed together.
        limit: maximum number of puzzles, spread over the split; null uses all.

    Raises:
        ConfigError: a number out of its range, or an empty answer.
    """

    shares_items = True
    monitor = "accuracy"  # the metric that selects the best checkpoint if training.monitor is not set

    def __init__(
        self,
        *,
        answer: str = "Yes",
        kinds: Sequence[str] | None = None,
        examples: int = 30,
        batch_size: int = 8,
        limit: int | None = None,
    ) -> None:
        if isinstance(kinds, str):
            raise ConfigError(f"kinds: {kinds!r} is one string; give a list, [{kinds}]")
        if not answer.strip() or examples < 0:
            raise ConfigError(f"answer: {answer!r}, examples: {examples}; answer must not be empty, examples must be 0 or more")
        checked_limits({"batch_size": batch_size, "limit": limit})
        self.answer, self.kinds, self.examples, self.batch_size, self.limit = answer, kinds, examples, batch_size, limit

    def check(self, model: Any, source: Any) -> None:
        """Raise ConfigError if the model cannot score answers, or if the source has no puzzles."""
        refuse_model(model, ("score",), "raven")
        if "conversation" not in source.modalities:
            raise ConfigError(f"evaluation: 'raven' needs puzzles; the source gives {', '.join(source.modalities)}: choose data=raven")
        check_source(source, self.kinds)

    @torch.inference_mode()
    def __call__(self, model: Any, source: Any, split: str, *, advance: Callable[[int], None] = lambda items: None) -> AnswersResult:
        """Evaluate a system on one split.

        Args:
            advance: progress callback; receives the number of puzzles just finished.

        Raises:
            ConfigError: this evaluation cannot use the model or the source.
            DataError: an item is not a puzzle.
        """
        self.check(model, source)
        samples, answers = source.split(split), []
        page = Shown(self.examples, len(samples), self.limit, lambda index: _shown(samples.sample(index)))
        reading = Reading(samples, limit=self.limit, kinds=self.kinds, batch_size=self.batch_size, advance=advance)
        for found in reading(lambda rows: self._scored(model, rows)):
            answers += [page(answer, index) for answer, index in found]
        names = list(answers[0].scores)
        details, by_kind = reading.details, answers_by_kind(answers, names)
        return AnswersResult(mean_scores(answers, names), answers, details, by_kind, judged_by="accuracy")

    def _scored(self, model: Any, rows: Sequence[Row]) -> list[tuple[Answer, int]]:
        """Return the chosen candidates with the indices of their puzzles."""
        prompts = [candidate_prompts(sample) for _, sample in rows]
        flat = [prompt for several in prompts for prompt in several]
        scores = iter(model.score(flat, [self.answer] * len(flat), batch_size=2 * self.batch_size, with_end=False).tolist())
        return [(_judged(sample, [next(scores) for _ in several]), index) for (index, sample), several in zip(rows, prompts, strict=True)]


def candidate_prompts(sample: Sample) -> list[Conversation]:
    """Build one prompt for each candidate of a puzzle: the question with the candidate as its last picture.

    Raises:
        DataError: the item has no pictures, no candidates, or no right candidate.
    """
    question = asked_in(sample)
    if not sample.choices or sample.label is None or not question.images or not 0 <= sample.label < len(sample.choices):
        raise DataError(
            f"item {sample.id}: is not a puzzle; a puzzle has pictures, candidates and the number of the right candidate (data=raven)"
        )
    return [replace(question, images=(*question.images[:-1], candidate)) for candidate in sample.choices]


def _judged(sample: Sample, scores: Sequence[float]) -> Answer:
    assert sample.label is not None  # ``candidate_prompts`` has raised DataError otherwise
    names = [f"candidate {number + 1}" for number in range(len(scores))]
    answer = Answer(sample.id, sample.kind, question_text(asked_in(sample)), names[chosen(scores)], [names[sample.label]])
    answer.scores = {"accuracy": credit(scores, sample.label), "chance": 1 / len(scores)}
    return answer


def _shown(sample: Sample) -> Conversation:
    """Return a conversation with the matrix and all candidates, for the report page."""
    images = (*asked_in(sample).images[:-1], *sample.choices)
    return Conversation((Message("user", MARKERS["image"] * len(images)),), images, id=sample.id)
