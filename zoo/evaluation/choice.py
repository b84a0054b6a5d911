"""Multiple choice: accuracy of the answer with the highest likelihood among several, with chance for comparison.

Papers: Brown et al. 2020 (arXiv 2005.14165), section 2.4, for answers chosen by likelihood; Huang et al. 2023 (Kosmos-1, arXiv 2302.14045),
sections 4.3 (sentiment of rendered text), 4.4 (multimodal chain of thought), 4.6 (zero-shot classes, with and without descriptions).

The choices are the first of these that is given: ``labels``; the texts of ``others`` items; the item's own choices; the source's classes.
With ``others``, the answer of a document is the text after its last picture.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.data.system_processor import conversation_of
from zoo.errors import ConfigError, DataError, name_choices
from zoo.evaluation.measures.choices import chosen, credit
from zoo.evaluation.measures.few_shot import BLINDS, Examples, asked_in, asked_instead, blinded, examples_of, followed, with_examples
from zoo.evaluation.measures.requirements import checked_limits, refuse_model
from zoo.evaluation.measures.split_reader import Reading
from zoo.evaluation.results.answers import (
    Answer,
    AnswersResult,
    Shown,
    answers_by_kind,
    check_source,
    mean_scores,
    question_text,
    sample_rate_of,
)
from zoo.processors.chat.messages import MARKERS, Conversation, Message
from zoo.registry import register
from zoo.storage.outside import refuse_special
from zoo.types import Evaluation, Sample

NORMALISATIONS = ("none", "characters")
_OTHERS_STREAM = 1  # makes the random stream differ from that of the examples, whose seed is (seed, item)


@dataclass(frozen=True)
class Asked:
    """One item with its question and its choices.

    Attributes:
        index: index of the item in the split.
        question: the conversation up to the answer.
        names: the choices.
        right: index of the right choice.
    """

    index: int
    sample: Sample
    question: Conversation
    names: list[str]
    right: int


@register("evaluation")
class Choice(Evaluation):
    """Accuracy of the answer with the highest log-probability, and the mean negative log-probability of the right answer.

    Args:
        question: question that replaces the item's own, for example "What is the name of the digit?"
        prompt: first words of every answer, for example "The photo of the"; they are not scored.
        labels: the choices, in the order of the source's classes if items have class numbers; null: see the module's docstring.
        others: number of other items whose texts are choices beside the item's own text.
        max_words: maximum number of words of each text; longer ones are cut.
        descriptions: description of each label, as a mapping or the path of a JSON file. They are shown before the question; accuracy
            without them is reported as ``plain_accuracy``.
        rationale: instruction of a first call, for example "Introduce this picture in detail:". The generated text is shown before the
            question; accuracy without it is reported as ``plain_accuracy``.
        max_rationale_tokens: maximum number of tokens that the first call generates.
        num_shots: number of answered examples before each question; drawn from ``shots_split``, always the same for one ``seed``.
        shots_split: split to draw the examples from; an item is never its own example.
        normalise: "none", or "characters" to divide log-probabilities by the length of the answer in characters, for answers of very
            different lengths.
        with_end: also score the token that ends an answer; needed if one answer is the beginning of another.
        blind: also score without images and audio, reported as ``blind_accuracy``: "blank" shows grey images and silence, "left_out"
            removes them.
        kinds: evaluate only items of these kinds; null evaluates all.
        examples: number of answers that the report shows, evenly spread.
        batch_size: number of items processed together.
        limit: maximum number of items, spread over the split; null uses all.
        seed: random seed of the choice of examples and of other items.

    Raises:
        ConfigError: an unknown option value, a number out of its range, or options that exclude each other.
    """

    shares_items = True
    monitor = "accuracy"  # the metric that selects the best checkpoint if training.monitor is not set

    def __init__(
        self,
        *,
        question: str = "",
        prompt: str = "",
        labels: Sequence[str] | None = None,
        others: int | None = None,
        max_words: int | None = None,
        descriptions: str | Mapping[str, str] | None = None,
        rationale: str = "",
        max_rationale_tokens: int = 64,
        num_shots: int = 0,
        shots_split: str = "train",
        normalise: str = "none",
        with_end: bool = False,
        blind: str | None = None,
        kinds: Sequence[str] | None = None,
        examples: int = 60,
        batch_size: int = 8,
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        for key, word, legal in (("normalise", normalise, NORMALISATIONS), ("blind", blind, (*BLINDS, None))):
            if word not in legal:
                raise ConfigError(f"{key}: there is no {word!r}; {name_choices(str(word), [each for each in legal if each])}")
        for key, value in (("labels", labels), ("kinds", kinds)):
            if isinstance(value, str):
                raise ConfigError(f"{key}: {value!r} is one string; give a list of strings, [{value}]")
        if labels is not None and (others is not None or len(set(labels)) < max(len(labels), 2)):
            raise ConfigError(
                f"labels: {list(labels)}; give at least two different labels, all different, and leave evaluation.others unset"
            )
        if num_shots < 0 or examples < 0:
            raise ConfigError(f"num_shots: {num_shots}, examples: {examples}; allowed is 0 or more")
        if descriptions is not None and not question:
            raise ConfigError('descriptions: need a question to be shown before; give one, question="Which of these is it?"')
        limits = {"others": others, "max_words": max_words, "max_rationale_tokens": max_rationale_tokens, "batch_size": batch_size}
        checked_limits({**limits, "limit": limit})
        self.question, self.prompt, self.labels, self.others, self.max_words = question, prompt.strip(), labels, others, max_words
        self.descriptions, self.rationale, self.max_rationale_tokens = read_descriptions(descriptions), rationale, max_rationale_tokens
        self.num_shots, self.shots_split, self.normalise, self.with_end = num_shots, shots_split, normalise, with_end
        self.blind, self.kinds, self.examples = blind, kinds, examples
        self.batch_size, self.limit, self.seed = batch_size, limit, seed

    def check(self, model: Any, source: Any) -> None:
        """Raise ConfigError if the model cannot score answers, if the source lacks questions and captions, or if an option does not fit."""
        refuse_model(model, ("score", "generate") if self.rationale else ("score",), "choice")
        check_source(source, self.kinds)
        if self.num_shots:
            source.split(self.shots_split)
        known = list(self.labels or source.class_names)
        for name in self.descriptions:
            if known and name not in known:
                raise ConfigError(f"evaluation.descriptions: there is no label {name!r}; {name_choices(name, known)}")

    @torch.inference_mode()
    def __call__(self, model: Any, source: Any, split: str, *, advance: Callable[[int], None] = lambda items: None) -> AnswersResult:
        """Evaluate a system on one split.

        Args:
            advance: progress callback; receives the number of items just finished.

        Raises:
            ConfigError: this evaluation cannot use the model or the source.
            DataError: an item cannot be used, or has fewer than two choices.
        """
        self.check(model, source)
        items, answers, nats = source.split(split), [], {}
        examples = examples_of(source, split, self.num_shots, self.shots_split, self.seed)
        page = Shown(self.examples, len(items), self.limit, lambda index: self._asked(index, items.sample(index), source, items).question)
        reading = Reading(items, limit=self.limit, kinds=self.kinds, batch_size=self.batch_size, advance=advance)
        for found in reading(lambda rows: self._scored([self._asked(*row, source, items) for row in rows], model, source, examples)):
            for answer, own_nats, index in found:
                answers.append(page(answer, index))
                for name, value in own_nats.items():
                    nats.setdefault(name, []).append(value)
        names = list(answers[0].scores)
        details = {f"{name}nats_of_the_right_answer": sum(each) / len(each) for name, each in nats.items()}
        return AnswersResult(
            mean_scores(answers, names),
            answers,
            details | self._details() | reading.details,
            answers_by_kind(answers, names),
            judged_by="accuracy",
            sample_rate_hz=sample_rate_of(model),
        )

    def _scored(
        self, asked: Sequence[Asked], model: Any, source: Any, examples: Examples | None
    ) -> list[tuple[Answer, dict[str, float], int]]:
        """Return for each item its scored answer, the negative log-probability of the right choice by variant of the prompt ("",
        "plain_", "blind_"), and its index.
        """
        variants = self._variants(model, asked, [self._shots(source, examples, one.index) for one in asked])
        scores = {name: self._scores(model, asked, prompts) for name, (prompts, _) in variants.items()}
        found = []
        for row, (one, rationale) in enumerate(zip(asked, variants[""][1], strict=True)):
            own = {name: each[row] for name, each in scores.items()}
            found.append((self._judged(one, own, rationale), {name: -several[one.right] for name, several in own.items()}, one.index))
        return found

    def _asked(self, index: int, sample: Sample, source: Any, items: Any) -> Asked:
        """Return the question and the choices of an item.

        Raises:
            DataError: the item has fewer than two choices, or its answer is not among them.
        """
        question, own = split_answer(sample)
        own = _first_words(sample.answers[0] if sample.answers else own, self.max_words)
        if self.question:
            question = asked_instead(question, self.question) if question.messages[-1].role == "user" else _shown(question, self.question)
        classes = list(source.class_names or ())
        if self.others is not None:
            names = self._texts_of_others(index, own, items)
            return Asked(index, sample, question, names, names.index(own))
        names = list(self.labels or [each for each in sample.choices if isinstance(each, str)] or classes)
        by_number = sample.label is not None and len(names) == len(classes)
        right = sample.label if by_number else names.index(own) if own in names else None
        if len(names) < 2 or right is None:
            known = ", ".join(map(repr, names[:6])) or "none"
            raise DataError(
                f"item {sample.id}: its answer {own!r} is not among its choices ({known}); give evaluation.labels, or evaluation.others to "
                "use the texts of other items as choices"
            )
        return Asked(index, sample, question, names, right)

    def _shots(self, source: Any, examples: Examples | None, index: int) -> list[Conversation]:
        """Return the few-shot examples for item ``index``, with question and answer in the same form as the item's."""
        if examples is None:
            return []
        found = [self._asked(row, examples.split.sample(row), source, examples.split) for row in examples.rows(index)]
        answers = [Message("assistant", f"{self.prompt} {one.names[one.right]}".strip()) for one in found]
        return [replace(one.question, messages=(*one.question.messages, answer)) for one, answer in zip(found, answers, strict=True)]

    def _texts_of_others(self, index: int, own: str, items: Any) -> list[str]:
        """Return the item's text and different texts of other items, in random order; a pure function of seed and item.

        Raises:
            DataError: the split has too few different texts.
        """
        assert self.others is not None
        generator = np.random.default_rng((self.seed, index, _OTHERS_STREAM))
        names = [own]
        for row in map(int, generator.permutation(len(items))):
            text = _first_words(split_answer(items.sample(row))[1], self.max_words)
            if text and text not in names:
                names.append(text)
            if len(names) > self.others:
                return [names[i] for i in generator.permutation(len(names))]
        raise DataError(f"evaluation.others: {self.others}, but the split has {len(names)} different texts; lower it")

    def _variants(
        self, model: Any, asked: Sequence[Asked], shots: Sequence[Sequence[Conversation]]
    ) -> dict[str, tuple[list[Conversation], Sequence[str | None]]]:
        """Return prompts and generated rationales by the prefix that their metrics get: "", "plain_" or "blind_"."""
        plain = [with_examples(one.question, shown) for one, shown in zip(asked, shots, strict=True)]
        full = [with_examples(self._described(one), shown) for one, shown in zip(asked, shots, strict=True)]
        rationales: Sequence[str | None] = [None] * len(asked)
        if self.rationale:
            first = [asked_instead(prompt, self.rationale) for prompt in plain]
            texts = model.generate(first, max_new_tokens=self.max_rationale_tokens, batch_size=self.batch_size)
            rationales = [text.strip() for text in texts]
            full = [followed(p, text, question_text(q)) for p, text, q in zip(first, texts, full, strict=True)]
        found: dict[str, tuple[list[Conversation], Sequence[str | None]]] = {"": (full, rationales)}
        if self.descriptions or self.rationale:
            found["plain_"] = (plain, rationales)
        if self.blind:
            found["blind_"] = ([blinded(prompt, self.blind) for prompt in plain], rationales)
        return found

    def _described(self, one: Asked) -> Conversation:
        """Return the question with the descriptions of its choices before it, if there are any."""
        if not self.descriptions:
            return one.question
        lines = [f"{name}: {self.descriptions[name]}" for name in one.names if name in self.descriptions]
        return asked_instead(one.question, "\n".join([*lines, question_text(one.question)]))

    def _scores(self, model: Any, asked: Sequence[Asked], prompts: Sequence[Conversation]) -> list[list[float]]:
        """Return the log-probability of each choice given the prompt and the words that all answers begin with.

        All choices are scored in one call, so that each image is encoded only once.
        """
        rows, answers = [], []
        for one, prompt in zip(asked, prompts, strict=True):
            texts = [f"{self.prompt} {name}".strip() for name in one.names]
            rows += [prompt] * len(texts)
            answers += texts
        found = iter(model.score(rows, answers, batch_size=2 * self.batch_size, with_end=self.with_end).tolist())
        scores = [[next(found) for _ in one.names] for one in asked]
        if self.prompt:
            prompt_scores = model.score(list(prompts), [self.prompt] * len(asked), batch_size=2 * self.batch_size, with_end=False).tolist()
            scores = [[score - prompt_score for score in several] for several, prompt_score in zip(scores, prompt_scores, strict=True)]
        return scores

    def _judged(self, one: Asked, scores: Mapping[str, list[float]], rationale: str | None) -> Answer:
        """Return the chosen answer with its scores."""
        answer = Answer(one.sample.id, one.sample.kind, question_text(one.question), "", [one.names[one.right]], rationale=rationale)
        for name, several in scores.items():
            lengths = [len(each) if self.normalise == "characters" else 1 for each in one.names]
            compared = [score / length for score, length in zip(several, lengths, strict=True)]
            answer.scores[f"{name}accuracy"] = credit(compared, one.right)
            if name == "":
                answer.answer = one.names[chosen(compared)]
                answer.scores["chance"] = 1 / len(one.names)
            elif name == "blind_":
                answer.blind = one.names[chosen(compared)]
        return answer

    def _details(self) -> dict[str, Any]:
        """Return the settings that a reader needs to interpret the metrics; unset ones are left out."""
        details = {
            "num_shots": self.num_shots or None,
            "others": self.others,
            "question": self.question or None,
            "prompt": self.prompt or None,
        }
        details |= {"rationale": self.rationale or None, "blind": self.blind, "descriptions": len(self.descriptions) or None}
        details |= {"normalise": None if self.normalise == "none" else self.normalise}
        return {name: value for name, value in details.items() if value is not None}


def split_answer(sample: Sample) -> tuple[Conversation, str]:
    """Split a sample into the conversation before the answer and the answer: in a document, the text after its last picture or clip.

    Raises:
        DataError: the conversation has no question, or the document has no text after its last picture or clip.
    """
    conversation = conversation_of(sample)
    if [message.role for message in conversation.messages] != ["document"]:
        return asked_in(sample), conversation.answer
    text = conversation.messages[0].text
    at = max(text.rfind(marker) + len(marker) if marker in text else 0 for marker in MARKERS.values())
    if not at or not text[at:].strip():
        raise DataError(f"item {sample.id}: is a document without text after its last picture or clip, so it has no answer to score")
    return replace(conversation, messages=(Message("document", text[:at]),)), text[at:].strip()


def read_descriptions(given: str | Mapping[str, str] | None) -> dict[str, str]:
    """Return descriptions by label, from a mapping or from the path of a JSON file; empty for None.

    Raises:
        ConfigError: ``given`` is not a mapping of strings, or the file cannot be read.
    """
    if isinstance(given, str):
        refuse_special(Path(given), lambda message: ConfigError(f"descriptions: {message}"))
        try:
            given = json.loads(Path(given).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f'descriptions: {given} cannot be read as JSON ({error}); give a file like {{"two": "a curve"}}') from error
    given = {} if given is None else given
    if not isinstance(given, Mapping) or any(not isinstance(text, str) for text in given.values()):
        raise ConfigError(f"descriptions: {str(given)[:60]}; give a mapping from label to text, {{two: a curve above a line}}")
    return {str(name): text for name, text in given.items()}


def _shown(document: Conversation, question: str) -> Conversation:
    """Return the pictures and clips of a document, followed by a question."""
    found = "".join(marker * document.count(marker) for marker in MARKERS.values())
    return replace(document, messages=(Message("user", f"{found}\n{question}"),))


def _first_words(text: str, most: int | None) -> str:
    return " ".join(text.split()[:most])
