"""Captioning: BLEU-4, ROUGE-L and CIDEr of generated captions against references.

Papers: Papineni et al. 2002 (BLEU); Lin 2004 (ROUGE); Vedantam et al. 2015 (CIDEr, arXiv 1411.5726); Chen et al. 2015 (COCO captions,
arXiv 1504.00325), section 3. The scorers are the pure-Python ones of ``pycocoevalcap``, with which papers report captions. CIDEr is
CIDEr-D as in that package; its document frequencies come from the references of the evaluated items.

Difference from the COCO server: it splits words with Stanford's tokenizer in Java. Here a word is a lower-case run of letters, digits and
apostrophes. Punctuation is removed in both, but "n't" and "'s" are not split off here.

Few-shot examples: Alayrac et al. 2022 (Flamingo, arXiv 2204.14198), section 3.4. The prompt "An image of": Huang et al. 2023 (Kosmos-1,
arXiv 2302.14045), section 4.1.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

from zoo.errors import ConfigError
from zoo.evaluation.measures.few_shot import Examples, answer_begins, asked_in, begun, examples_of, with_examples
from zoo.evaluation.measures.requirements import checked_limits, refuse_model
from zoo.evaluation.measures.split_reader import Reading, Row
from zoo.evaluation.results.answers import Answer, AnswersResult, Shown, check_source, question_text, references_of, sample_rate_of
from zoo.processors.chat.messages import Conversation
from zoo.registry import register
from zoo.types import Evaluation

METRICS = ("bleu_4", "rouge_l", "cider")


@register("evaluation")
class Captioning(Evaluation):
    """BLEU-4, ROUGE-L and CIDEr of generated captions; ``cider`` may be above 1.

    Details that begin with ``chance_`` are the scores of references of other items in place of captions.

    Args:
        prompt: first words of every caption, which the system continues, for example "An image of"; they are not scored.
        num_shots: number of captioned examples before each picture; drawn from ``shots_split`` for each item, always the same for one
            ``seed``.
        shots_split: split to draw the examples from; an item is never its own example.
        stop: strings that end a caption.
        max_new_tokens: maximum number of tokens of a caption.
        num_beams: width of the beam search; 1 decodes greedily.
        kinds: evaluate only items of these kinds, for example [caption]; null evaluates all.
        examples: number of captions that the report shows, evenly spread.
        batch_size: number of items processed together.
        limit: maximum number of items, spread over the split; null uses all.
        seed: random seed of the choice of examples.

    Raises:
        ConfigError: a number out of its range.
    """

    shares_items = True

    def __init__(
        self,
        *,
        prompt: str = "",
        num_shots: int = 0,
        shots_split: str = "train",
        stop: Sequence[str] = (),
        max_new_tokens: int = 32,
        num_beams: int = 1,
        kinds: Sequence[str] | None = None,
        examples: int = 60,
        batch_size: int = 16,
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        for key, value in (("kinds", kinds), ("stop", stop)):
            if isinstance(value, str):
                raise ConfigError(f"{key}: {value!r} is one string; give a list, [{value}]")
        for key, value in (("num_shots", num_shots), ("examples", examples)):
            if value < 0:
                raise ConfigError(f"{key}: {value}; allowed is 0 or more")
        checked_limits({"max_new_tokens": max_new_tokens, "num_beams": num_beams, "batch_size": batch_size, "limit": limit})
        self.max_new_tokens, self.num_beams, self.kinds, self.examples = max_new_tokens, num_beams, kinds, examples
        self.batch_size, self.limit = batch_size, limit
        self.prompt, self.num_shots, self.shots_split, self.stop, self.seed = prompt.strip(), num_shots, shots_split, tuple(stop), seed

    def check(self, model: Any, source: Any) -> None:
        """Raise ConfigError if the model cannot generate text, the source has no conversations or captions, or the scorers are missing."""
        refuse_model(model, ("generate",), "captioning")
        check_source(source, self.kinds)
        if self.num_shots:
            source.split(self.shots_split)
        _scorers()

    @torch.inference_mode()
    def __call__(self, model: Any, source: Any, split: str, *, advance: Callable[[int], None] = lambda items: None) -> AnswersResult:
        """Generate and score captions for one split.

        Args:
            advance: progress callback; receives the number of items just finished.

        Raises:
            ConfigError: this evaluation cannot use the model or the source.
            DataError: an item cannot be used, or has no reference.
        """
        self.check(model, source)
        samples, answers = source.split(split), []
        shots = examples_of(source, split, self.num_shots, self.shots_split, self.seed)
        page = Shown(self.examples, len(samples), self.limit, lambda index: asked_in(samples.sample(index)))
        reading = Reading(samples, limit=self.limit, kinds=self.kinds, batch_size=self.batch_size, advance=advance)
        for found in reading(lambda rows: self._captions(model, rows, shots)):
            answers += [page(answer, index) for answer, index in found]
        metrics = caption_scores([answer.answer for answer in answers], [answer.references for answer in answers])
        references = sum(len(answer.references) for answer in answers) / len(answers)
        options = {"num_beams": self.num_beams if self.num_beams > 1 else None}
        options |= {"num_shots": self.num_shots or None, "prompt": self.prompt or None}
        details = {"references_per_item": references, **_chance([answer.references for answer in answers])}
        details |= {name: value for name, value in options.items() if value is not None}
        return AnswersResult(metrics, answers, details | reading.details, sample_rate_hz=sample_rate_of(model))

    def _captions(self, model: Any, rows: Sequence[Row], shots: Examples | None) -> list[tuple[Answer, int]]:
        """Return captions with the indices of their items."""
        questions = [asked_in(sample) for _, sample in rows]
        prompts = [self._prompt(q, index, shots) for (index, _), q in zip(rows, questions, strict=True)]
        options = {"max_new_tokens": self.max_new_tokens, "num_beams": self.num_beams, "batch_size": self.batch_size}
        captions = model.generate(prompts, **options, **({"stop": self.stop} if self.stop else {}))
        return [
            (Answer(sample.id, sample.kind, question_text(question), text.strip(), references_of(sample)), index)
            for (index, sample), question, text in zip(rows, questions, captions, strict=True)
        ]

    def _prompt(self, question: Conversation, index: int, shots: Examples | None) -> Conversation:
        """Return the prompt of item ``index``: few-shot examples, the picture, and the first words of its caption."""
        shown = [answer_begins(example, self.prompt) for example in shots(index)] if shots else []
        return begun(with_examples(question, shown), self.prompt)


def caption_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Compute BLEU-4 and CIDEr of all captions as one corpus, and the mean ROUGE-L.

    Raises:
        ConfigError: pycocoevalcap is missing.
    """
    bleu, rouge, cider = _scorers()
    reference_texts = {row: [words_of(text) for text in several] for row, several in enumerate(references)}
    caption_texts = {row: [words_of(text)] for row, text in enumerate(captions)}
    scores = (
        bleu(4).compute_score(reference_texts, caption_texts, verbose=0)[0][3],
        rouge().compute_score(reference_texts, caption_texts)[0],
        cider().compute_score(reference_texts, caption_texts)[0],
    )
    return dict(zip(METRICS, map(float, scores), strict=True))


def _chance(references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return the scores of a baseline: each item's caption is the first reference of the item half the split away.

    Empty for fewer than two items.
    """
    if len(references) < 2:
        return {}
    half = len(references) // 2
    found = caption_scores([several[0] for several in (*references[half:], *references[:half])], references)
    return {f"chance_{name}": value for name, value in found.items()}


def words_of(text: str) -> str:
    """Return a text as the scorers expect it, lower case without punctuation: "A dog's ball, red." -> "a dog's ball red"."""
    return " ".join(re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower().replace("\u2019", "'")))


def _scorers() -> tuple[Any, Any, Any]:
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        raise ConfigError("evaluation: 'captioning' needs pycocoevalcap; install it with: zoo install language") from error
    return Bleu, Rouge, Cider
