"""Packing of documents: groups of documents with at most a given total number of tokens, loaded together.

A batch of packs has about the same number of tokens whatever the lengths of the documents. Each document is a separate row of the batch,
so that documents cannot attend to one another, and the language model computes no padding (``zoo.layers.packing``). A pack only defines
which documents are loaded together. It is a pure function of seed and epoch without any state, so training can resume within an epoch.

Source: Krell et al. 2021 (arXiv 2107.02027), best-fit packing. Where we differ: documents come in random order and not longest first, so
that a pack has long and short ones. A document longer than the language model's context is cut between sentences or beside an image,
and each part is treated as a document; no part is dropped.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from zoo.data.loader import Draw, Item, ProcessedSplit
from zoo.data.planned import Planned
from zoo.data.system_processor import CONVERSATION, conversation_of
from zoo.errors import ConfigError, DataError, reason_of
from zoo.processors.chat.conversation_tokens import Tokens
from zoo.processors.chat.messages import MARKERS, Conversation
from zoo.types import Batch, Sample

WINDOW = 16_384  # parts packed together: small enough that reads of shards stay near one another and planning is fast
PLAN_STREAM = 2  # part of the seed that shuffles packs, to keep it apart from the seeds of permutations and items


class Place(NamedTuple):
    """Part ``number`` of a document at its ``occurrence``-th use in an epoch (from 0)."""

    document: int
    number: int
    occurrence: int


@dataclass
class Measured:
    """Statistics of the documents of a split, measured without augmentation.

    Attributes:
        lengths: number of token ids of each document's parts; empty if the document cannot be used.
        counts: numbers of documents, parts, tokens, supervised tokens, images and clips.
        left_out: number of documents that cannot be used, by reason.
    """

    lengths: list[tuple[int, ...]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)


class Packs(Planned[list[Place]]):
    """Dataset of packs of documents for training; it replaces ``ProcessedSplit``.

    All epochs have as many packs as the first one. An epoch that needs fewer packs starts over; an epoch that needs more packs leaves
    out the last ones.

    Args:
        data: split with a processor for conversations.
        tokens: largest number of tokens of a pack, including those of images and clips.
        seed: seed of the run.
        tell: progress callback ``(done, total)`` while the documents are measured.

    Raises:
        ConfigError: ``tokens`` is less than one document may have, or the data are not conversations, or they are mixed or masked.
        DataError: a document cannot be used and the split does not skip bad items, or no document can be used.
    """

    def __init__(self, data: ProcessedSplit, *, tokens: int, seed: int, tell: Callable[[int, int], None] | None = None) -> None:
        if CONVERSATION not in data.processor.parts:
            raise ConfigError("tokens: packing needs a system with a language model that reads conversations; set data.packing=null")
        if data.mix is not None or data.masking is not None:
            key = "mix" if data.mix is not None else "masking"
            raise ConfigError(f"tokens: packing cannot be combined with data.{key}; set data.{key}=null, or data.packing=null")
        self.part: Any = data.processor[CONVERSATION]
        limit = self.part.max_length or self.part.context_length
        if tokens < limit:
            raise ConfigError(
                f"tokens: {tokens} is less than the {limit} that one document may have (system.processor.conversation.max_length, the "
                "language model's context_length); raise it, or lower max_length"
            )
        super().__init__(data, seed)
        self.tokens = tokens
        images = data.processor.get("image")
        if images is not None and images.tiler is not None and data.augmentation is not None:
            raise ConfigError("tokens: packing cannot be combined with data.augmentation if a tiler cuts images, whose sizes would change")
        self.fixed: dict[str, int] = {}
        if images is not None and images.tiler is None:  # all images have the same number of tokens
            self.fixed["image"] = self.part.count("image", images.meta(1)[0][0])
        self.measured = self._measure(tell)
        # A mixture weighted by tokens, whose numbers are known only now
        data.split.weigh([sum(parts) for parts in self.measured.lengths])
        self._length = len(self.plan(0))
        if not self._length:
            raise DataError(f"data.packing: none of the {len(data)} documents can be used ({self._reasons()})")

    def __len__(self) -> int:
        return self._length

    def report(self) -> dict[str, Any]:
        """Return figures for the log: the statistics of the split, and the share of the packs' tokens that is used (``filled``)."""
        planned = self.plan(0)
        lengths = self.measured.lengths
        shown = sum(lengths[place.document][place.number] for pack in planned for place in pack)
        filled = {"packs": len(planned), "tokens_in_packs": shown, "filled": round(shown / (len(planned) * self.tokens), 4)}
        return {**self.measured.counts, **filled, "left_out": dict(self.measured.left_out)}

    def _planned(self, drawn: Int[np.ndarray, " items"], epoch: int) -> list[list[Place]]:
        places = self._places(drawn)
        packs: list[list[Place]] = []
        for start in range(0, len(places), WINDOW):
            part = places[start : start + WINDOW]
            filled = fill([self.measured.lengths[place.document][place.number] for place in part], self.tokens)
            shuffled = np.random.default_rng((self.seed, epoch, PLAN_STREAM, start)).permutation(len(filled))
            packs += [[part[i] for i in filled[number]] for number in shuffled]
        return packs

    def __getitem__(self, draw: Draw) -> Item:
        """Return the pack of a draw, or the next pack in which at least one document can be used."""
        documents, faults = self.next_usable(draw, self._documents, "documents")
        return Item(Sample(f"pack {draw.index}", {}), {"documents": documents}, draw.seed, tuple(faults), len(documents))

    def collate(self, items: Sequence[Item]) -> Batch:
        """Collate the documents of all packs, one row per document."""
        documents = [pair for item in items for pair in item.tensors["documents"]]
        return self.data.processor.collate([sample for sample, _ in documents], [tensors for _, tensors in documents])

    def _documents(self, pack: Sequence[Place], epoch: int, faults: list[DataError]) -> list[tuple[Sample, dict[str, Any]]]:
        """Return the processed documents of a pack without the unusable ones.

        Augmented documents may be longer than measured; documents that then no longer fit into the pack are left out.
        """
        found, room = [], self.tokens
        for place in pack:
            try:
                pair = self._document(place, np.random.default_rng((self.seed, epoch, place.document, place.occurrence)))
            except DataError as fault:
                if self.skips is None:
                    raise
                faults.append(fault)
                continue
            length = 0 if pair is None else len(pair[1][CONVERSATION].token_ids)
            if pair is not None and length <= room:
                found.append(pair)
                room -= length
        return found

    def _document(self, place: Place, generator: np.random.Generator) -> tuple[Sample, dict[str, Any]] | None:
        """Return a document, or a part of it, processed; None if it has fewer parts this time, because it was augmented."""
        data = self.data
        sample = data.split.sample(place.document, generator)
        if data.augmentation is not None and "image" in data.processor.parts:
            sample = data.augmentation(sample, generator, data.processor["image"])
        conversation = conversation_of(sample)
        parts = self._parts(conversation)
        if place.number >= len(parts):
            return None
        tokens, tensors = parts[place.number], {}
        for modality in MARKERS:
            first, count = tokens.passed[modality], tokens.kept[modality]
            raw = conversation.media(modality)
            tensors[modality] = data.processor[modality].items(raw[first : first + count], len(raw)) if count else []
        return sample, {CONVERSATION: tokens, **tensors}

    def _parts(self, conversation: Conversation) -> list[Tokens]:
        """Return the parts of a document; images are not decoded if all have the same number of tokens."""
        counts: dict[str, list[Any]] = {}
        for modality in MARKERS:
            raw = conversation.media(modality)
            if raw and modality not in self.data.processor.parts:
                raise DataError(f"{conversation.name} holds {modality}, but this system has no encoder for {modality}")
            own = self.fixed.get(modality)
            items = self.data.processor[modality].items(raw) if raw and own is None else ()
            counts[modality] = [self.part.written(modality, each) for each in items] if own is None else [own] * len(raw)
        return self.part.parts(conversation, counts)

    def _measure(self, tell: Callable[[int, int], None] | None) -> Measured:
        found = Measured()
        for index in range(len(self.data)):
            try:
                conversation = conversation_of(self.data.split.sample(index, None))
                parts = self._parts(conversation)
            except DataError as fault:
                if self.skips is None:
                    raise
                found.left_out[reason_of(fault)] += 1
                found.lengths.append(())
            else:
                found.lengths.append(tuple(len(part.token_ids) for part in parts))
                found.counts["documents"] += 1
                found.counts["parts"] += len(parts)
                found.counts["tokens"] += sum(found.lengths[-1])
                found.counts["supervised_tokens"] += sum(int(part.supervised.sum()) for part in parts)
                found.counts["images"] += len(conversation.images)
                found.counts["clips"] += len(conversation.audio)
            if tell is not None:
                tell(index + 1, len(self.data))
        return found

    def _places(self, drawn: Int[np.ndarray, " places"]) -> list[Place]:
        """Return the parts of the documents in the order in which these are drawn."""
        seen: Counter[int] = Counter()
        places = []
        for document in map(int, drawn):
            places += [Place(document, number, seen[document]) for number in range(len(self.measured.lengths[document]))]
            seen[document] += 1
        return places

    def _reasons(self) -> str:
        return ", ".join(f"{reason} {count}" for reason, count in self.measured.left_out.most_common())


def fill(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Assign items to packs, each to the fullest pack that has room for it; return the item numbers of each pack.

    With lengths 5, 3, 4, 2 and room for 7: ``[[0, 3], [1, 2]]``.
    """
    packs: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # remaining room and number of each pack, sorted
    least = min(lengths, default=0)
    for item, length in enumerate(lengths):
        place = bisect_left(rooms, (length, -1))  # the smallest room that is large enough
        left, number = rooms.pop(place) if place < len(rooms) else (room, len(packs))
        if number == len(packs):
            packs.append([])
        packs[number].append(item)
        if left - length >= least:  # otherwise no item fits any more, and leaving the pack out keeps the list short
            insort(rooms, (left - length, number))
    return packs
