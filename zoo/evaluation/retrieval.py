"""Retrieval: for each item of one modality, where its partner stands among all items of the other, both ways.

Source: Radford et al. 2021 (arXiv 2103.00020), section 3.1 and table 13; the protocol is Karpathy and Fei-Fei 2015 (arXiv 1412.2306): a
query is a hit at k where at least one of its partners is among the k best, so an image with five captions counts once.

Where we differ: equal scores stand in no order. Recall is its expected value over all orders of them, so a model that gives one vector
for everything is at chance, whereas ``topk`` would rank the item first or last as its index has it.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.data.loader import ProcessedSplit, Split, evaluation_loader, spread
from zoo.data.processor import Processor
from zoo.errors import ConfigError, DataError, name_choices
from zoo.evaluation._accuracy import checked_limits, refuse_model
from zoo.registry import register

AT = (1, 5, 10)
CURVE = 100  # the picture shows recall at 1 to so many
POSITIVES = ("pairs", "groups")


@dataclass
class RetrievalResult:
    """Figures and the curves behind them.

    Attributes:
        metrics: shares from 0 to 1: ``image_to_text_recall@1`` (a query is an image) and so on, and their mean.
        curves: recall at 1, 2, ... by direction.
        details: median ranks from 1 and how many items there were of each modality.
    """

    metrics: dict[str, float]
    curves: dict[str, Float[Tensor, " depth"]]
    num_items: int
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """A short description of the evaluated data."""
        return f"{self.num_items} pairs"

    @property
    def facts(self) -> dict[str, Any]:
        """Further entries of ``metrics.json``, beside metrics and details."""
        return {"recall_at_1_to_k": {name: [round(value, 6) for value in curve.tolist()] for name, curve in self.curves.items()}}

    def draw(self, folder: Path) -> str:
        """Draw recall against k; returns the picture's name."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for name, curve in self.curves.items():
            axes.plot(range(1, len(curve) + 1), 100 * curve.numpy(), marker="o", markersize=2, label=name.replace("_", " "))
        axes.set(xscale="log", xlabel="k", ylabel="recall at k in %", ylim=(0, 102), title=self.title)
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(folder / "recall.png", dpi=110)
        return "recall.png"


@register("evaluation")
class Retrieval:
    """Recall at 1, 5 and 10 and the median rank of a system with the verb ``embed``, in both directions.

    Args:
        modalities: the two to be held against each other; None takes those of the system.
        positives: "pairs": an item's partners are those of its own rows; an image that several rows name is one image with several
            captions. "groups": texts of equal meaning (``Sample.group``) are one text, the partner of every item of that group; for
            sources whose captions are class names.
        batch_size: items that are encoded at once.
        chunk: queries that are compared at once: memory is O(items x chunk).
        limit: maximum number of rows, spread evenly over the split; None uses all.

    Raises:
        ConfigError: an unknown option value, or a number that is not positive.
    """

    monitor = "mean_recall"  # the metric that selects the best checkpoint if training.monitor is not set

    def __init__(
        self,
        *,
        modalities: Sequence[str] | None = None,
        positives: str = "pairs",
        batch_size: int = 256,
        chunk: int = 1024,
        limit: int | None = None,
    ) -> None:
        if positives not in POSITIVES:
            raise ConfigError(f"positives: there is no {positives!r}; {name_choices(positives, POSITIVES)}")
        if modalities is not None and len(set(modalities)) != 2:
            raise ConfigError(f"modalities: got {list(modalities)}; give two different ones, for example [image, text]")
        checked_limits({"batch_size": batch_size, "chunk": chunk, "limit": limit})
        self.modalities, self.positives = modalities, positives
        self.batch_size, self.chunk, self.limit = batch_size, chunk, limit

    def check(self, model: Any, source: Any) -> None:
        """Raise ConfigError for a model or a source that cannot be evaluated so."""
        refuse_model(model, ("embed",), "retrieval")
        pair = self._pair(model)
        for where, known in (("the system has no {!r} encoder", model.encoders), ("the source has no {!r}", source.modalities)):
            for modality in pair:
                if modality not in known:
                    raise ConfigError(f"evaluation.modalities: {where.format(modality)}; {name_choices(modality, known)}")
        if self.positives == "groups" and "text" not in pair:
            raise ConfigError(f"evaluation.positives: 'groups' makes texts of equal meaning one; {' and '.join(pair)} hold no text")

    @torch.inference_mode()
    def __call__(self, model: Any, source: Any, split: str, *, advance: Callable[[int], None] = lambda items: None) -> RetrievalResult:
        """Evaluate a system on one split.

        Args:
            advance: progress callback; receives the number of rows just finished.

        Raises:
            ConfigError: this evaluation cannot use the model or the source.
            DataError: an item cannot be used, or there are fewer than two on a side.
        """
        self.check(model, source)
        first, second = self._pair(model)
        sides = self._embed(model, source.split(split), (first, second), advance)
        links = torch.unique(torch.stack([sides[first].index, sides[second].index]), dim=1)  # [2, pairs]
        curves, medians = {}, {}
        for query, answer, linked in ((first, second, links), (second, first, links.flip(0))):
            better, equal, own = ranks(sides[query].vectors, sides[answer].vectors, linked, chunk=self.chunk, device=model.device)
            curves[f"{query}_to_{answer}"] = recall_curve(better, equal, own, min(CURVE, len(sides[answer].vectors)))
            medians[f"{query}_to_{answer}"] = float((better + (equal + own + 1) / (own + 1)).quantile(0.5))
        metrics = {f"{way}_recall@{k}": float(curve[min(k, len(curve)) - 1]) for way, curve in curves.items() for k in AT}
        metrics["mean_recall"] = sum(metrics.values()) / len(metrics)
        details = {f"{way}_median_rank": rank for way, rank in medians.items()}
        details |= {f"num_{modality}": len(side.vectors) for modality, side in sides.items()}
        return RetrievalResult(metrics, curves, len(sides[first].index), {**details, "positives": self.positives})

    def _pair(self, model: Any) -> tuple[str, str]:
        names = sorted(self.modalities if self.modalities is not None else model.encoders)
        if len(names) != 2:
            raise ConfigError(f"evaluation.modalities: the system has {', '.join(names)}; say which two are held against each other")
        return names[0], names[1]

    def _embed(self, model: Any, split: Split, pair: tuple[str, str], advance: Callable[[int], None]) -> dict[str, "Side"]:
        """Each distinct item once, and for each row which it is."""
        rows = spread(len(split), self.limit)
        identities = {m: split.identities(m) if hasattr(split, "identities") else None for m in pair}  # type: ignore[attr-defined]
        names = {m: [found[i] for i in rows] if found is not None else list(rows) for m, found in identities.items()}
        sides = {modality: Side() for modality in pair}
        data, done = ProcessedSplit(split, Processor({m: model.processor[m] for m in pair})), 0
        for batch in evaluation_loader(data, batch_size=self.batch_size, limit=self.limit):
            for modality in pair:
                if modality not in batch.inputs:
                    raise DataError(f"item {batch.ids[0]}: holds no {modality}; retrieval needs {' and '.join(pair)} in each item")
                keys: Sequence[Hashable] = names[modality][done : done + len(batch)]
                if modality == "text" and self.positives == "groups":
                    keys = batch.targets["groups"].tolist()
                new = sides[modality].first_rows(keys)
                if new:
                    inputs = batch.inputs[modality][new].to(model.device)
                    sides[modality].add(model.embed(modality, inputs, batch_size=self.batch_size), [batch.ids[row] for row in new])
            done += len(batch)
            advance(len(batch))
        for modality, side in sides.items():
            if len(side.numbers) < 2:
                raise DataError(
                    f"evaluation: the split has {len(side.numbers)} distinct {modality}; retrieval needs at least two to choose from"
                )
        return sides


class Side:
    """The distinct items of one modality, embedded as their first rows come."""

    def __init__(self) -> None:
        self.numbers: dict[Hashable, int] = {}
        self.rows: list[int] = []
        self.parts: list[Tensor] = []

    def first_rows(self, keys: Sequence[Hashable]) -> list[int]:
        """Take the next rows' keys; returns which of them name an item that was not there before."""
        new = []
        for row, key in enumerate(keys):
            if key not in self.numbers:
                self.numbers[key] = len(self.numbers)
                new.append(row)
            self.rows.append(self.numbers[key])
        return new

    def add(self, vectors: Float[Tensor, "new dim"], ids: Sequence[str]) -> None:
        """Take the vectors of new items; raise DataError for one that is not finite."""
        bad = (~vectors.isfinite()).any(1).nonzero()
        if len(bad):
            raise DataError(f"item {ids[int(bad[0])]}: its vector is not finite; look at the item, or at the weights")
        self.parts.append(vectors.cpu())

    @property
    def vectors(self) -> Float[Tensor, "items dim"]:
        """One per distinct item, in the order of their first rows."""
        return torch.cat(self.parts)

    @property
    def index(self) -> Int[Tensor, " rows"]:
        """For each row, which item it names."""
        return torch.tensor(self.rows)


def ranks(
    queries: Float[Tensor, "queries dim"],
    answers: Float[Tensor, "answers dim"],
    links: Int[Tensor, "2 links"],
    *,
    chunk: int = 1024,
    device: torch.device | str = "cpu",
) -> tuple[Float[Tensor, " queries"], Float[Tensor, " queries"], Float[Tensor, " queries"]]:
    """Where the best partner of each query stands: how many strangers score higher, how many the same, and how many partners do.

    With scores ``[.9 .5 .5 .5 .1]`` and partners 1 and 4: one higher, two strangers equal, one partner at that score.

    Args:
        links: query and answer of each pair of partners, each pair once.
        chunk: queries that are compared at once.
        device: where they are compared; what comes in and goes out is on the CPU.
    """
    order = links[0].argsort(stable=True)
    rows, columns = links[:, order]
    answers, found = answers.to(device), []
    for start in range(0, len(queries), chunk):
        scores = queries[start : start + chunk].to(device) @ answers.T  # [chunk, answers]
        low, high = torch.searchsorted(rows, torch.tensor([start, start + len(scores)])).tolist()
        partner = torch.zeros_like(scores, dtype=torch.bool)
        partner[rows[low:high].to(device) - start, columns[low:high].to(device)] = True
        best = scores.masked_fill(~partner, -torch.inf).amax(1, keepdim=True)  # [chunk, 1]
        same = scores == best
        counts = ((scores > best).sum(1), (same & ~partner).sum(1), (same & partner).sum(1))
        found.append(torch.stack(counts).cpu())
    better, equal, own = torch.cat(found, dim=1).float()
    return better, equal, own


def recall_curve(
    better: Float[Tensor, " queries"], equal: Float[Tensor, " queries"], own: Float[Tensor, " queries"], depth: int
) -> Float[Tensor, " depth"]:
    """Recall at 1, 2, ... ``depth``: the mean chance that one of ``own`` partners is among the best, ``equal`` strangers scoring the same.

    With one higher, two equal strangers and one partner the chance is 0, 1/3, 2/3, 1 at k = 1, 2, 3, 4.
    """
    missed, curve = torch.ones(len(better), dtype=torch.float64), []
    for place in range(depth):
        drawn = place - better.double()  # so many of the equal ones stand before this place
        strangers = (equal - drawn).clamp(min=0)
        miss = strangers / (strangers + own)
        missed = torch.where(drawn < 0, missed, missed * miss)
        curve.append(1 - missed.mean())
    return torch.stack(curve).float()
