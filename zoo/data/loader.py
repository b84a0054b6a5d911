"""Samples to batches, as a pure function of seed and step.

Nothing is remembered between steps: which items a batch holds, and how each is augmented, follows from ``(seed, step)``
alone. So training resumes at any step by starting the sampler there, whatever the number of workers and processes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Generator
from torch.utils.data import DataLoader, Dataset, Subset

from zoo.data.augment import Augmentation
from zoo.data.mix import Mix
from zoo.data.processor import Processor
from zoo.errors import ConfigError
from zoo.types import Batch, Sample

MIX_STREAM = 1  # after an item's numbers: the numbers of the batch that it begins


@dataclass(frozen=True)
class Item:
    """One processed item.

    Attributes:
        tensors: by modality.
        seed: the numbers that varied it; None in evaluation.
    """

    sample: Sample
    tensors: dict[str, Any]
    seed: tuple[int, ...] | None


@runtime_checkable
class Split(Protocol):
    """The samples of one split of a source."""

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
    """Batches of draws for one rank: epoch by epoch a permutation seeded by (seed, epoch), last partial batch dropped.

    With ``batch_size`` 4 over 2 ranks, rank 0 takes items 0 and 1 of each batch of the permutation, rank 1 items 2 and 3:
    together they hold exactly the batch that one process would.

    Raises:
        ConfigError: fewer items than a batch, or a batch that the ranks cannot share evenly.
    """

    def __init__(self, length: int, *, batch_size: int, seed: int, start: int, stop: int, rank: int = 0, world_size: int = 1) -> None:
        if batch_size > length:
            raise ConfigError(f"training.batch_size: {batch_size} is more than the {length} training items; lower it")
        if batch_size % world_size:
            raise ConfigError(f"training.batch_size: {batch_size} cannot be shared evenly by {world_size} processes")
        self.length, self.batch_size, self.seed, self.start, self.stop = length, batch_size, seed, start, stop
        local = batch_size // world_size
        self.share = slice(rank * local, (rank + 1) * local)

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[Draw]]:
        per_epoch = self.length // self.batch_size
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for step in range(self.start, self.stop):
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                order = np.random.default_rng((self.seed, epoch)).permutation(self.length)
            first = step % per_epoch * self.batch_size
            chosen = order[first : first + self.batch_size][self.share]
            yield [Draw(int(index), (self.seed, epoch, int(index))) for index in chosen]


class ProcessedSplit(Dataset):
    """A split through augmentation, processor and mixing; picklable, so that workers can hold it.

    What is drawn is varied and mixed; what is asked for by a plain number (evaluation) is neither.
    """

    def __init__(self, split: Split, processor: Processor, augmentation: Augmentation | None = None, mix: Mix | None = None) -> None:
        self.split, self.processor, self.augmentation, self.mix = split, processor, augmentation, mix

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, draw: Draw | int) -> Item:
        draw = Draw(draw) if isinstance(draw, int) else draw
        generator = np.random.default_rng(draw.seed) if draw.seed is not None else None
        sample = self.split.sample(draw.index, generator)
        if self.augmentation is not None and generator is not None and "image" in self.processor.parts:
            sample = self.augmentation(sample, generator, self.processor["image"])
        return Item(sample, self.processor.items(sample), draw.seed)

    def collate(self, items: Sequence[Item]) -> Batch:
        """Make one batch; given to ``DataLoader``. Its mixing follows from the numbers of its first item."""
        batch = self.processor.collate([item.sample for item in items], [item.tensors for item in items])
        if self.mix is None or items[0].seed is None:
            return batch
        return self.mix(batch, np.random.default_rng((*items[0].seed, MIX_STREAM)))


def training_loader(data: ProcessedSplit, sampler: StepSampler, *, num_workers: int = 0) -> DataLoader:
    """Batches of steps ``sampler.start`` to ``sampler.stop``.

    A generator of its own, because a loader draws from the global one when it starts, and a resumed run starts one more.
    """
    return DataLoader(data, batch_sampler=sampler, collate_fn=data.collate, num_workers=num_workers, generator=Generator())


def evaluation_loader(data: ProcessedSplit, *, batch_size: int, limit: int | None = None, num_workers: int = 0) -> DataLoader:
    """Items in order, unvaried, each once.

    Args:
        limit: only so many, spread evenly, because splits may be sorted by class; None takes all.
    """
    chosen = data if limit is None or limit >= len(data) else Subset(data, [i * len(data) // limit for i in range(limit)])
    return DataLoader(chosen, batch_size=batch_size, collate_fn=data.collate, num_workers=num_workers, generator=Generator())
