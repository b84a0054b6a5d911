"""Batches of the optimizer steps of a run: those of the data with further targets, or answers that the model samples to their prompts."""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from accelerate import Accelerator

from zoo.data.loader import Cursor, ProcessedSplit, StepSampler, training_loader
from zoo.data.planned import Planned
from zoo.training.feature_cache import FeatureSplit
from zoo.training.meter import Meter
from zoo.training.rollouts import Rollouts
from zoo.training.settings import TrainingSettings
from zoo.types import Batch

log = logging.getLogger("zoo")


class StepBatches:
    """Batches of a run, as a function of seed and position in the data.

    Args:
        data: training split.
        settings: of the run.
        accelerator: of the run.
        seed: of the order and augmentation of the data.
        num_workers: number of processes that load data.
        complete: function that adds further targets to each batch.
        rollouts: samples answers to the prompts of the batches, in place of ``complete``.

    Attributes:
        cursor: position in the data after the batches that were loaded.

    Raises:
        ConfigError: there are fewer items than a batch has, or the processes cannot share a batch.
    """

    def __init__(
        self,
        data: ProcessedSplit | Planned,
        settings: TrainingSettings,
        accelerator: Accelerator,
        *,
        seed: int,
        num_workers: int,
        complete: Callable[[Batch], Batch],
        rollouts: Rollouts | None,
    ) -> None:
        self.data: ProcessedSplit | Planned | FeatureSplit = data
        self.settings, self.accelerator, self.seed, self.num_workers = settings, accelerator, seed, num_workers
        self.complete, self.rollouts, self.cursor = complete, rollouts, Cursor()
        self._sampler(batches=0)  # refuses a wrong batch size before the run has a directory

    def replace_data(self, data: FeatureSplit) -> None:
        """Train on cached features of the data, which need no workers."""
        self.data, self.num_workers = data, 0

    def steps(self, start: int, meter: Meter) -> Iterator[list[Batch]]:
        """Yield the batches of each optimizer step after ``start``, without end."""
        sampled = 1 if self.rollouts is None else self.rollouts.objective.steps_per_sampling
        most = (self.settings.max_steps - start + sampled - 1) * self.settings.accumulate
        pin = self.accelerator.device.type == "cuda"  # copies from pinned memory do not wait for earlier work of the device
        loader = meter.loaded(training_loader(self.data, self._sampler(batches=most), num_workers=self.num_workers, pin_memory=pin))
        step = start
        while True:
            if self.rollouts is None:
                yield [self.complete(batch) for batch in self._load(loader, 1)]
                continue
            if self.rollouts.is_spent:
                self.rollouts.sample(self._load(loader, sampled), step)
            yield self.rollouts.next()
            step += 1

    def _load(self, loader: Iterator[Batch], steps: int) -> list[Batch]:
        """Load the batches of some optimizer steps to the device."""
        number = steps * self.settings.accumulate
        self.cursor = self.cursor.after(number, batch_size=self.settings.batch_size, length=len(self.data))
        return [next(loader).to(self.accelerator.device) for _ in range(number)]

    def first(self, batch_size: int) -> Batch:
        """Return the next batch of the data; ``batch_size``: that of a restored state, if the run continues with another."""
        draws = next(iter(self._sampler(batches=1, batch_size=batch_size)))
        return self.data.collate([self.data[draw] for draw in draws])

    def _sampler(self, *, batches: int, batch_size: int | None = None) -> StepSampler:
        return StepSampler(
            len(self.data),
            batch_size=batch_size or self.settings.batch_size,
            seed=self.seed,
            start=0,
            stop=batches,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            order=self.data.order,
            cursor=self.cursor,
        )

    def restore(self, position: Mapping[str, Any], step: int) -> int:
        """Take the position in the data from a state, warn if the run used other threads; returns the batch size of the state."""
        batch_size, threads = position.get("batch_size", self.settings.batch_size), position.get("threads")
        before = Cursor().after(step * self.settings.accumulate, batch_size=batch_size, length=len(self.data))
        self.cursor = Cursor(*position.get("cursor", before))  # states of older versions count steps only
        if threads not in (None, torch.get_num_threads()):
            log.warning(
                "training.threads: the state was saved with %s threads, this run has %s; it continues, but not with the same bits as an "
                "uninterrupted run (use training.threads=%s for that)",
                *(threads, torch.get_num_threads(), threads),
            )
        return batch_size
