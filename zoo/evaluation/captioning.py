"""Captioning: BLEU-4, ROUGE-L and CIDEr of generated captions against references.

Papers: Papineni et al. 2002 (BLEU); Lin 2004 (ROUGE); Vedantam et al. 2015 (CIDEr, arXiv 1411.5726); Chen et al. 2015 (COCO captions,
arXiv 1504.00325), section 3. The scorers are those of ``pycocoevalcap``, by which captions are reported; they are plain Python. CIDEr is
CIDEr-D as there, its document frequencies taken from the references at hand.

Where we differ: COCO's server splits words by a tokenizer of Stanford's in Java. Here a word is a run of letters, digits and apostrophes
in lower case, with punctuation left out as there; "n't" and "'s" are not split off.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

from zoo.errors import ConfigError
from zoo.evaluation._accuracy import checked_limits, refuse_model
from zoo.evaluation._answers import Answer, AnswersResult, Shown, check_source, question_text, read_samples, references_of, sample_rate_of
from zoo.evaluation._prompts import asked_in
from zoo.registry import register

METRICS = ("bleu_4", "rouge_l", "cider")


@register("evaluation")
class Captioning:
    """Scores of captions that a system writes; ``cider`` may be above 1.

    Args:
        max_new_tokens: of a caption.
        num_beams: 1 takes the likeliest token each time.
        kinds: only items of these kinds, for example [caption]; null takes all.
        examples: captions that the report shows, evenly spread.
        batch_size: items at once.
        limit: only so many items, spread over the split; null takes all.

    Raises:
        ConfigError: a number out of its range.
    """

    def __init__(
        self,
        *,
        max_new_tokens: int = 32,
        num_beams: int = 1,
        kinds: Sequence[str] | None = None,
        examples: int = 60,
        batch_size: int = 16,
        limit: int | None = None,
    ) -> None:
        if isinstance(kinds, str):
            raise ConfigError(f"kinds: {kinds!r} is one string; give a list, [{kinds}]")
        if examples < 0:
            raise ConfigError(f"examples: {examples}; allowed is 0 or more")
        checked_limits({"max_new_tokens": max_new_tokens, "num_beams": num_beams, "batch_size": batch_size, "limit": limit})
        self.max_new_tokens, self.num_beams, self.kinds, self.examples = max_new_tokens, num_beams, kinds, examples
        self.batch_size, self.limit = batch_size, limit

    def check(self, model: Any, source: Any) -> None:
        """Raise ConfigError for a model that does not talk, a source without conversations, or missing scorers."""
        refuse_model(model, ("generate",), "captioning")
        check_source(source, self.kinds)
        _scorers()

    @torch.inference_mode()
    def __call__(self, model: Any, source: Any, split: str, *, advance: Callable[[int], None] = lambda items: None) -> AnswersResult:
        """Let a system caption one split.

        Args:
            advance: told how many more items are done.

        Raises:
            ConfigError: the model or the source cannot be evaluated so.
            DataError: an item cannot be used, or has no reference.
        """
        self.check(model, source)
        asked, answers = source.split(split), []
        page = Shown(self.examples, len(asked), self.limit)
        for found in read_samples(asked, limit=self.limit, kinds=self.kinds, batch_size=self.batch_size, advance=advance):
            prompts = [asked_in(sample) for _, sample in found]
            said = model.generate(prompts, max_new_tokens=self.max_new_tokens, num_beams=self.num_beams, batch_size=self.batch_size)
            for (_, sample), prompt, text in zip(found, prompts, said, strict=True):
                answers.append(page(Answer(sample.id, sample.kind, question_text(prompt), text.strip(), references_of(sample)), prompt))
        metrics = caption_scores([answer.answer for answer in answers], [answer.references for answer in answers])
        references = sum(len(answer.references) for answer in answers) / len(answers)
        details = {"references_per_item": references} | ({"num_beams": self.num_beams} if self.num_beams > 1 else {})
        return AnswersResult(metrics, answers, details, sample_rate_hz=sample_rate_of(model))


def caption_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """BLEU-4 and CIDEr of all captions together, and the mean ROUGE-L.

    Raises:
        ConfigError: pycocoevalcap is missing.
    """
    bleu, rouge, cider = _scorers()
    theirs = {row: [words_of(text) for text in several] for row, several in enumerate(references)}
    ours = {row: [words_of(text)] for row, text in enumerate(captions)}
    found = (
        bleu(4).compute_score(theirs, ours, verbose=0)[0][3],
        rouge().compute_score(theirs, ours)[0],
        cider().compute_score(theirs, ours)[0],
    )
    return dict(zip(METRICS, map(float, found), strict=True))


def words_of(text: str) -> str:
    """A text as the scorers take it: "A dog's ball, red." -> "a dog's ball red"."""
    return " ".join(re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower().replace("\u2019", "'")))


def _scorers() -> tuple[Any, Any, Any]:
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        raise ConfigError(
            "evaluation: 'captioning' needs pycocoevalcap; install it with: pip install 'multimodal-zoo[language]'"
        ) from error
    return Bleu, Rouge, Cider
