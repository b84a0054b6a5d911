"""Speed of a run: items, tokens and floating-point operations per second, time spent waiting for data, and memory."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from zoo.losses.distributed import sum_over_ranks
from zoo.training.peak_flops import peak_flops
from zoo.training.settings import TrainingSettings
from zoo.types import Batch, head_of, on_host


class Meter:
    """Counter of the work of a run and of its time, from one line of the log to the next.

    Args:
        model: the trained model.
        settings: of the run.
        device: of the run.
    """

    def __init__(self, model: nn.Module, settings: TrainingSettings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.peak = settings.peak_flops if settings.peak_flops is not None else peak_flops(device, settings.precision)
        # The work of a language model grows with the tokens of a batch; that of other models hardly differs between items.
        head = head_of(model)
        self._by_tokens = head is not None and head.language is not None
        self._flops: float | None = None  # of this process, per item or token
        self._counter: FlopCounterMode | None = None
        self._begin()

    def _begin(self) -> None:
        self._started, self._waited = time.monotonic(), 0.0
        self._items = self._own_items = self._own_tokens = 0

    def loaded(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield batches, and count the time that the loader takes for each."""
        iterator = iter(batches)
        while True:
            before = time.monotonic()
            batch = next(iterator, None)
            self._waited += time.monotonic() - before
            if batch is None:
                return
            yield batch

    def counting(self) -> AbstractContextManager[Any]:
        """Return a context for forward and backward; around the first step, it counts floating-point operations.

        Nothing is counted if the peak of the device is unknown.
        """
        if self.peak is None or self._flops is not None:
            return nullcontext()
        self._counter = FlopCounterMode(display=False)
        return self._counter

    def count(self, batches: Sequence[Batch]) -> None:
        """Add a step that is done."""
        items, tokens = sum(map(len, batches)), sum(map(num_tokens, batches))
        self._items += self.settings.batch_size * self.settings.accumulate
        self._own_items += items
        self._own_tokens += tokens
        if self._counter is not None:
            self._flops = self._counter.get_total_flops() / max(tokens if self._by_tokens else items, 1)
            self._counter = None

    def line(self) -> dict[str, float]:
        """Return the figures since the last call; every process has to call it.

        ``items_per_second`` and ``tokens_per_second`` (of texts; without texts there is none) of all processes together; of this process
        ``waiting_for_data``, the share of the time in which the loop waited for the next batch, ``memory_bytes``, and
        ``model_flops_utilisation``, operations per second as a share of the device's peak. Operations are those of the first step's
        forward and backward, per item or token, with those that activation checkpointing repeats.
        """
        seconds = max(time.monotonic() - self._started, 1e-9)
        tokens = float(sum_over_ranks(torch.tensor(float(self._own_tokens), device=self.device)))
        found = {"items_per_second": round(self._items / seconds, 2), "seconds": round(seconds, 3)}
        if tokens:
            found["tokens_per_second"] = round(tokens / seconds, 1)
        found |= {"waiting_for_data": round(self._waited / seconds, 4), "memory_bytes": memory_bytes(self.device)}
        if self._flops is not None and self.peak is not None:
            work = self._own_tokens if self._by_tokens else self._own_items
            found["model_flops_utilisation"] = round(self._flops * work / seconds / self.peak, 6)
        self._begin()
        return found


def num_tokens(batch: Batch) -> int:
    """Return the number of real tokens of a batch's texts, with those that images and audio take in them."""
    ids, mask = batch.inputs.get("text"), batch.masks.get("text")
    if ids is None:
        return 0
    return ids.numel() if mask is None else int(on_host(mask).sum())


def memory_bytes(device: torch.device) -> int:
    """Return the largest memory of tensors on a GPU since the last call; on a CPU the present memory of the process."""
    if device.type == "cuda":
        most = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return most
    import psutil

    return psutil.Process().memory_info().rss
