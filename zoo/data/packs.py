"""Packs: documents whose lengths add up to at most so many tokens, in place of single documents.

A batch of packs has about as many tokens whatever the documents are. They stand in the batch as rows of their own, so that none can see
another, and the language model computes no padding (``zoo.layers.packing``): a pack is only what is loaded together. Which documents
share one is a pure function of seed and epoch; nothing is remembered, and training resumes in the middle of an epoch.

Source: Krell et al. 2021 (arXiv 2107.02027), best fit into what room is left. Where we differ: documents come in random order and not
longest first, so that a pack holds long and short ones; one that is longer than the language model's context is cut between sentences
or beside a picture, and its parts are documents of their own, none of them dropped.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from zoo.data.loader import MOST_REPLACED, Draw, Item, ProcessedSplit
from zoo.data.order import Order
from zoo.data.skips import Skips
from zoo.data.system_processor import CONVERSATION, conversation_of
from zoo.errors import ConfigError, DataError
from zoo.processors.chat.conversation_tokens import Tokens
from zoo.processors.chat.messages import MARKERS, Conversation
from zoo.types import Batch, Sample

WINDOW = 16_384  # parts that are packed with one another: reads of shards stay near, and planning takes no time
PLAN_STREAM = 2  # beside the streams of permutations and items, which are seeded by two and by three and more numbers


class Place(NamedTuple):
    """Part ``number`` of the ``occurrence``-th time that a document is shown in an epoch."""

    document: int
    number: int
    occurrence: int


@dataclass
class Measured:
    """What the documents of a split are, without being varied.

    Attributes:
        lengths: ids of each document's parts; empty where it cannot be used.
        counts: documents, parts, tokens, supervised tokens, pictures and clips.
        left_out: documents that cannot be used, by reason.
    """

    lengths: list[tuple[int, ...]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)


class Packs:
    """A training split as packs of its documents; in place of ``ProcessedSplit``.

    An epoch has as many packs as the first one needs: another that fits into fewer begins anew, and of one that needs more the last are
    not shown.

    Args:
        data: whose processor has a part for conversations.
        tokens: the most that a pack may have, pictures and clips with theirs.
        seed: of the run.
        tell: hears how many documents of how many were measured.

    Raises:
        ConfigError: fewer tokens than a document may have, or data that is no conversation.
        DataError: a document that cannot be used, where that is an error; or none can.
    """

    def __init__(self, data: ProcessedSplit, *, tokens: int, seed: int, tell: Callable[[int, int], None] | None = None) -> None:
        if CONVERSATION not in data.processor.parts:
            raise ConfigError("tokens: packs hold documents, which only a system with a language model reads; set data.packing=null")
        if data.mix is not None or data.masking is not None:
            raise ConfigError(f"tokens: packs are neither mixed nor hidden; set data.{'mix' if data.mix is not None else 'masking'}=null")
        self.part: Any = data.processor[CONVERSATION]
        limit = self.part.max_length or self.part.context_length
        if tokens < limit:
            raise ConfigError(
                f"tokens: {tokens} is less than the {limit} that one document may have (system.processor.conversation.max_length, the "
                "language model's context_length); raise it, or lower max_length"
            )
        self.data, self.tokens, self.seed = data, tokens, seed
        self.fixed = {m: self.part.count(m, data.processor[m].meta(1)[0][0]) for m in ("image",) if m in data.processor.parts}
        self.measured = self._measure(tell)
        if hasattr(data.split, "weigh"):  # a mixture by tokens, which are known now
            data.split.weigh([sum(parts) for parts in self.measured.lengths])  # type: ignore[attr-defined]
        self._kept: dict[int, list[list[Place]]] = {}
        self._length = len(self.plan(0))
        if not self._length:
            raise DataError(f"data.packing: none of the {len(data)} documents can be used ({self._reasons()})")

    def __len__(self) -> int:
        return self._length

    @property
    def skips(self) -> Skips | None:
        """What could not be used when it was drawn."""
        return self.data.skips

    @property
    def order(self) -> Callable[[int, int], Order]:
        """Packs come as they are planned, which is shuffled already."""
        return lambda seed, epoch: np.arange(len(self))

    def report(self) -> dict[str, Any]:
        """Figures for people: what the split holds, and how full the packs are."""
        planned = self.plan(0)
        lengths = self.measured.lengths
        shown = sum(lengths[place.document][place.number] for pack in planned for place in pack)
        filled = {"packs": len(planned), "tokens_in_packs": shown, "filled": round(shown / (len(planned) * self.tokens), 4)}
        return {**self.measured.counts, **filled, "left_out": dict(self.measured.left_out)}

    def plan(self, epoch: int) -> list[list[Place]]:
        """The packs of an epoch."""
        if epoch not in self._kept:
            order = self.data.order
            random = np.random.default_rng((self.seed, epoch)).permutation
            drawn = random(len(self.data)) if order is None else order(self.seed, epoch)[0 : len(self.data)]
            places = self._places(drawn)
            packs: list[list[Place]] = []
            for start in range(0, len(places), WINDOW):
                part = places[start : start + WINDOW]
                filled = fill([self.measured.lengths[place.document][place.number] for place in part], self.tokens)
                shuffled = np.random.default_rng((self.seed, epoch, PLAN_STREAM, start)).permutation(len(filled))
                packs += [[part[i] for i in filled[number]] for number in shuffled]
            self._kept = {epoch: packs}  # of the last one alone
        return self._kept[epoch]

    def __getitem__(self, draw: Draw) -> Item:
        """The pack of a draw, or the next one of which anything can be used."""
        assert draw.seed is not None
        epoch, faults = draw.seed[1], []
        packs = self.plan(epoch)
        for step in range(min(len(self), MOST_REPLACED)):
            documents = self._documents(packs[(draw.index + step) % len(packs)], epoch, faults)
            if documents:
                return Item(Sample(f"pack {draw.index}", {}), {"documents": documents}, draw.seed, tuple(faults), len(documents))
        raise DataError(f"data: {len(faults)} documents in a row cannot be used; the first: {faults[0] if faults else 'empty'}")

    def collate(self, items: Sequence[Item]) -> Batch:
        """The documents of all packs, a row each."""
        documents = [pair for item in items for pair in item.tensors["documents"]]
        return self.data.processor.collate([sample for sample, _ in documents], [tensors for _, tensors in documents])

    def _documents(self, pack: Sequence[Place], epoch: int, faults: list[DataError]) -> list[tuple[Sample, dict[str, Any]]]:
        """What of a pack can be used; documents that are varied may be longer than they were, and then the last ones are left out."""
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
        """A document or a part of it, processed; None where it has fewer parts this time."""
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
            raw = conversation.media(modality)[first : first + count]
            tensors[modality] = [data.processor[modality].item(each) for each in raw]
        return sample, {CONVERSATION: tokens, **tensors}

    def _parts(self, conversation: Conversation) -> list[Tokens]:
        """The parts of a document, as many as its length asks for; pictures are not opened, as each has as many tokens."""
        counts: dict[str, list[int]] = {}
        for modality in MARKERS:
            raw = conversation.media(modality)
            if raw and modality not in self.data.processor.parts:
                raise DataError(f"{conversation.name} holds {modality}, but this system has no encoder of {modality}")
            own = self.fixed.get(modality)
            counts[modality] = [self.part.count(modality, self.data.processor[modality].item(each)) if own is None else own for each in raw]
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
                found.left_out[getattr(fault, "reason", "other")] += 1
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
        """The parts of documents in the order in which they are drawn."""
        seen: Counter[int] = Counter()
        places = []
        for document in map(int, drawn):
            places += [Place(document, number, seen[document]) for number in range(len(self.measured.lengths[document]))]
            seen[document] += 1
        return places

    def _reasons(self) -> str:
        return ", ".join(f"{reason} {count}" for reason, count in self.measured.left_out.most_common())


def fill(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Numbers of items to packs, each item into the fullest pack that has room for it.

    With lengths 5, 3, 4, 2 and room for 7: ``[[0, 3], [1, 2]]``.
    """
    packs: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # what is left in each pack, sorted
    least = min(lengths, default=0)
    for item, length in enumerate(lengths):
        place = bisect_left(rooms, (length, -1))
        left, number = rooms.pop(place) if place < len(rooms) else (room, len(packs))
        if number == len(packs):
            packs.append([])
        packs[number].append(item)
        if left - length >= least:
            insort(rooms, (left - length, number))
    return packs
