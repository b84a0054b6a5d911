"""Perplexity of the right answers, per token, over all items and by kind of question.

Perplexity is the exponential of the mean negative log-probability of the supervised tokens, each given all tokens before it. Supervised
are the answers of conversations, and every token but the first of plain text. A plain text longer than the model's context is cut into
pieces without overlap. Source: Jelinek et al. 1977; transformers' documentation, "Perplexity of fixed-length models". On request, the
figure of an n-gram model of the training split stands beside it, as the baseline of a model that counts.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import ConfigError, DataError
from zoo.evaluation.measures.ngram import NGram
from zoo.evaluation.measures.requirements import checked_limits
from zoo.evaluation.measures.split_reader import Reading, Row
from zoo.evaluation.results.answers import check_source
from zoo.processors.conversation import Tokens
from zoo.registry import register
from zoo.types import SUPERVISED, Batch, Evaluation, LanguageHead, Predictions, Result, Sample, head_of


@dataclass
class PerplexityResult(Result):
    """Perplexity and token accuracy of one split.

    Attributes:
        metrics: ``perplexity`` (1 or more, not a share) and ``token_accuracy``, the share of tokens that the model finds likeliest.
        by_kind: perplexity, token accuracy and number of tokens for each kind of question; empty if there is one kind only.
    """

    metrics: dict[str, float]
    num_items: int
    details: dict[str, Any] = field(default_factory=dict)
    by_kind: dict[str, dict[str, float]] = field(default_factory=dict)
    numbers = frozenset(("perplexity",))  # names of metrics that are not shares

    @property
    def title(self) -> str:
        """A short description of the evaluated data."""
        return f"{self.num_items} items, {self.details['tokens']} tokens"

    @property
    def facts(self) -> dict[str, Any]:
        """Further entries of ``metrics.json``, beside metrics and details."""
        return {"by_kind": self.by_kind}

    @property
    def tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Tables for the terminal, each with a title, column names and rows of strings."""
        tables = []
        if "ngram_perplexity" in self.details:
            named = {"model": self.metrics["perplexity"], f"{self.details['ngram_order']}-gram": self.details["ngram_perplexity"]}
            tables.append(("baseline", ["model", "perplexity"], [[name, f"{value:.4g}"] for name, value in named.items()]))
        if self.by_kind:
            rows = [
                [kind, f"{row['perplexity']:.4g}", f"{100 * row['token_accuracy']:.2f} %", f"{row['tokens']:.0f}"]
                for kind, row in self.by_kind.items()
            ]
            tables.append(("by kind", ["kind", "perplexity", "token accuracy", "tokens"], rows))
        return tables

    def draw(self, folder: Path) -> str:
        """Draw nothing and return an empty file name; the metrics need no picture."""
        return ""


@register("evaluation")
class Perplexity(Evaluation):
    """Perplexity of the answers in conversations, or of plain texts.

    Args:
        kinds: evaluate only questions of these kinds; null evaluates all.
        batch_size: number of items processed together.
        limit: maximum number of items, spread over the split; null uses all.
        ngram: order of an n-gram model (Kneser-Ney) of the first split, whose perplexity on the same tokens is reported as
            ``ngram_perplexity``: 3 counts each token given the two before it. null leaves it out.
        train_limit: maximum number of items of the first split that it counts, spread over the split; null uses all.

    Raises:
        ConfigError: a number that is not positive.
    """

    shares_items = True
    monitor = "token_accuracy"  # the metric that selects the best checkpoint if training.monitor is not set

    def __init__(
        self,
        *,
        kinds: Sequence[str] | None = None,
        batch_size: int = 16,
        limit: int | None = None,
        ngram: int | None = None,
        train_limit: int | None = 2000,
    ) -> None:
        if isinstance(kinds, str):
            raise ConfigError(f"kinds: {kinds!r} is one string; give a list, [{kinds}]")
        checked_limits({"batch_size": batch_size, "limit": limit, "ngram": ngram, "train_limit": train_limit})
        self.kinds, self.batch_size, self.limit, self.ngram, self.train_limit = kinds, batch_size, limit, ngram, train_limit

    def check(self, model: Any, source: Any) -> None:
        """Raise ConfigError if the model does not predict tokens, or if the source has neither conversations nor texts."""
        head = head_of(model)
        if not isinstance(head, LanguageHead):
            raise ConfigError(
                f"evaluation: 'perplexity' needs a head that predicts tokens (llava); {type(head or model).__name__} does not"
            )
        check_source(source, self.kinds)

    @torch.inference_mode()
    def __call__(self, model: Any, source: Any, split: str, *, advance: Callable[[int], None] = lambda items: None) -> PerplexityResult:
        """Evaluate a system on one split.

        Args:
            advance: progress callback; receives the number of items just finished.

        Raises:
            ConfigError: this evaluation cannot use the model or the source.
            DataError: an item cannot be used, or the split has no supervised token.
        """
        self.check(model, source)
        sums: dict[str, Tensor] = {}
        baseline = None if self.ngram is None else _Baseline(model, source, self)
        reading = Reading(source.split(split), limit=self.limit, kinds=self.kinds, batch_size=self.batch_size, advance=advance)
        for found in reading(lambda rows: self._sums(model, rows, baseline)):
            for kind, row in found:
                sums[kind] = sums.get(kind, torch.zeros_like(row)) + row
        total = torch.stack(list(sums.values())).sum(0)
        if not total[2]:
            raise DataError(
                "evaluation: the split has no token to predict: its conversations have no answers; choose another data.test_split"
            )
        figures = _figures(total)
        by_kind = {kind: _figures(row) for kind, row in sorted(sums.items()) if row[2]} if len(sums) > 1 else {}
        details = {"tokens": int(total[2])} | reading.details
        if self.ngram is not None:
            details |= {"ngram_order": self.ngram, "ngram_perplexity": math.exp(min(float(total[3] / total[2]), 700.0))}
        return PerplexityResult({k: figures[k] for k in ("perplexity", "token_accuracy")}, reading.items, details, by_kind)

    def _sums(self, model: Any, rows: Sequence[Row], baseline: "_Baseline | None") -> list[tuple[str, Tensor]]:
        """Return the kind and the ``token_sums`` of each conversation, and of each piece of a plain text; a baseline adds its surprise."""
        found: list[tuple[str, Tensor]] = []
        for samples, batch in _batches(model.processor, [sample for _, sample in rows], self.batch_size):
            columns = token_sums(model, batch.to(model.device))
            if baseline is not None:
                columns = torch.cat([columns, baseline.surprises(batch)[:, None]], dim=1)
            found += zip([sample.kind for sample in samples], columns, strict=True)
        return found


class _Baseline:
    """n-gram model of the first split of a source."""

    def __init__(self, model: Any, source: Any, settings: Perplexity) -> None:
        assert settings.ngram is not None
        size = model.processor["conversation"].tokenizer.get_vocab_size()
        self.model = NGram(order=settings.ngram, vocab_size=size)
        kinds, first = settings.kinds, source.split(source.splits[0])
        reading = Reading(first, limit=settings.train_limit, kinds=kinds, batch_size=settings.batch_size, advance=lambda items: None)

        def tokens_of(rows: Sequence[Row]) -> list[list[int]]:
            return [row for _, b in _batches(model.processor, [s for _, s in rows], settings.batch_size) for row in _rows(b)]

        for found in reading(tokens_of):
            self.model.fit(found)

    def surprises(self, batch: Batch) -> Tensor:
        """Return the sum of the surprises at the supervised tokens of each row, in nats."""
        found, reach = [], self.model.order - 1
        for ids, supervised in zip(_rows(batch), _rows(batch, batch.targets[SUPERVISED]), strict=True):
            places = [place for place in range(1, len(ids)) if supervised[place] and ids[place] >= 0]
            found.append(math.fsum(self.model.surprise(ids[place], ids[max(place - reach, 0) : place]) for place in places))
        return torch.tensor(found, dtype=torch.float64)


def _rows(batch: Batch, values: Tensor | None = None) -> list[list[int]]:
    """Return the values of the real tokens of each row, by default their ids; placeholders of other modalities stand as one id each."""
    ids, mask = batch.inputs["text"] if values is None else values, batch.masks.get("text")
    rows = ids.tolist()
    if mask is None:
        return rows
    return [[value for value, real in zip(row, seen, strict=True) if real] for row, seen in zip(rows, mask.tolist(), strict=True)]


def token_sums(model: Any, batch: Batch) -> Tensor:
    """Return sums over the tokens of each conversation of a batch, on the CPU.

    Returns:
        Float64 of shape [batch, 3]: negative log-probability in nats, number of tokens predicted right, number of tokens.
    """
    found: Predictions = model.head.predictions(model.encode_batch(batch), batch)
    surprise = F.cross_entropy(found.logits.float(), found.labels, reduction="none")
    columns = torch.stack([surprise, (found.logits.argmax(-1) == found.labels).float(), torch.ones_like(surprise)], dim=1).double().cpu()
    return columns.new_zeros(len(batch), 3).index_add_(0, found.rows.cpu(), columns)


def _figures(sums: Tensor) -> dict[str, float]:
    surprise, right, tokens = sums[:3].tolist()
    # exp overflows above 709
    return {"perplexity": math.exp(min(surprise / tokens, 700.0)), "token_accuracy": right / tokens, "tokens": tokens}


def _batches(processor: Any, samples: Sequence[Sample], batch_size: int) -> Iterator[tuple[list[Sample], Batch]]:
    """Yield batches with the sample of each row: first one of all conversations and captions, then those of the plain texts."""
    plain = [set(sample.inputs) == {"text"} for sample in samples]
    talks = [sample for sample, is_plain in zip(samples, plain, strict=True) if not is_plain]
    if talks:
        yield talks, processor.collate(talks, [processor.items(sample) for sample in talks])
    texts_only = [sample for sample, is_plain in zip(samples, plain, strict=True) if is_plain]
    windows = [pair for sample in texts_only for pair in _windows(processor["conversation"], sample)]
    for start in range(0, len(windows), batch_size):
        some = windows[start : start + batch_size]
        texts, mask, supervised = processor["conversation"].collate([tokens for _, tokens in some])
        ids = [sample.id for sample, _ in some]
        yield [sample for sample, _ in some], Batch({"text": texts}, {"text": mask}, {SUPERVISED: supervised}, ids)


def _windows(part: Any, sample: Sample) -> list[tuple[Sample, Tokens]]:
    """Cut a plain text into pieces of at most the model's context length, without chat template; every token is supervised.

    Raises:
        DataError: the sample's text is not one string.
    """
    text = sample.inputs["text"]
    if not isinstance(text, str):
        raise DataError(f"item {sample.id}: its text is a {type(text).__name__}, not one string; choose another source (data=...)")
    ids = torch.tensor(part.tokenizer.encode(part.symbols.start + text, add_special_tokens=False).ids, dtype=torch.int64)
    pieces = ids.split(part.max_length or part.context_length) if len(ids) else ()
    return [(sample, Tokens(piece, torch.ones_like(piece, dtype=torch.bool))) for piece in pieces]
