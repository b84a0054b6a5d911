"""Dynamic batching: requests of one kind that wait at the same time are computed together, in the one thread of their model."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from zoo.errors import ZooError

Work = Callable[[Sequence["Job"]], Sequence[Any]]


@dataclass(eq=False)
class Job:
    """One request, or a piece of one, that waits for its model.

    Attributes:
        key: jobs of equal keys may be computed together.
        work: function from jobs of this key to a result per job; a result that is an exception is the job's error.
        payload: input of ``work``.
        size: number of items in the payload.
        future: the result; done before its time if the request was given up.
        has_begun: True if a part of the answer has been sent, so that the job cannot be repeated.
        arrived: time of arrival, in seconds of ``time.monotonic``.
    """

    key: Hashable
    work: Work
    payload: Any
    size: int
    future: asyncio.Future
    has_begun: bool = False
    arrived: float = field(default_factory=time.monotonic)

    @property
    def is_wanted(self) -> bool:
        """False if the client is gone or the time is over; long computations look at it from their thread."""
        return not self.future.done()


class Batcher:
    """Queue of jobs and the thread that computes them.

    A batch begins when ``max_items`` items of one key wait, when no other request is open that could join it, or when the oldest job has
    waited ``max_wait_ms``; while a batch is computed, the
    next one gathers. The oldest job decides the key, so that no kind of request can starve another.

    Args:
        max_items: items of a batch; a job with more is a batch for itself.
        max_wait_ms: longest time in milliseconds that an idle model waits for more items.
        num_open: returns the number of open requests of the server; without others, a request does not wait.
        on_batch: callback ``(items, seconds)`` for each batch: its size, and how long its oldest job waited.
    """

    def __init__(
        self,
        *,
        max_items: int,
        max_wait_ms: float,
        num_open: Callable[[], float] = lambda: math.inf,
        on_batch: Callable[[int, float], None] = lambda items, seconds: None,
    ) -> None:
        self.max_items, self.wait_s, self.num_open, self.on_batch = max_items, max_wait_ms / 1000, num_open, on_batch
        self._waiting: deque[Job] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="zoo-model")
        self._loop: asyncio.Task | None = None

    def start(self) -> None:
        """Begin to compute; call it inside the event loop."""
        self._loop = asyncio.create_task(self._serve())

    async def stop(self) -> None:
        """Give up the jobs that wait, and end the thread after its batch."""
        if self._loop is not None:
            self._loop.cancel()
        for job in self._waiting:
            job.future.cancel()
        await asyncio.to_thread(self._thread.shutdown)

    async def run(self, key: Hashable, work: Work, payload: Any, *, size: int = 1) -> Any:
        """Wait for the result of a payload; if the caller is cancelled, so is the job.

        Raises:
            ZooError: the payload cannot be computed.
        """
        return await self.add(key, work, payload, size=size).future

    def add(self, key: Hashable, work: Work, payload: Any, *, size: int = 1) -> Job:
        """Put a job into the queue."""
        job = Job(key, work, payload, size, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._arrived.set()
        return job

    async def _serve(self) -> None:
        while True:
            await self._arrived.wait()
            self._drop_unwanted()
            if not self._waiting:
                self._arrived.clear()
                continue
            await self._gather(self._waiting[0])
            jobs = self._taken()
            if jobs:
                self.on_batch(sum(job.size for job in jobs), time.monotonic() - jobs[0].arrived)
                await self._compute(jobs)

    async def _gather(self, first: Job) -> None:
        """Wait until the batch of the first job is full, or its time is over."""
        while sum(job.size for job in self._waiting if job.key == first.key) < self.max_items and self.num_open() > len(self._waiting):
            left = first.arrived + self.wait_s - time.monotonic()
            if left <= 0:
                return
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except TimeoutError:
                return
            finally:
                self._arrived.set()  # jobs of other keys may have come meanwhile

    def _taken(self) -> list[Job]:
        """Take the jobs of the next batch out of the queue: those with the key of the oldest, as far as they fit."""
        self._drop_unwanted()
        taken: list[Job] = []
        items = 0
        for job in list(self._waiting):
            if job.key == self._waiting[0].key and (not taken or items + job.size <= self.max_items):
                taken.append(job)
                items += job.size
        self._waiting = deque(job for job in self._waiting if job not in taken)
        return taken

    def _drop_unwanted(self) -> None:
        self._waiting = deque(job for job in self._waiting if job.is_wanted)

    async def _compute(self, jobs: Sequence[Job]) -> None:
        """Compute jobs and set their results. If one of several makes the batch fail, each is computed alone, so that only it fails."""
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._thread, jobs[0].work, jobs)
        except ZooError as error:
            if len(jobs) == 1 or any(job.has_begun for job in jobs):
                results = [error] * len(jobs)
            else:
                for job in jobs:
                    if job.is_wanted:
                        await self._compute([job])
                return
        except Exception as error:  # of any kind: the request fails, the server continues with the next one
            results = [error] * len(jobs)
        for job, result in zip(jobs, results, strict=True):
            if job.is_wanted:
                job.future.set_exception(result) if isinstance(result, Exception) else job.future.set_result(result)
