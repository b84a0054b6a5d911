"""Masked language modelling on held-out text: accuracy and perplexity of masked tokens, beside a unigram baseline.

Source: Devlin et al. 2018 (arXiv 1810.04805), appendix C.1 and table 6 (perplexity of masked tokens). The baseline is the unigram
distribution of the training texts and does not see the text: its likeliest token gives the accuracy, its cross-entropy with Laplace
smoothing (every vocabulary entry counted once more) gives the perplexity.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from zoo.data.loader import ProcessedSplit
from zoo.data.masking import Masking
from zoo.errors import ConfigError, DataError
from zoo.evaluation.measures.requirements import checked_limits, over_batches, refuse_model
from zoo.registry import register
from zoo.types import Batch, Evaluation, Result

PAIRS = ("nsp_accuracy", "sop_accuracy")  # metrics of the head that classify pairs of texts


class Predicted(NamedTuple):
    """Predictions of one batch: token ids, true ids, the sums of the loss and of each accuracy of ``PAIRS``, and the number of texts."""

    found: Int[Tensor, " hidden"]
    labels: Int[Tensor, " hidden"]
    loss: float
    pairs: dict[str, float]
    items: int


@dataclass
class MaskedResult(Result):
    """Metrics of the masked tokens of one split.

    Attributes:
        metrics: shares from 0 to 1: ``mlm_accuracy`` and ``unigram_accuracy``; also ``nsp_accuracy`` (next-sentence prediction) or
            ``sop_accuracy`` (sentence-order prediction) if the head classifies pairs of texts.
        details: perplexities, and the number of masked tokens.
    """

    metrics: dict[str, float]
    num_items: int
    details: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """A short description of the evaluated data."""
        return f"{self.num_items} texts, {self.details['hidden_tokens']} masked tokens"

    def draw(self, folder: Path) -> str:
        """Draw accuracy and perplexity of model and baseline into a PNG file in ``folder``; return the file name."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.bar(["model", "unigram"], [100 * self.metrics["mlm_accuracy"], 100 * self.metrics["unigram_accuracy"]])
        left.set(title="accuracy of masked tokens", ylabel="%")
        right.bar(["model", "unigram"], [self.details["mlm_perplexity"], self.details["unigram_perplexity"]])
        right.set(title="perplexity", yscale="log")
        figure.savefig(folder / "masked_lm.png", dpi=110)
        return "masked_lm.png"


@register("evaluation")
class MaskedLM(Evaluation):
    """Accuracy and perplexity of masked tokens, beside those of the unigram distribution of the training texts.

    Args:
        probability: share of the tokens to mask; see ``zoo.data.masking``.
        unit: unit that is masked as a whole: "pieces", "words", "runs" or "spans"; see ``zoo.data.masking``. A head with ``permutation``
            predicts the same tokens in a random order.
        seed: random seed of the choice of tokens; the choice is the same for every model with the same tokenizer.
        batch_size: number of texts processed together.
        limit: maximum number of texts, spread evenly over the split; None uses all.
        train_limit: maximum number of training texts for the unigram baseline, spread evenly over the split; None uses all.

    Raises:
        ConfigError: a number that is not positive.
    """

    shares_items = True
    monitor = "mlm_accuracy"  # the metric that selects the best checkpoint if training.monitor is not set

    def __init__(
        self,
        *,
        probability: float = 0.15,
        unit: str = "pieces",
        seed: int = 0,
        batch_size: int = 64,
        limit: int | None = None,
        train_limit: int | None = 2000,
    ) -> None:
        checked_limits({"batch_size": batch_size, "limit": limit, "train_limit": train_limit})
        self.probability, self.unit, self.seed = probability, unit, seed
        self.batch_size, self.limit, self.train_limit = batch_size, limit, train_limit

    def check(self, model: Any, source: Any) -> None:
        """Raise ConfigError if the model does not predict masked tokens, or if the source has no texts."""
        refuse_model(model, ("fill_mask",), "masked_lm")
        if not model.head.masked_lm:
            raise ConfigError("evaluation: masked_lm needs a head that predicts masked tokens; this one was built with masked_lm=false")
        if "text" not in source.modalities:
            raise ConfigError(
                f"evaluation: masked_lm needs texts, but the source gives {', '.join(source.modalities)}; choose data=documents"
            )

    @torch.inference_mode()
    def __call__(self, model: Any, source: Any, split: str, *, advance: Callable[[int], None] = lambda items: None) -> MaskedResult:
        """Evaluate a system on one split.

        Args:
            advance: progress callback; receives the number of texts just finished.

        Raises:
            ConfigError: the model does not predict masked tokens, or its tokenizer has no mask symbol.
            DataError: the split is empty, or a text cannot be used.
        """
        self.check(model, source)
        part = model.processor["text"]
        settings = {"probability": self.probability, "unit": self.unit, "permutation": model.head.needs_turns}
        masking = Masking(tokenizer=part.tokenizer, mask_token_id=part.mask_token_id, **settings)
        counts = self._unigrams(model, source, masking)

        def predict(batch: Batch, before: int) -> Predicted:
            seeds = [(self.seed, before + row) for row in range(len(batch))]  # of the item, so that batch_size does not change the masks
            output = model(masking(batch, seeds).to(model.device))
            labels = output.outputs["labels"].cpu()
            loss = float(output.metrics.get("mlm_loss", 0.0)) * len(labels)
            pairs = {name: float(output.metrics[name]) * len(batch) for name in PAIRS if name in output.metrics}
            return Predicted(output.outputs["logits"].argmax(1).cpu(), labels, loss, pairs, len(batch))

        data = ProcessedSplit(source.split(split), model.processor)
        batches = over_batches(data, predict, batch_size=self.batch_size, limit=self.limit, advance=advance)
        if not batches or not (hidden := torch.cat([batch.labels for batch in batches])).numel():
            raise DataError("evaluation: no token of the split could be masked; choose another with data.test_split=...")
        items = sum(batch.items for batch in batches)
        pairs = {name: sum(batch.pairs.get(name, 0.0) for batch in batches) / items for name in batches[0].pairs}
        found = torch.cat([batch.found for batch in batches])
        return _measure(found, hidden, sum(batch.loss for batch in batches), counts, pairs, items)

    def _unigrams(self, model: Any, source: Any, masking: Masking) -> Int[Tensor, " vocab_size"]:
        """Count each vocabulary entry in the training texts; special tokens get 0, because they are never masked."""
        counts = torch.zeros(model.encoders["text"].vocab_size, dtype=torch.int64)
        data = ProcessedSplit(source.split(source.splits[0]), model.processor)
        shares = over_batches(
            data, lambda batch, before: _count(batch, len(counts)), batch_size=self.batch_size, limit=self.train_limit, advance=_ignore
        )
        for share in shares:
            counts += share
        counts[: len(masking.is_special)][torch.from_numpy(masking.is_special)] = 0
        return counts


def _ignore(items: int) -> None:
    """Report no progress."""


def _count(batch: Batch, size: int) -> Int[Tensor, " size"]:
    ids, mask = batch.inputs["text"], batch.masks.get("text")
    return torch.bincount(ids.flatten() if mask is None else ids[mask], minlength=size)


def _measure(
    found: Int[Tensor, " hidden"],
    labels: Int[Tensor, " hidden"],
    loss: float,
    counts: Int[Tensor, " vocab_size"],
    pairs: dict[str, float],
    items: int,
) -> MaskedResult:
    """Compute the metrics.

    Args:
        found: predicted token ids.
        labels: true token ids.
        loss: cross-entropy of the model in nats, summed over the masked tokens.
        counts: counts of the vocabulary in the training texts.
        pairs: accuracies of the classification of text pairs, by name.
        items: number of texts.
    """
    shares = (counts + 1).double() / (counts + 1).sum()
    baseline = -shares[labels].log().mean()
    metrics = {
        "mlm_accuracy": float((found == labels).float().mean()),
        "unigram_accuracy": float((labels == counts.argmax()).float().mean()),
    }
    details = {
        "mlm_perplexity": float(torch.tensor(loss / len(labels)).exp()),
        "unigram_perplexity": float(baseline.exp()),
        "hidden_tokens": len(labels),
    }
    return MaskedResult(metrics | pairs, items, details)
