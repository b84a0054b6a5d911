"""Samples to batches, as a pure function of seed and step.

Nothing is remembered between steps: which items a batch holds, and how each is augmented, follows from ``(seed, step)``
alone. So training resumes at any step by starting the sampler there, whatever the number of workers and processes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import Generator
from torch.utils.data import DataLoader, Dataset, Subset

from zoo.data.augmentation import Augmentation
from zoo.data.masking import Masking
from zoo.data.mixup import Mix
from zoo.data.order import Order
from zoo.data.skips import Skips
from zoo.data.system_processor import Processor
from zoo.errors import ConfigError, DataError
from zoo.types import Batch, Sample

MOST_REPLACED = 100  # bad items in a row, before training gives up
MIX_STREAM = 1  # after an item's numbers: the numbers of the batch that it begins


@dataclass(frozen=True)
class Item:
    """One processed item.

    Attributes:
        tensors: by modality.
        seed: the numbers that varied it; None in evaluation.
        faults: of the items that it stands for, as they could not be used.
        count: how many of the source's items it holds; a pack holds several.
    """

    sample: Sample
    tensors: dict[str, Any]
    seed: tuple[int, ...] | None
    faults: tuple[DataError, ...] = ()
    count: int = 1


@runtime_checkable
class Split(Protocol):
    """The samples of one split of a source.

    It may have an ``order(seed, epoch) -> Order`` of its own in which training shows it, and ``max_bad_share``: the share of items
    that may be skipped because they cannot be used (without, or with None, one such item is an error).
    """

    def __len__(self) -> int: ...

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Item ``index``. With a generator the source may vary it (caption, position); without, it is always the same."""
        ...


@dataclass(frozen=True)
class Draw:
    """Which item to take, and the numbers that seed its augmentation."""

    index: int
    seed: tuple[int, ...] | None = None


class StepSampler:
    """Batches of draws for one rank: epoch by epoch an order given by (seed, epoch), last partial batch dropped.

    With ``batch_size`` 4 over 2 ranks, rank 0 takes items 0 and 1 of each batch of the permutation, rank 1 items 2 and 3:
    together they hold exactly the batch that one process would.

    Args:
        order: of an epoch, by (seed, epoch); None: a random permutation of all items.

    Raises:
        ConfigError: fewer items than a batch, or a batch that the ranks cannot share evenly.
    """

    def __init__(
        self,
        length: int,
        *,
        batch_size: int,
        seed: int,
        start: int,
        stop: int,
        rank: int = 0,
        world_size: int = 1,
        order: Callable[[int, int], Order] | None = None,
    ) -> None:
        if batch_size > length:
            raise ConfigError(f"training.batch_size: {batch_size} is more than the {length} training items; lower it")
        if batch_size % world_size:
            raise ConfigError(f"training.batch_size: {batch_size} cannot be shared evenly by {world_size} processes")
        self.length, self.batch_size, self.seed, self.start, self.stop = length, batch_size, seed, start, stop
        self.order = self._permutation if order is None else order
        local = batch_size // world_size
        self.share = slice(rank * local, (rank + 1) * local)

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[Draw]]:
        per_epoch = self.length // self.batch_size
        epoch, order = -1, None
        for step in range(self.start, self.stop):
            if order is None or step // per_epoch != epoch:
                epoch = step // per_epoch
                order = self.order(self.seed, epoch)
            first = step % per_epoch * self.batch_size
            chosen = order[first : first + self.batch_size][self.share]
            yield [Draw(int(index), (self.seed, epoch, int(index))) for index in chosen]

    def _permutation(self, seed: int, epoch: int) -> Order:
        return np.random.default_rng((seed, epoch)).permutation(self.length)


class ProcessedSplit(Dataset):
    """A split through augmentation, processor and mixing; picklable, so that workers can hold it.

    What is drawn is varied and mixed; what is asked for by a plain number (evaluation) is neither. Where the split tolerates bad
    items, one that is drawn is replaced by the next good item of the split: batches keep their size, and still follow from seed and
    step. In evaluation it is left out.

    Attributes:
        skips: what the loaders in this process left out so far; None where a bad item is an error.
    """

    def __init__(
        self,
        split: Split,
        processor: Processor,
        augmentation: Augmentation | None = None,
        mix: Mix | None = None,
        masking: Masking | None = None,
    ) -> None:
        self.split, self.processor, self.augmentation, self.mix, self.masking = split, processor, augmentation, mix, masking
        share = getattr(split, "max_bad_share", None)
        self.skips = None if share is None else Skips(share)

    def __len__(self) -> int:
        return len(self.split)

    @property
    def order(self) -> Callable[[int, int], Order] | None:
        """The split's own order of training; None where it has none."""
        return getattr(self.split, "order", None)

    def __getitem__(self, draw: Draw | int) -> Item:
        draw = Draw(draw) if isinstance(draw, int) else draw
        if self.skips is None or draw.seed is None:
            return self._item(draw)
        faults: list[DataError] = []
        for step in range(min(len(self), MOST_REPLACED)):
            try:
                item = self._item(Draw((draw.index + step) % len(self), draw.seed))
            except DataError as fault:
                faults.append(fault)
            else:
                return replace(item, faults=tuple(faults))
        raise DataError(f"data: {len(faults)} items in a row cannot be used; the first: {faults[0]}")

    def _item(self, draw: Draw) -> Item:
        generator = np.random.default_rng(draw.seed) if draw.seed is not None else None
        sample = self.split.sample(draw.index, generator)
        if self.augmentation is not None and generator is not None and "image" in self.processor.parts:
            sample = self.augmentation(sample, generator, self.processor["image"])
        return Item(sample, self.processor.items(sample), draw.seed)

    def collate(self, items: Sequence[Item]) -> Batch:
        """Make one batch; given to ``DataLoader``. It is mixed by the numbers of its first item; tokens are hidden by those of each."""
        batch = self.processor.collate([item.sample for item in items], [item.tensors for item in items])
        if self.masking is not None and items[0].seed is not None:
            batch = self.masking(batch, [item.seed for item in items if item.seed is not None])
        if self.mix is None or items[0].seed is None:
            return batch
        return self.mix(batch, np.random.default_rng((*items[0].seed, MIX_STREAM)))


@runtime_checkable
class Items(Protocol):
    """What a loader reads from: a ``ProcessedSplit``, or what stands in its place."""

    @property
    def skips(self) -> Skips | None: ...

    def __len__(self) -> int: ...

    def __getitem__(self, draw: Draw, /) -> Item: ...

    def collate(self, items: Sequence[Item], /) -> Batch: ...


class Loaded(NamedTuple):
    """What comes from a worker: a batch, or None where nothing of it could be used; what was skipped; what ends the run."""

    batch: Batch | None
    faults: list[DataError]
    items: int
    error: DataError | None = None


class _Reader(Dataset):
    """Items of a split, or why there is none: an error raised in a worker would come out with the worker's traceback."""

    def __init__(self, data: Items) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, draw: Draw | int) -> Item | Loaded:
        try:
            return self.data[draw]  # type: ignore[index]  # plain numbers come in evaluation alone, of a ProcessedSplit
        except DataError as fault:
            if self.data.skips is not None and isinstance(draw, int):
                return Loaded(None, [fault], 1)
            return Loaded(None, [], 0, fault)

    def collate(self, found: Sequence[Item | Loaded]) -> Loaded:
        items = [item for item in found if isinstance(item, Item)]
        others = [loaded for loaded in found if isinstance(loaded, Loaded)]
        faults = [fault for item in items for fault in item.faults] + [fault for loaded in others for fault in loaded.faults]
        error = next((loaded.error for loaded in others if loaded.error is not None), None)
        try:
            batch = self.data.collate(items) if items and error is None else None
        except DataError as fault:
            batch, error = None, fault
        return Loaded(batch, faults, sum(item.count for item in items) + len(faults), error)


class Batches:
    """Batches of a ``DataLoader``, with what was skipped counted as they are taken.

    Raises:
        DataError: while iterating, an item that cannot be used, or too many of them.
    """

    def __init__(self, loader: DataLoader, skips: Skips | None) -> None:
        self.loader, self.skips = loader, skips

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        for loaded in self.loader:
            if self.skips is not None:
                self.skips.add(loaded.faults, loaded.items)
            if loaded.error is not None:
                raise loaded.error
            if loaded.batch is not None:
                yield loaded.batch


def training_loader(data: Items, sampler: StepSampler, *, num_workers: int = 0) -> Batches:
    """Batches of steps ``sampler.start`` to ``sampler.stop``.

    A generator of its own, because a loader draws from the global one when it starts, and a resumed run starts one more.
    """
    reader = _Reader(data)
    loader = DataLoader(reader, batch_sampler=sampler, collate_fn=reader.collate, num_workers=num_workers, generator=Generator())
    return Batches(loader, data.skips)


def evaluation_loader(data: ProcessedSplit, *, batch_size: int, limit: int | None = None, num_workers: int = 0) -> Batches:
    """Items in order, unvaried, each once.

    Args:
        limit: only so many, spread evenly, because splits may be sorted by class; None takes all.
    """
    reader = _Reader(data)
    chosen = reader if limit is None else Subset(reader, spread(len(data), limit))
    loader = DataLoader(chosen, batch_size=batch_size, collate_fn=reader.collate, num_workers=num_workers, generator=Generator())
    return Batches(loader, data.skips)


def spread(length: int, limit: int | None) -> Sequence[int]:
    """Which items a limit leaves: all, or so many spread evenly."""
    return range(length) if limit is None or limit >= length else [i * length // limit for i in range(limit)]
