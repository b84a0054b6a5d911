"""Cross-modal retrieval: recall at k and median rank of each item's partner among all items of another modality, in both directions.

Source: Radford et al. 2021 (arXiv 2103.00020), section 3.1 and table 13. Protocol: Karpathy and Fei-Fei 2015 (arXiv 1412.2306): a query
is a hit at k if at least one of its partners is among the k best, so an image with five captions counts once.

Difference from the sources: recall is the expected value over all orders of items with equal scores. A model that gives the same vector
for all items is thus at chance; with ``topk`` its recall would depend on the order of the items.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.data.loader import ProcessedSplit, spread
from zoo.data.system_processor import Processor
from zoo.errors import ConfigError, DataError, name_choices
from zoo.evaluation.measures.requirements import checked_limits, over_batches, refuse_model
from zoo.registry import register
from zoo.types import Batch, Evaluation, Result, Split, presence_of

AT = (1, 5, 10)
CURVE = 100  # largest k of the recall curve in the picture
POSITIVES = ("pairs", "groups")


@dataclass
class RetrievalResult(Result):
    """Recall and median ranks of one split.

    Attributes:
        metrics: shares from 0 to 1: ``image_to_text_recall@1`` (the query is an image) and so on, and ``mean_recall``, their mean.
        curves: recall at 1, 2, ... by direction, for example ``image_to_text``.
        details: median ranks (the best is 1) and number of distinct items of each modality.
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
        """Draw recall over k into a PNG file in ``folder``; return the file name."""
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
class Retrieval(Evaluation):
    """Recall at 1, 5 and 10 and median rank of a system whose head has the verb ``embed``, in both directions of all pairs of modalities.

    With three modalities a row may lack some; a pair then counts the rows that have both.

    Args:
        modalities: two modalities or more to compare; None uses those of the system's encoders.
        positives: definition of partners. "pairs": items in the same row are partners; an image in several rows is one image with
            several captions. "groups": texts of equal meaning (``Sample.group``) count as one text, which is the partner of every item of
            that group; for sources whose captions are class names.
        batch_size: number of items encoded together.
        chunk: number of queries compared together; memory is O(items x chunk).
        limit: maximum number of rows, spread evenly over the split; None uses all.

    Raises:
        ConfigError: an unknown option value, or a number that is not positive.
    """

    shares_items = True
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
        if modalities is not None and len(set(modalities)) < 2:
            raise ConfigError(f"modalities: got {list(modalities)}; give two different ones or more, for example [image, text]")
        checked_limits({"batch_size": batch_size, "chunk": chunk, "limit": limit})
        self.modalities, self.positives = modalities, positives
        self.batch_size, self.chunk, self.limit = batch_size, chunk, limit

    def check(self, model: Any, source: Any) -> None:
        """Raise ConfigError if the model cannot embed the modalities, or if the source lacks one of them."""
        refuse_model(model, ("embed",), "retrieval")
        pair = self._names(model)
        for where, known in (("the system has no {!r} encoder", model.encoders), ("the source has no {!r}", source.modalities)):
            for modality in pair:
                if modality not in known:
                    raise ConfigError(f"evaluation.modalities: {where.format(modality)}; {name_choices(modality, known)}")
        if self.positives == "groups" and "text" not in pair:
            raise ConfigError(
                f"evaluation.positives: 'groups' merges texts of equal meaning, but the modalities are {' and '.join(pair)}; choose 'pairs'"
            )

    @torch.inference_mode()
    def __call__(self, model: Any, source: Any, split: str, *, advance: Callable[[int], None] = lambda items: None) -> RetrievalResult:
        """Evaluate a system on one split.

        Args:
            advance: progress callback; receives the number of rows just finished.

        Raises:
            ConfigError: this evaluation cannot use the model or the source.
            DataError: an item cannot be used, a modality has fewer than two distinct items, or no item has both of a pair.
        """
        self.check(model, source)
        sides = self._embed(model, source.split(split), self._names(model), advance)
        curves, medians = {}, {}
        for first, second in combinations(sides, 2):
            links = _links(sides, first, second)
            for query, answer, linked in ((first, second, links), (second, first, links.flip(0))):
                queries, linked = _with_partner(sides[query].vectors, linked)
                better, equal, own = ranks(queries, sides[answer].vectors, linked, chunk=self.chunk, device=model.device)
                curves[f"{query}_to_{answer}"] = recall_curve(better, equal, own, min(CURVE, len(sides[answer].vectors)))
                medians[f"{query}_to_{answer}"] = float((better + (equal + own + 1) / (own + 1)).quantile(0.5))
        metrics = {f"{way}_recall@{k}": float(curve[min(k, len(curve)) - 1]) for way, curve in curves.items() for k in AT}
        metrics["mean_recall"] = sum(metrics.values()) / len(metrics)
        details = {f"{way}_median_rank": rank for way, rank in medians.items()}
        details |= {f"num_{modality}": len(side.vectors) for modality, side in sides.items()}
        return RetrievalResult(metrics, curves, len(next(iter(sides.values())).rows), {**details, "positives": self.positives})

    def _names(self, model: Any) -> list[str]:
        names = sorted(set(self.modalities if self.modalities is not None else model.encoders))
        if len(names) < 2:
            raise ConfigError(f"evaluation.modalities: the system has {', '.join(names)}; give the modalities to compare")
        return names

    def _embed(self, model: Any, split: Split, pair: Sequence[str], advance: Callable[[int], None]) -> dict[str, "Side"]:
        """Embed each distinct item of each modality once, and record for each row which items it names."""
        rows = spread(len(split), self.limit)
        identities = {m: split.identities(m) for m in pair}
        names = {m: [found[i] for i in rows] if found is not None else list(rows) for m, found in identities.items()}
        seen, sides = {modality: Side() for modality in pair}, {modality: Side() for modality in pair}
        data = ProcessedSplit(split, Processor({m: model.processor[m] for m in pair}))

        def embed_new(batch: Batch, before: int) -> dict[str, tuple[Sequence[Hashable], list[int], Tensor]]:
            """Return the item keys of a batch, the rows whose item is new on this rank, and their vectors."""
            found = {}
            for modality in pair:
                if modality not in batch.inputs:
                    raise DataError(f"item {batch.ids[0]}: has no {modality}; retrieval needs {' and '.join(pair)} in each item")
                present = presence_of(batch.targets, modality)
                held = range(len(batch)) if present is None else present.nonzero()[:, 0].tolist()
                keys: Sequence[Hashable] = names[modality][before : before + len(batch)]
                if modality == "text" and self.positives == "groups":
                    keys = batch.targets["groups"].tolist()
                keys = [key if row in held else None for row, key in enumerate(keys)]
                new = seen[modality].first_rows(keys)
                inputs = batch.given(modality, [held.index(row) for row in new]).to(model.device)
                vectors = model.embed(modality, inputs, batch_size=self.batch_size).cpu() if new else torch.empty(0, 0)
                bad = (~vectors.isfinite()).any(1).nonzero()
                if len(bad):
                    name = batch.ids[new[int(bad[0])]]
                    raise DataError(f"item {name}: its vector is not finite; look at the item, or at the weights")
                found[modality] = keys, new, vectors
            return found

        for found in over_batches(data, embed_new, batch_size=self.batch_size, limit=self.limit, advance=advance):
            for modality, (keys, new, vectors) in found.items():
                first = sides[modality].first_rows(keys)  # fewer than new, if an earlier rank has the item too
                if first:
                    sides[modality].parts.append(vectors[[new.index(row) for row in first]])
        for modality, side in sides.items():
            if len(side.numbers) < 2:
                raise DataError(
                    f"evaluation: the split has {len(side.numbers)} distinct {modality}; retrieval needs at least two to choose from"
                )
        return sides


class Side:
    """Distinct items of one modality, collected batch by batch.

    Attributes:
        parts: their vectors, which the caller adds.
    """

    def __init__(self) -> None:
        self.numbers: dict[Hashable, int] = {}
        self.rows: list[int] = []
        self.parts: list[Tensor] = []

    def first_rows(self, keys: Sequence[Hashable]) -> list[int]:
        """Record the item keys of the next rows, None for a row without an item; return the positions of those whose item is new."""
        new = []
        for row, key in enumerate(keys):
            if key is None:
                self.rows.append(-1)
                continue
            if key not in self.numbers:
                self.numbers[key] = len(self.numbers)
                new.append(row)
            self.rows.append(self.numbers[key])
        return new

    @property
    def vectors(self) -> Float[Tensor, "items dim"]:
        """One vector for each distinct item, in the order of first appearance."""
        return torch.cat(self.parts)

    @property
    def index(self) -> Int[Tensor, " rows"]:
        """The index of each row's item in ``vectors``; -1 for a row without an item."""
        return torch.tensor(self.rows)


def _links(sides: dict[str, Side], first: str, second: str) -> Int[Tensor, "2 links"]:
    """Return the indices of the items of two modalities that stand in one row, each pair once.

    Raises:
        DataError: no row has both.
    """
    rows = torch.stack([sides[first].index, sides[second].index])  # [2, rows]
    rows = rows[:, (rows >= 0).all(0)]
    if not rows.shape[1]:
        raise DataError(f"evaluation: no item of the split has both {first} and {second}; set evaluation.modalities to those it has")
    return torch.unique(rows, dim=1)


def _with_partner(
    vectors: Float[Tensor, "items dim"], links: Int[Tensor, "2 links"]
) -> tuple[Float[Tensor, "queries dim"], Int[Tensor, "2 links"]]:
    """Return the vectors of the items that have a partner, and the links by their place among them."""
    found, places = links[0].unique(return_inverse=True)
    return vectors[found], torch.stack([places, links[1]])


def ranks(
    queries: Float[Tensor, "queries dim"],
    answers: Float[Tensor, "answers dim"],
    links: Int[Tensor, "2 links"],
    *,
    chunk: int = 1024,
    device: torch.device | str = "cpu",
) -> tuple[Float[Tensor, " queries"], Float[Tensor, " queries"], Float[Tensor, " queries"]]:
    """Rank the best partner of each query among all answers.

    Example: scores ``[.9 .5 .5 .5 .1]`` with partners 1 and 4 give ``(1, 2, 1)``: one answer scores higher than the best partner, two
    answers that are not partners score the same, and one partner has that score.

    Args:
        links: indices of query and answer of each pair of partners, each pair once.
        chunk: number of queries compared together.
        device: device of the computation; arguments and results are on the CPU.

    Returns:
        Counts for each query: answers above the best partner's score; answers with this score that are not partners; partners with
        this score.
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
    """Compute recall at 1, 2, ... ``depth``: the mean probability that a partner is among the k best, over random orders of equal scores.

    Example: one answer scores higher, two others the same as one partner. The probability is 0, 1/3, 2/3, 1 at k = 1, 2, 3, 4.

    Args:
        better: for each query, the number of answers that score higher than its best partner; see ``ranks``.
        equal: number of answers that score the same and are not partners.
        own: number of partners with this score.
        depth: largest k.
    """
    missed, curve = torch.ones(len(better), dtype=torch.float64), []
    for place in range(depth):
        equal_before = place - better.double()  # number of answers of equal score that are placed before this one
        remaining = (equal - equal_before).clamp(min=0)  # answers of equal score, not partners, that are still to be placed
        miss = remaining / (remaining + own)
        missed = torch.where(equal_before < 0, missed, missed * miss)
        curve.append(1 - missed.mean())
    return torch.stack(curve).float()
