"""Batches with a budget of tokens: texts of nearly equal length, as many as fit with their padding.

A dataset of such groups replaces the items of training, as ``Packs`` does for documents: ``training.batch_size`` then counts groups, and
every process takes equally many of them. The groups of an epoch are a pure function of seed and epoch, so that a run can resume within it.

Source: Vaswani et al. 2017 (arXiv 1706.03762), section 5.1: "sentence pairs were batched together by approximate sequence length"; the
budget counts padding, as ``--max-tokens`` of fairseq does.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import Tensor

from zoo.data.loader import Draw, Item, ProcessedSplit
from zoo.data.order import BUCKETS
from zoo.data.planned import Planned
from zoo.data.system_processor import CONVERSATION
from zoo.errors import ConfigError, DataError
from zoo.types import Batch, Sample

GROUP_STREAM = 3  # part of the seed that shuffles groups, to keep it apart from the seeds of permutations and items


class TokenBatches(Planned[Int[np.ndarray, " _"]]):
    """Dataset of groups of items, each with at most a given number of tokens after padding.

    A group of 4 items with source texts of up to 10 tokens and target texts of up to 12 takes 4 * (10 + 12) = 88 tokens. All epochs have as
    many groups as the first one: an epoch that needs fewer starts over, and one that needs more leaves out the last ones.

    Args:
        data: split whose processors turn texts into token ids; other modalities take no tokens.
        tokens: largest number of tokens of a group.
        seed: seed of the run.
        tell: progress callback ``(done, total)`` while the items are measured.

    Raises:
        ConfigError: the items are conversations or hold no text, or one of them has more than ``tokens``.
        DataError: an item cannot be used and the split does not skip bad items, or no item can be used.
    """

    def __init__(self, data: ProcessedSplit, *, tokens: int, seed: int, tell: Callable[[int, int], None] | None = None) -> None:
        if CONVERSATION in data.processor.parts:
            raise ConfigError("tokens: documents and conversations are packed; set data.packing={tokens: N} and data.token_batches=null")
        super().__init__(data, seed)
        self.tokens = tokens
        self.lengths = self._measure(tell)  # [items, texts]; a row of zeros cannot be used
        longest = int(self.lengths.sum(1).max())
        if not longest:
            raise DataError(
                f"data.token_batches: none of the {len(data)} items has tokens that can be counted; those of pictures are counted with "
                "system.processor.image.tiler={kind: budget}"
            )
        if longest > tokens:
            raise ConfigError(
                f"tokens: {tokens} is less than the {longest} of the longest item; raise it, or shorten the texts (data.source.max_words, "
                "context_length of system.processor.text and target_text)"
            )
        self._length = len(self.plan(0))

    def __len__(self) -> int:
        return self._length

    def report(self) -> dict[str, Any]:
        """Return the number of groups, the mean number of items of one, and the share of the budget that real tokens take."""
        groups = self.plan(0)
        items, real = sum(map(len, groups)), sum(int(self.lengths[group].sum()) for group in groups)
        filled = round(real / (len(groups) * self.tokens), 4)
        return {"batches": len(groups), "items_per_batch": round(items / len(groups), 2), "tokens": real, "filled": filled}

    def _planned(self, drawn: Int[np.ndarray, " items"], epoch: int) -> list[Int[np.ndarray, " _"]]:
        groups = by_tokens(self.lengths, drawn, self.tokens)
        shuffled = np.random.default_rng((self.seed, epoch, GROUP_STREAM)).permutation(len(groups))
        return [groups[number] for number in shuffled]

    def __getitem__(self, draw: Draw) -> Item:
        """Return the group of a draw, or the next group of which at least one item can be used."""
        items, faults = self.next_usable(draw, self._items, "items")
        return Item(Sample(f"batch {draw.index}", {}), {"items": items}, draw.seed, tuple(faults), len(items))

    def collate(self, items: Sequence[Item]) -> Batch:
        """Collate the items of all groups to one batch."""
        return self.data.collate([each for item in items for each in item.tensors["items"]])

    def _items(self, group: Int[np.ndarray, " group"], epoch: int, faults: list[DataError]) -> list[Item]:
        """Return the processed items of a group; a bad one is left out if the split skips bad items."""
        found = []
        for index in map(int, group):
            try:
                found.append(self.data.item(Draw(index, (self.seed, epoch, index))))
            except DataError as fault:
                if self.skips is None:
                    raise
                faults.append(fault)
        return found

    def _measure(self, tell: Callable[[int, int], None] | None) -> Int[np.ndarray, "items texts"]:
        rows: list[list[int]] = []
        for index in range(len(self.data)):
            try:
                tensors = self.data.item(Draw(index)).tensors
            except DataError:
                if self.skips is None:
                    raise
                rows.append([])
            else:
                rows.append([len(each) for each in tensors.values() if isinstance(each, Tensor) and each.ndim == 1])
            if tell is not None:
                tell(index + 1, len(self.data))
        texts = max(map(len, rows), default=0)
        return np.array([row or [0] * texts for row in rows], dtype=np.int64).reshape(len(rows), texts)


def by_tokens(lengths: Int[np.ndarray, "items texts"], drawn: Int[np.ndarray, " drawn"], tokens: int) -> list[Int[np.ndarray, " _"]]:
    """Return groups of items of nearly equal length, each with at most ``tokens`` tokens when every text is padded to the longest.

    The drawn items are cut into windows of about ``BUCKETS`` groups, and each window is sorted by length. With lengths 5, 2, 4, 1 of one
    text in one window and 8 tokens: items ``[3, 1]`` (2 rows of 2), ``[2]``, ``[0]``.

    Args:
        lengths: number of tokens of each text of an item; items of zeros are left out.
        drawn: item numbers in random order.
        tokens: budget; at least that of the longest item.
    """
    totals = lengths.sum(1)
    drawn = drawn[totals[drawn] > 0]
    window = max(1, int(BUCKETS * tokens / totals[drawn].mean())) if len(drawn) else 1
    groups = []
    for start in range(0, len(drawn), window):
        part = drawn[start : start + window]
        part = part[np.argsort(totals[part], kind="stable")]
        first, longest = 0, np.zeros(lengths.shape[1], dtype=np.int64)
        for place, item in enumerate(part):
            wider = np.maximum(longest, lengths[item])
            if (place - first + 1) * wider.sum() > tokens:
                groups.append(part[first:place])
                first, wider = place, lengths[item]
            longest = wider
        groups.append(part[first:])
    return groups
