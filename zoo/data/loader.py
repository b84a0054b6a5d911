"""Samples to batches, as a pure function of seed and step.

Nothing is remembered between steps: which items a batch holds, and how each is augmented, follows from ``(seed, step)``
alone. So training resumes at any step by starting the sampler there, whatever the number of workers and processes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Generator
from torch.utils.data import DataLoader, Dataset

from zoo.data.augment import Augmentation
from zoo.data.processor import Processor
from zoo.errors import ConfigError
from zoo.types import Batch, Sample


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
    """A split through augmentation and processor; picklable, so that workers can hold it."""

    def __init__(self, split: Split, processor: Processor, augmentation: Augmentation | None = None) -> None:
        self.split, self.processor, self.augmentation = split, processor, augmentation

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, draw: Draw | int) -> tuple[Sample, dict[str, Any]]:
        draw = Draw(draw) if isinstance(draw, int) else draw
        generator = np.random.default_rng(draw.seed) if draw.seed is not None else None
        sample = self.split.sample(draw.index, generator)
        if self.augmentation is not None and generator is not None:
            sample = self.augmentation(sample, generator)
        return sample, self.processor.items(sample)

    def collate(self, pairs: Sequence[tuple[Sample, dict[str, Any]]]) -> Batch:
        """Make one batch; given to ``DataLoader``."""
        samples, items = zip(*pairs, strict=True)
        return self.processor.collate(samples, items)


def training_loader(data: ProcessedSplit, sampler: StepSampler, *, num_workers: int = 0) -> DataLoader:
    """Batches of steps ``sampler.start`` to ``sampler.stop``.

    A generator of its own, because a loader draws from the global one when it starts, and a resumed run starts one more.
    """
    return DataLoader(data, batch_sampler=sampler, collate_fn=data.collate, num_workers=num_workers, generator=Generator())


def evaluation_loader(data: ProcessedSplit, *, batch_size: int, num_workers: int = 0) -> DataLoader:
    """Every item once, in order, unaugmented."""
    return DataLoader(data, batch_size=batch_size, collate_fn=data.collate, num_workers=num_workers, generator=Generator())
