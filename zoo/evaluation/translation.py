"""Translation: BLEU and chrF of generated texts against references, beside those of copying the source.

Papers: Papineni et al. 2002 (BLEU); Post 2018 (sacrebleu, arXiv 1804.08771); Popovic 2015 (chrF); Snover et al. 2006 (TER). The scores are
those of the library ``sacrebleu``, whose signature is stored with them. Of small models chrF tells more. Two baselines need no model: the
source itself, and a dictionary of the training split that translates word by word.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from zoo.errors import ConfigError
from zoo.evaluation.measures.requirements import checked_limits, refuse_model
from zoo.evaluation.measures.split_reader import Reading, Row
from zoo.evaluation.measures.word_lexicon import WordLexicon
from zoo.evaluation.results.answers import Answer, AnswersResult, Shown
from zoo.processors.chat.messages import MARKERS, Conversation, Message
from zoo.registry import register
from zoo.types import Evaluation, Sample, encoders_of, part_of


@register("evaluation")
class Translation(Evaluation):
    """BLEU, chrF and TER of a whole split, as shares from 0 to 1: 0.284 is the BLEU of 28.4.

    Details hold the signatures of sacrebleu and, for texts, the scores of the source itself in place of its translation
    ("copied_source_...").

    Args:
        num_beams: width of the beam search; 1 decodes greedily.
        length_penalty: exponent of the length penalty of the beam search.
        length_form: form of the penalty, "gnmt" or "power".
        max_new_tokens: maximum number of tokens of a text; null allows 50 more than the source has.
        tokenize: tokenizer of BLEU in sacrebleu: 13a, intl, zh, ja-mecab, char, ...
        word_order: 0 computes chrF, 2 computes chrF++.
        ter: also compute the translation edit rate: edits and shifts of words for each word of the references, 0 for equal texts and above
            1 for texts that are much too long. It takes about 10 ms for a pair of 25 words.
        baselines: also score a dictionary that is learnt from the training split and translates word by word ("word_by_word_...").
        examples: number of texts that the report shows, evenly spread.
        batch_size: number of items processed together.
        limit: maximum number of items, spread over the split; null uses all.

    Raises:
        ConfigError: a number out of its range.
    """

    shares_items = True
    monitor = "chrf"  # the metric that selects the best checkpoint if training.monitor is not set

    def __init__(
        self,
        *,
        num_beams: int = 1,
        length_penalty: float = 0.6,
        length_form: str = "gnmt",
        max_new_tokens: int | None = None,
        tokenize: str = "13a",
        word_order: int = 0,
        ter: bool = False,
        baselines: bool = False,
        examples: int = 60,
        batch_size: int = 32,
        limit: int | None = None,
    ) -> None:
        if word_order not in (0, 2) or examples < 0:
            raise ConfigError(f"word_order {word_order}, examples {examples}; allowed are 0 (chrF) or 2 (chrF++), and 0 or more")
        checked_limits({"num_beams": num_beams, "max_new_tokens": max_new_tokens, "batch_size": batch_size, "limit": limit})
        self.num_beams, self.length_penalty, self.length_form, self.max_new_tokens = num_beams, length_penalty, length_form, max_new_tokens
        self.tokenize, self.word_order, self.ter, self.baselines = tokenize, word_order, ter, baselines
        self.examples, self.batch_size, self.limit = examples, batch_size, limit

    def check(self, model: Any, source: Any) -> None:
        """Raise ConfigError if the model cannot write texts, the source has no texts to compare with, or sacrebleu is missing."""
        refuse_model(model, ("generate",), "translation")
        if part_of(model, "target_text") is None:
            raise ConfigError("evaluation: 'translation' needs a head 'seq2seq'; for conversations choose evaluation=captioning")
        reads = part_of(model, "target_text").modality
        if reads not in source.modalities:
            raise ConfigError(
                f"evaluation: 'translation' compares with the {reads} of each item, but the source gives {', '.join(source.modalities)}; "
                "choose data=parallel, or set system.processor.target_text.reads"
            )
        if self.baselines and set(encoders_of(model)) != {"text"}:
            raise ConfigError(
                f"baselines: true, but word by word translates texts and the model reads {', '.join(encoders_of(model))}; set false"
            )
        _scorers(self.tokenize, self.word_order, self.ter)

    @torch.inference_mode()
    def __call__(self, model: Any, source: Any, split: str, *, advance: Callable[[int], None] = lambda items: None) -> AnswersResult:
        """Write and score the texts of one split.

        Args:
            advance: progress callback; receives the number of items just finished.

        Raises:
            ConfigError: this evaluation cannot use the model or the source.
            DataError: an item cannot be used.
        """
        self.check(model, source)
        samples, answers = source.split(split), []
        (modality, *_), reads = encoders_of(model), part_of(model, "target_text").modality
        page = Shown(self.examples, len(samples), self.limit, lambda index: _shown(samples.sample(index), modality))
        reading = Reading(samples, limit=self.limit, batch_size=self.batch_size, advance=advance)
        for found in reading(lambda rows: self._texts(model, rows, modality, reads)):
            answers += [page(answer, index) for answer, index in found]
        written, references = [answer.answer for answer in answers], [answer.references[0] for answer in answers]
        scores, signatures = translation_scores(written, references, tokenize=self.tokenize, word_order=self.word_order, ter=self.ter)
        details = {"signatures": signatures, "num_beams": self.num_beams}
        if modality == "text":
            details |= self._baseline_scores([answer.question for answer in answers], references, source, reads)
        return AnswersResult(scores, answers, details | reading.details)

    def _baseline_scores(self, texts: Sequence[str], references: Sequence[str], source: Any, reads: str) -> dict[str, float]:
        """Return the scores of the source texts themselves, and of a dictionary of the training split if ``baselines``."""
        baselines = {"copied_source": list(texts)}
        if self.baselines:
            training = source.split("train")
            samples = (training.sample(index) for index in range(len(training)))
            lexicon = WordLexicon((sample.inputs["text"], sample.inputs[reads]) for sample in samples)
            baselines["word_by_word"] = [lexicon.translate(text) for text in texts]
        found = {}
        for name, written in baselines.items():
            scores, _ = translation_scores(written, references, tokenize=self.tokenize, word_order=self.word_order, ter=self.ter)
            found |= {f"{name}_{score}": value for score, value in scores.items()}
        return found

    def _texts(self, model: Any, rows: Sequence[Row], modality: str, reads: str) -> list[tuple[Answer, int]]:
        """Return the written texts with the indices of their items."""
        options: dict[str, Any] = {"num_beams": self.num_beams, "max_new_tokens": self.max_new_tokens, "batch_size": self.batch_size}
        if self.num_beams > 1:
            options |= {"length_penalty": self.length_penalty, "length_form": self.length_form}
        written = model.generate([sample.inputs[modality] for _, sample in rows], **options)
        found = []
        for (index, sample), text in zip(rows, written, strict=True):
            answer = Answer(sample.id, sample.kind, _question(sample, modality), text, [sample.inputs[reads]])
            found.append((answer, index))
        return found


def translation_scores(
    texts: Sequence[str], references: Sequence[str], *, tokenize: str = "13a", word_order: int = 0, ter: bool = False
) -> tuple[dict[str, float], dict[str, str]]:
    """Return BLEU, chrF and, if ``ter``, TER of all texts as one corpus, as shares (0.284 for 28.4), and the signatures of sacrebleu.

    Raises:
        ConfigError: sacrebleu is missing, or does not know the tokenizer.
    """
    scores, signatures = {}, {}
    for name, scorer in _scorers(tokenize, word_order, ter).items():
        scores[name] = scorer.corpus_score(list(texts), [list(references)]).score / 100
        signatures[name] = str(scorer.get_signature())
    return scores, signatures


def _question(sample: Sample, modality: str) -> str:
    return str(sample.inputs[modality]) if modality == "text" else ""


def _shown(sample: Sample, modality: str) -> Conversation:
    media = {"image": {"images": (sample.inputs[modality],)}, "audio": {"audio": (sample.inputs[modality],)}}.get(modality, {})
    return Conversation((Message("user", MARKERS.get(modality, _question(sample, modality))),), **media, id=sample.id)


def _scorers(tokenize: str, word_order: int, ter: bool) -> dict[str, Any]:
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
        from sacrebleu.metrics.ter import TER
    except ImportError as error:
        raise ConfigError("evaluation: 'translation' needs sacrebleu; install it with: zoo install language") from error
    if tokenize not in BLEU.TOKENIZERS:
        raise ConfigError(f"tokenize: there is no {tokenize!r}; allowed are {', '.join(sorted(BLEU.TOKENIZERS))}")
    found: dict[str, Any] = {"bleu": BLEU(tokenize=tokenize), "chrf": CHRF(word_order=word_order)}
    return found | ({"ter": TER()} if ter else {})
