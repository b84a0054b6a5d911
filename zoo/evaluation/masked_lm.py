"""Masked-language modelling on held-out text: how many hidden tokens are found, against a guess that never looks at the text.

Source: Devlin et al. 2018 (arXiv 1810.04805), appendix C.1 and table 6 (perplexity of hidden tokens). The baseline is the unigram
distribution of the training texts: its likeliest token for the accuracy, its cross-entropy (every entry counted once more, Laplace)
for the perplexity.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from zoo.data.loader import ProcessedSplit, evaluation_loader
from zoo.data.masking import Masking
from zoo.errors import ConfigError, DataError
from zoo.evaluation._accuracy import checked_limits, refuse_model
from zoo.registry import register
from zoo.types import Batch


@dataclass
class MaskedResult:
    """Figures of hidden tokens.

    Attributes:
        metrics: shares from 0 to 1: ``mlm_accuracy`` and ``unigram_accuracy``; ``nsp_accuracy`` or ``sop_accuracy`` of a head that tells
            pairs of texts apart.
        details: perplexities, and how many tokens were hidden.
    """

    metrics: dict[str, float]
    num_items: int
    details: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """A short description of the evaluated data."""
        return f"{self.num_items} texts, {self.details['hidden_tokens']} hidden tokens"

    def draw(self, folder: Path) -> str:
        """Draw accuracy and perplexity beside the baseline's; returns the picture's name."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.bar(["model", "unigram"], [100 * self.metrics["mlm_accuracy"], 100 * self.metrics["unigram_accuracy"]])
        left.set(title="hidden tokens found", ylabel="%")
        right.bar(["model", "unigram"], [self.details["mlm_perplexity"], self.details["unigram_perplexity"]])
        right.set(title="perplexity", yscale="log")
        figure.savefig(folder / "masked_lm.png", dpi=110)
        return "masked_lm.png"


@register("evaluation")
class MaskedLM:
    """Accuracy and perplexity of hidden tokens, beside those of the unigrams of the training texts.

    Args:
        probability: share of the tokens that is hidden; see ``zoo.data.masking``.
        unit: "pieces", "words" or "runs".
        seed: of the choice of tokens, which is the same for every model with this tokenizer.
        batch_size: number of texts processed together.
        limit: maximum number of texts, spread evenly over the split; None uses all.
        train_limit: so many texts of training, spread evenly, for the unigrams; None takes all.

    Raises:
        ConfigError: a number that is not positive.
    """

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
        """Raise ConfigError for a model that does not predict hidden tokens, or a source without texts."""
        refuse_model(model, ("fill_mask",), "masked_lm")
        if not model.head.masked_lm:
            raise ConfigError("evaluation: masked_lm needs a head that predicts hidden tokens; this one was built with masked_lm=false")
        if "text" not in source.modalities:
            raise ConfigError(f"evaluation: masked_lm needs texts; the source gives {', '.join(source.modalities)}")

    @torch.inference_mode()
    def __call__(self, model: Any, source: Any, split: str, *, advance: Callable[[int], None] = lambda items: None) -> MaskedResult:
        """Evaluate a system on one split.

        Args:
            advance: progress callback; receives the number of texts just finished.

        Raises:
            ConfigError: the model or its tokenizer hides nothing.
            DataError: the split is empty, or a text cannot be used.
        """
        self.check(model, source)
        part = model.processor["text"]
        words = {"probability": self.probability, "unit": self.unit}
        masking = Masking(tokenizer=part.tokenizer, mask_token_id=part.mask_token_id, **words)
        counts = self._unigrams(model, source, masking)
        found, labels, losses, pairs, items = [], [], [], {}, 0
        for batch in evaluation_loader(ProcessedSplit(source.split(split), model.processor), batch_size=self.batch_size, limit=self.limit):
            seeds = [(self.seed, items + row) for row in range(len(batch))]
            output = model(masking(batch, seeds).to(model.device))
            found.append(output.outputs["logits"].argmax(1).cpu())
            labels.append(output.outputs["labels"].cpu())
            losses.append(float(output.metrics.get("mlm_loss", 0.0)) * len(labels[-1]))
            for name in ("nsp_accuracy", "sop_accuracy"):
                if name in output.metrics:
                    pairs[name] = pairs.get(name, 0.0) + float(output.metrics[name]) * len(batch)
            items += len(batch)
            advance(len(batch))
        if not items or not (hidden := torch.cat(labels)).numel():
            raise DataError("evaluation: no token of the split could be hidden; choose another with data.test_split=...")
        return _measure(torch.cat(found), hidden, sum(losses), counts, {name: hits / items for name, hits in pairs.items()}, items)

    def _unigrams(self, model: Any, source: Any, masking: Masking) -> Int[Tensor, " vocab_size"]:
        """How often each entry stands in the training texts; special ones, which are never hidden, do not count."""
        counts = torch.zeros(model.encoders["text"].vocab_size, dtype=torch.int64)
        data = ProcessedSplit(source.split(source.splits[0]), model.processor)
        for batch in evaluation_loader(data, batch_size=self.batch_size, limit=self.train_limit):
            counts += _count(batch, len(counts))
        counts[: len(masking.is_special)][torch.from_numpy(masking.is_special)] = 0
        return counts


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
    """Figures; ``loss`` is summed over the hidden tokens."""
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
