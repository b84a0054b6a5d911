"""Question answering: generated answers against reference answers, optionally beside the answers without images and audio.

Papers: Antol et al. 2015 (VQA, arXiv 1505.00468) for the accuracy; Goyal et al. 2017 (VQA v2, arXiv 1612.00837), table 3, for the
baseline without the image; Alayrac et al. 2022 (Flamingo, arXiv 2204.14198), section 3.4, for interleaved examples; Kojima et
al. 2022 (arXiv 2205.11916), section 3, for the chain of thought in two calls, and its prompts; Huang et al. 2023 (Kosmos-1, arXiv
2302.14045), section 4.4, for a description of the picture that is generated before the question is shown.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from zoo.errors import ConfigError, name_choices
from zoo.evaluation.measures.few_shot import (
    BLINDS,
    Examples,
    asked_in,
    asked_instead,
    blinded,
    examples_of,
    followed,
    with_examples,
    with_words,
)
from zoo.evaluation.measures.requirements import checked_limits, refuse_model
from zoo.evaluation.measures.split_reader import Reading, Row
from zoo.evaluation.measures.vqa_accuracy import exact_match, vqa_accuracy
from zoo.evaluation.results.answers import (
    Answer,
    AnswersResult,
    Shown,
    answers_by_kind,
    check_source,
    mean_scores,
    question_text,
    references_of,
    sample_rate_of,
)
from zoo.processors.chat.messages import Conversation
from zoo.registry import register
from zoo.types import Evaluation

METRICS = {"exact_match": exact_match, "vqa_accuracy": vqa_accuracy}
RATIONALE = "Let's think step by step."
CONCLUSION = "Therefore, the answer is"


@register("evaluation")
class QuestionAnswering(Evaluation):
    """Exact match and VQA accuracy of generated answers, over all questions and by kind of question.

    The detail ``chance`` is the exact match of a baseline that always gives the most frequent answer of the question's kind.

    Args:
        instruction: text after each question, for example LLaVA-1.5's "Answer the question using a single word or phrase."
        num_shots: number of answered examples before each question, with their images; drawn from ``shots_split`` for each item,
            always the same for one ``seed``.
        shots_split: split to draw the examples from; an item is never its own example.
        chain_of_thought: generate in two calls: first a rationale, then the answer. The first prompt is the question followed by
            ``rationale``; the second one appends the generated rationale and ``conclusion``.
        rationale: instruction of the first call; Kosmos-1 has "Introduce this picture in detail:", with ``rationale_first``.
        rationale_first: in the first call show ``rationale`` in place of the question; the second call appends the generated text and
            the question.
        conclusion: instruction of the second call; not used with ``rationale_first``.
        max_rationale_tokens: maximum number of tokens that the first call generates.
        blind: also evaluate without images and audio, reported with the prefix ``blind_``: "blank" shows grey images and silence,
            "left_out" removes them; null skips this.
        max_new_tokens: maximum number of tokens of an answer.
        num_beams: width of the beam search; 1 decodes greedily.
        stop: strings that end an answer.
        kinds: evaluate only questions of these kinds; null evaluates all.
        examples: number of answers that the report shows, evenly spread.
        batch_size: number of questions processed together.
        limit: maximum number of items, spread over the split; null uses all.
        seed: random seed of the choice of examples before the questions.

    Raises:
        ConfigError: an unknown option value, or a number out of its range.
    """

    shares_items = True

    def __init__(
        self,
        *,
        instruction: str = "",
        num_shots: int = 0,
        shots_split: str = "train",
        chain_of_thought: bool = False,
        rationale: str = RATIONALE,
        rationale_first: bool = False,
        conclusion: str = CONCLUSION,
        max_rationale_tokens: int = 128,
        blind: str | None = None,
        max_new_tokens: int = 32,
        num_beams: int = 1,
        stop: Sequence[str] = (),
        kinds: Sequence[str] | None = None,
        examples: int = 60,
        batch_size: int = 16,
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        if blind is not None and blind not in BLINDS:
            raise ConfigError(f"blind: there is no {blind!r}; {name_choices(blind, BLINDS)}")
        for key, value in (("num_shots", num_shots), ("examples", examples)):
            if value < 0:
                raise ConfigError(f"{key}: {value}; allowed is 0 or more")
        if isinstance(stop, str) or isinstance(kinds, str):
            raise ConfigError(f"stop: {stop!r}, kinds: {kinds!r}; one is a string where a list is needed; give [TEXT]")
        counts = {"max_new_tokens": max_new_tokens, "max_rationale_tokens": max_rationale_tokens, "num_beams": num_beams}
        checked_limits({**counts, "batch_size": batch_size, "limit": limit})
        self.instruction, self.num_shots, self.shots_split, self.seed = instruction, num_shots, shots_split, seed
        if rationale_first and not chain_of_thought:
            raise ConfigError("rationale_first: true, but chain_of_thought is false; set both")
        self.thoughts = (rationale, conclusion, max_rationale_tokens) if chain_of_thought else None
        self.rationale_first = rationale_first
        self.blind, self.kinds, self.examples = blind, kinds, examples
        self.max_new_tokens, self.num_beams, self.stop = max_new_tokens, num_beams, tuple(stop)
        self.batch_size, self.limit = batch_size, limit

    def check(self, model: Any, source: Any) -> None:
        """Raise ConfigError if the model cannot generate text, or if the source has no questions."""
        refuse_model(model, ("generate",), "question_answering")
        check_source(source, self.kinds)
        if self.num_shots:
            source.split(self.shots_split)

    @torch.inference_mode()
    def __call__(self, model: Any, source: Any, split: str, *, advance: Callable[[int], None] = lambda items: None) -> AnswersResult:
        """Generate and score answers to the questions of one split.

        Args:
            advance: progress callback; receives the number of questions just finished.

        Raises:
            ConfigError: this evaluation cannot use the model or the source.
            DataError: an item cannot be used, or has no reference answer.
        """
        self.check(model, source)
        samples, answers = source.split(split), []
        shots = examples_of(source, split, self.num_shots, self.shots_split, self.seed)
        page = Shown(self.examples, len(samples), self.limit, lambda index: asked_in(samples.sample(index)))
        reading = Reading(samples, limit=self.limit, kinds=self.kinds, batch_size=self.batch_size, advance=advance)
        for found in reading(lambda rows: self._answers(model, rows, shots)):
            answers += [page(answer, index) for answer, index in found]
        names = list(answers[0].scores)
        return AnswersResult(
            mean_scores(answers, names),
            answers,
            {"chance": _chance(answers)} | self._details() | reading.details,
            answers_by_kind(answers, names),
            judged_by="vqa_accuracy",
            sample_rate_hz=sample_rate_of(model),
        )

    def _answers(self, model: Any, rows: Sequence[Row], shots: Examples | None) -> list[tuple[Answer, int]]:
        """Return scored answers with the indices of their items."""
        questions = [asked_in(sample) for _, sample in rows]
        prompts = [with_examples(q, shots(index)) if shots else q for (index, _), q in zip(rows, questions, strict=True)]
        texts, rationales = self._ask(model, prompts)
        blind_texts = self._ask(model, [blinded(p, self.blind) for p in prompts])[0] if self.blind else [None] * len(rows)
        found = []
        for position, (index, sample) in enumerate(rows):
            answer = Answer(sample.id, sample.kind, question_text(questions[position]), texts[position], references_of(sample))
            answer.rationale, answer.blind = rationales[position], blind_texts[position]
            found.append((_judged(answer), index))
        return found

    def _ask(self, model: Any, prompts: Sequence[Conversation]) -> tuple[list[str], Sequence[str | None]]:
        """Return the model's answer to each prompt, and the generated rationales; these are None without chain of thought."""
        if self.thoughts is None:
            return self._generate(model, [with_words(p, self.instruction) for p in prompts], self.max_new_tokens), [None] * len(prompts)
        rationale, conclusion, max_tokens = self.thoughts
        first = [(asked_instead if self.rationale_first else with_words)(p, rationale) for p in prompts]
        rationales = self._generate(model, first, max_tokens)
        last = [question_text(p) if self.rationale_first else conclusion for p in prompts]
        last = [f"{words}\n{self.instruction}".strip() for words in last]
        second = [followed(p, text, words) for p, text, words in zip(first, rationales, last, strict=True)]
        return self._generate(model, second, self.max_new_tokens), rationales

    def _generate(self, model: Any, prompts: list[Conversation], max_tokens: int) -> list[str]:
        texts = model.generate(prompts, max_new_tokens=max_tokens, num_beams=self.num_beams, stop=self.stop, batch_size=self.batch_size)
        return [text.strip() for text in texts]

    def _details(self) -> dict[str, Any]:
        """Return the settings that a reader needs to interpret the metrics; unset ones are left out."""
        details = {"num_shots": self.num_shots or None, "blind": self.blind, "instruction": self.instruction or None}
        details |= {
            "chain_of_thought": self.thoughts[0] if self.thoughts else None,
            "num_beams": self.num_beams if self.num_beams > 1 else None,
        }
        return {name: value for name, value in details.items() if value is not None}


def _chance(answers: Sequence[Answer]) -> float:
    """Return the exact match of a baseline: the most frequent first reference of each kind, given as answer to all of its questions."""
    counts: dict[str, Counter[str]] = {}
    for answer in answers:
        counts.setdefault(answer.kind, Counter())[answer.references[0]] += 1
    return sum(exact_match(counts[a.kind].most_common(1)[0][0], a.references) for a in answers) / len(answers)


def _judged(answer: Answer) -> Answer:
    """Set the scores of an answer and of its blind answer, if there is one; return it."""
    answer.scores = {name: judge(answer.answer, answer.references) for name, judge in METRICS.items()}
    if answer.blind is not None:
        answer.scores |= {f"blind_{name}": judge(answer.blind, answer.references) for name, judge in METRICS.items()}
    return answer
