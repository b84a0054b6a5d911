"""Data loading: samples to batches, as a pure function of seed and step.

There is no state between steps: ``(seed, step)`` determines the items of a batch and the augmentation of each. Therefore training
resumes at any step by starting the sampler there, with any number of workers and processes.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import Generator
from torch.utils.data import DataLoader, Dataset, Subset

from zoo.data.augmentation import Augmentation
from zoo.data.denoising.denoising import Denoising
from zoo.data.masking import Masking
from zoo.data.mixup import Mix
from zoo.data.order import Order
from zoo.data.skips import Skips
from zoo.data.system_processor import Processor
from zoo.errors import ConfigError, DataError
from zoo.types import Batch, Sample, Split

MOST_REPLACED = 100  # bad items in a row after which training stops with an error
MIX_STREAM = 1  # appended to the seed of a batch's first item to seed the mixing of the batch


@dataclass(frozen=True)
class Item:
    """Processed item.

    Attributes:
        tensors: processed inputs by modality.
        seed: seed of its augmentation; None in evaluation.
        faults: errors of the bad items that this item replaces.
        count: number of source items in it; a pack has several.
    """

    sample: Sample
    tensors: dict[str, Any]
    seed: tuple[int, ...] | None
    faults: tuple[DataError, ...] = ()
    count: int = 1


@dataclass(frozen=True)
class Draw:
    """Index of an item to load, and the seed of its augmentation."""

    index: int
    seed: tuple[int, ...] | None = None


class Cursor(NamedTuple):
    """Position in the training data: ``item`` items of the order of ``epoch`` have been used.

    It counts items and not steps, so that a run may go on with another batch size.
    """

    epoch: int = 0
    item: int = 0

    def after(self, batches: int, *, batch_size: int, length: int) -> "Cursor":
        """Return the position after further batches; a batch never spans two epochs of ``length`` items.

        With 10 items in batches of 4: (0, 0), (0, 4), (0, 8), (1, 4), (1, 8), (2, 4).
        """
        here = max(length - self.item, 0) // batch_size  # batches left in this epoch
        if batches <= here:
            return Cursor(self.epoch, self.item + batches * batch_size)
        epochs, rest = divmod(batches - here - 1, length // batch_size)
        return Cursor(self.epoch + 1 + epochs, (rest + 1) * batch_size)


class StepSampler:
    """Sampler of one rank's batches of draws; each epoch has an order given by (seed, epoch) and drops its last partial batch.

    With ``batch_size`` 4 over 2 ranks, rank 0 takes items 0 and 1 of each batch of the permutation, and rank 1 takes items 2 and 3.
    Together they load exactly the batch that one process would load.

    Args:
        length: number of items.
        batch_size: items in a batch, all ranks together.
        start: first step.
        stop: step after the last one.
        order: function from (seed, epoch) to the order of that epoch; None takes a random permutation of all items.
        cursor: position of the first step; None counts ``start`` steps of this batch size from the beginning.

    Raises:
        ConfigError: there are fewer items than ``batch_size``, or ``world_size`` does not divide it.
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
        cursor: Cursor | None = None,
    ) -> None:
        if batch_size > length:
            raise ConfigError(f"training.batch_size: {batch_size} is more than the {length} training items; lower it")
        if batch_size % world_size:
            raise ConfigError(f"training.batch_size: {batch_size} is not divisible by the {world_size} processes; give a multiple")
        self.length, self.batch_size, self.seed, self.start, self.stop = length, batch_size, seed, start, stop
        self.order = self._permutation if order is None else order
        self.cursor = Cursor().after(start, batch_size=batch_size, length=length) if cursor is None else cursor
        local = batch_size // world_size
        self.share = slice(rank * local, (rank + 1) * local)

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, order, cursor = -1, None, self.cursor
        for _ in range(self.start, self.stop):
            cursor = cursor.after(1, batch_size=self.batch_size, length=self.length)
            if order is None or cursor.epoch != epoch:
                epoch = cursor.epoch
                order = self.order(self.seed, epoch)
            chosen = order[cursor.item - self.batch_size : cursor.item][self.share]
            yield [Draw(int(index), (self.seed, epoch, int(index))) for index in chosen]

    def _permutation(self, seed: int, epoch: int) -> Order:
        return np.random.default_rng((seed, epoch)).permutation(self.length)


class ProcessedSplit(Dataset):
    """Dataset that applies augmentation, processor and mixing to a split; it can be pickled for worker processes.

    An item requested by a ``Draw`` (training) is augmented, and its batch is mixed; an item requested by a plain index (evaluation) is
    not. If the split tolerates bad items, training replaces a bad item by the next good one of the split, so that batches keep their
    size and still depend only on seed and step. Evaluation leaves bad items out.

    Attributes:
        skips: counts of the bad items that this process skipped so far; None if a bad item is an error.
    """

    def __init__(
        self,
        split: Split,
        processor: Processor,
        augmentation: Augmentation | None = None,
        mix: Mix | None = None,
        masking: Masking | Denoising | None = None,
    ) -> None:
        self.split, self.processor, self.augmentation, self.mix, self.masking = split, processor, augmentation, mix, masking
        share = split.max_bad_share
        self.skips = None if share is None else Skips(share)

    def __len__(self) -> int:
        return len(self.split)

    @property
    def order(self) -> Callable[[int, int], Order] | None:
        """Training order defined by the split, a function from (seed, epoch); None if it defines none."""
        return self.split.order

    def __getitem__(self, draw: Draw | int) -> Item:
        draw = Draw(draw) if isinstance(draw, int) else draw
        if self.skips is None or draw.seed is None:
            return self.item(draw)
        faults: list[DataError] = []
        for step in range(min(len(self), MOST_REPLACED)):
            try:
                item = self.item(Draw((draw.index + step) % len(self), draw.seed))
            except DataError as fault:
                faults.append(fault)
            else:
                return replace(item, faults=tuple(faults))
        raise DataError(f"data: {len(faults)} items in a row cannot be used; the first error: {faults[0]}")

    def item(self, draw: Draw) -> Item:
        """Return one item without replacing it if it is bad."""
        generator = np.random.default_rng(draw.seed) if draw.seed is not None else None
        sample = self.split.sample(draw.index, generator)
        if self.augmentation is not None and generator is not None and "image" in self.processor.parts:
            sample = self.augmentation(sample, generator, self.processor["image"])
        return Item(sample, self.processor.items(sample), draw.seed)

    def collate(self, items: Sequence[Item]) -> Batch:
        """Collate one batch; passed to ``DataLoader``.

        In training, each item's seed seeds the masking or denoising of its tokens, and the first item's seed seeds the mixing of the batch.
        """
        batch = self.processor.collate([item.sample for item in items], [item.tensors for item in items])
        if self.masking is not None and items[0].seed is not None:
            batch = self.masking(batch, [item.seed for item in items if item.seed is not None])
        if self.mix is None or items[0].seed is None:
            return batch
        return self.mix(batch, np.random.default_rng((*items[0].seed, MIX_STREAM)))


@runtime_checkable
class Items(Protocol):
    """Protocol of datasets that the loaders read: ``ProcessedSplit`` or a replacement such as ``Packs``."""

    @property
    def skips(self) -> Skips | None: ...

    def __len__(self) -> int: ...

    def __getitem__(self, draw: Draw, /) -> Item: ...

    def collate(self, items: Sequence[Item], /) -> Batch: ...


class Loaded(NamedTuple):
    """Result of a worker for one batch.

    Attributes:
        batch: None if no item could be used.
        faults: errors of the items that were skipped.
        items: number of items requested, including the skipped ones.
        error: error that ends the run.
    """

    batch: Batch | None
    faults: list[DataError]
    items: int
    error: DataError | None = None


class _Reader(Dataset):
    """Dataset that returns errors instead of raising them, because an error raised in a worker appears with the worker's traceback."""

    def __init__(self, data: Items) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, draw: Draw | int) -> Item | Loaded:
        try:
            return self.data[draw]  # type: ignore[index]  # plain indices occur in evaluation only, with a ProcessedSplit
        except DataError as fault:
            # In training, an error that arrives here ends the run: data that tolerate bad items have replaced them already.
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
    """Iterable over the batches of a ``DataLoader`` that counts the skipped items.

    Raises:
        DataError: during iteration, if an item cannot be used, or more items than allowed.
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


def training_loader(data: Items, sampler: StepSampler, *, num_workers: int = 0, pin_memory: bool = False) -> Batches:
    """Return the batches of steps ``sampler.start`` to ``sampler.stop`` (exclusive), in pinned memory for a GPU if ``pin_memory``.

    The loader gets a separate generator. Otherwise it would draw from the global one at each start, and a resumed run, which starts one
    loader more, would then differ.
    """
    reader = _Reader(data)
    loader = DataLoader(
        reader,
        batch_sampler=sampler,
        collate_fn=reader.collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
        generator=Generator(),
        worker_init_fn=_ignore_first_sigterm,
    )
    return Batches(loader, data.skips)


def _ignore_first_sigterm(worker: int) -> None:
    """Keep a worker alive when a scheduler ends all processes of a job: the process that trains still finishes its step and saves it.

    The second SIGTERM ends the worker, so that the process that trains can still do so.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def evaluation_loader(
    data: ProcessedSplit, *, batch_size: int, limit: int | None = None, num_workers: int = 0, part: slice = slice(None)
) -> Batches:
    """Return batches of all items in order, each once, without augmentation.

    Args:
        limit: largest number of items. They are spread evenly over the split, because it may be sorted by class; None takes all.
        part: only these of the chosen items; it must begin where a batch begins, so that the batches are the same as without it.
    """
    reader = _Reader(data)
    whole = limit is None and part == slice(None)
    chosen = reader if whole else Subset(reader, spread(len(data), limit)[part])
    loader = DataLoader(chosen, batch_size=batch_size, collate_fn=reader.collate, num_workers=num_workers, generator=Generator())
    return Batches(loader, data.skips)


def spread(length: int, limit: int | None) -> Sequence[int]:
    """Return the indices of at most ``limit`` items, spread evenly over ``length``; None takes all."""
    return range(length) if limit is None or limit >= length else [i * length // limit for i in range(limit)]
