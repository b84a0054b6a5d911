"""k-nearest-neighbour probe: accuracy of the class that the nearest training items in feature space vote for.

Papers: Wu et al. 2018 (arXiv 1805.01978), section 3.4; Caron et al. 2021 (DINO, arXiv 2104.14294), appendix F, whose settings
are the defaults. Reference: facebookresearch/dino ``eval_knn.py``.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from zoo.errors import ConfigError, name_choices
from zoo.evaluation.measures.features import FeatureReader, refuse_same_split
from zoo.evaluation.measures.requirements import checked_limits, refuse_source
from zoo.evaluation.results.accuracy import AccuracyResult, measure
from zoo.registry import register
from zoo.types import Evaluation

WEIGHTS = ("distance", "uniform")
QUERIES, KEYS = 1024, 65536  # largest block of similarities in memory: 256 MB in fp32


@register("evaluation")
class KnnProbe(Evaluation):
    """Accuracy of a vote by the ``k`` training items of highest cosine similarity.

    Args:
        k: number of neighbours that vote.
        weights: weight of a neighbour's vote. "distance": exp(s / temperature) for cosine similarity s. "uniform": 1.
        temperature: temperature of the weights "distance".
        modality: modality of the encoder to probe.
        features: "pooled", "mean" (of the tokens) or "cls_mean" (class token and mean).
        train_split: split that the neighbours are taken from.
        train_limit: maximum number of training items, spread evenly over the split; None uses all.
        limit: maximum number of items to report on, spread evenly over the split; None uses all.
        batch_size: number of items processed together.

    Raises:
        ConfigError: an unknown option value, or a number that is not positive.
    """

    shares_items = True
    reads_other_splits = True

    def __init__(
        self,
        *,
        k: int = 20,
        weights: str = "distance",
        temperature: float = 0.07,
        modality: str = "image",
        features: str = "pooled",
        train_split: str = "train",
        train_limit: int | None = None,
        limit: int | None = None,
        batch_size: int = 256,
    ) -> None:
        if weights not in WEIGHTS:
            raise ConfigError(f"weights: there is no {weights!r}; {name_choices(weights, WEIGHTS)}")
        if not temperature > 0:
            raise ConfigError(f"temperature: {temperature}; allowed is above 0")
        checked_limits({"k": k, "train_limit": train_limit, "limit": limit, "batch_size": batch_size})
        self.k, self.weights, self.temperature = k, weights, temperature
        self.reader = FeatureReader(modality=modality, features=features, batch_size=batch_size)
        self.train_split, self.train_limit, self.limit = train_split, train_limit, limit

    def check(self, model: Any, source: Any) -> None:
        """Raise ConfigError if the model has no such features, DataError if the source has no classes."""
        refuse_source(source)
        self.reader.check(model, source)

    def __call__(self, model: Any, source: Any, split: str, *, advance: Callable[[int], None] = lambda items: None) -> AccuracyResult:
        """Probe a system or an encoder on one split.

        Args:
            advance: progress callback; receives the number of items just finished.

        Raises:
            ConfigError: this probe cannot use the model or the source, or there are fewer training items than neighbours.
            DataError: an item cannot be used.
        """
        self.check(model, source)
        refuse_same_split(split, self.train_split)
        keys, key_labels = self.reader(model, source.split(self.train_split), limit=self.train_limit, advance=advance)
        if len(keys) < self.k:
            raise ConfigError(f"evaluation.k: {self.k} neighbours, but only {len(keys)} training items; lower it, or raise train_limit")
        queries, labels = self.reader(model, source.split(split), limit=self.limit, advance=advance)
        similarity, neighbours = nearest(queries, keys, self.k, device=next(model.parameters()).device)
        offsets = similarity - similarity[:, :1]  # relative to the nearest: exp cannot overflow, and the order of the votes stays
        vote_weights = torch.ones_like(similarity) if self.weights == "uniform" else (offsets / self.temperature).exp()
        scores = votes(vote_weights, key_labels[neighbours], len(source.class_names))
        return measure(scores, labels, source.class_names, {"k": self.k, "train_items": len(keys)})


def nearest(
    queries: Float[Tensor, "queries dim"],
    keys: Float[Tensor, "keys dim"],
    k: int,
    *,
    chunk: tuple[int, int] = (QUERIES, KEYS),
    device: torch.device | str = "cpu",
) -> tuple[Float[Tensor, "queries k"], Int[Tensor, "queries k"]]:
    """Return cosine similarity and index of the ``k`` nearest keys of each query, nearest first.

    Args:
        chunk: maximum number of queries and of keys in one matrix product; it bounds the memory.
        device: device of the computation; arguments and results are on the CPU.
    """
    keys = F.normalize(keys, dim=1)
    found = []
    for rows in F.normalize(queries, dim=1).split(chunk[0]):
        rows = rows.to(device)
        best, index = rows.new_empty(len(rows), 0), torch.empty(len(rows), 0, dtype=torch.int64, device=device)
        for start in range(0, len(keys), chunk[1]):
            new = rows @ keys[start : start + chunk[1]].to(device).T  # [rows, columns]
            new, at = new.topk(min(k, new.shape[1]), dim=1)
            best, order = torch.cat([best, new], dim=1).topk(min(k, best.shape[1] + new.shape[1]), dim=1)
            index = torch.cat([index, at + start], dim=1).gather(1, order)
        found.append((best.cpu(), index.cpu()))
    return torch.cat([best for best, _ in found]), torch.cat([index for _, index in found])


def votes(weights: Float[Tensor, "n k"], classes: Int[Tensor, "n k"], num_classes: int) -> Float[Tensor, "n classes"]:
    """Return the sum of the vote weights of each class; minus infinity for a class without votes.

    Args:
        weights: weight of each neighbour's vote.
        classes: class number of each neighbour.
    """
    counted = weights.new_zeros(len(weights), num_classes).scatter_add_(1, classes, weights)
    return counted.masked_fill(counted == 0, -torch.inf)
