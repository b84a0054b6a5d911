"""Embedding of a folder by several workers: a queue of items cut into shards, which any worker may do.

The queue lies in the folder of the unfinished job: ``queue.jsonl`` holds the items to embed, and ``queue.json`` the numbers of their
shards. A shard is done when its ``NNNNNN.jsonl`` exists, as for one worker; ``zoo.commands.index.writer`` joins the shards of both.
"""

import hashlib
import json
import shutil
from argparse import Namespace
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict

from zoo.assembly.finite import refuse_not_finite
from zoo.commands.index.checks import REMEDY, check_item, read_plan
from zoo.commands.index.embedding import (
    EmbedResult,
    check_counts,
    embed_items,
    facts_of,
    list_items,
    place_of,
    reader_of,
    width_of,
)
from zoo.commands.index.store import FAILED, UNFINISHED, Index, alone_in, checked_words, read_json_lines, told
from zoo.commands.index.writer import PLAN, QUEUE, SAME, IndexWriter, Item, clear, key_of, refuse_strange, write_shard
from zoo.commands.worker_options import share_of
from zoo.commands.workers import Advance, SharedJob
from zoo.errors import ConfigError, DataError
from zoo.evaluation.adapters.embedder import find_embedder
from zoo.runs.jobs.parts import PATIENCE_S, part_length
from zoo.runs.jobs.shares import WHOLE, Share
from zoo.runs.jobs.supervise import leave_if_orphan
from zoo.storage.checked import check
from zoo.storage.files import whole_file, write_text_atomically
from zoo.storage.outside import read_json_object

QUEUED = "queue.jsonl"
WORKERS = ".workers"  # logs and counts of the workers, in the folder of the index
UNCHANGED = "unchanged"  # file among them: the finished index holds the items already


class Queue(TypedDict):
    """Content of ``queue.json``: hash of the list of all items, and the shards of those that are to be embedded."""

    listing: str
    first: int
    rows: int
    items: int
    model: str
    dim: int


class EmbedJob(SharedJob):
    """Embedding shared among workers.

    Args:
        options: of the command line.
        name: of the model.
        load_model: loads it; only workers call this.
        show: prints the result and returns the exit status.

    Raises:
        ConfigError: an option is not allowed with several workers.
        DataError: the folder does not exist or holds no items.
    """

    label = "embed"

    def __init__(self, options: Namespace, name: str, load_model: Callable[[], Any], show: Callable[[EmbedResult], int]) -> None:
        check_counts(options.batch_size, options.readers)
        checked_words(options.format, options.dtype)
        share = share_of(options)
        self.count = options.workers or (1 if share is None else share.count)
        self.options, self.name, self.load_model, self.show = options, name, load_model, show
        self.origin, self.directory = Path(options.folder), Path(options.output)
        self.folder, self.scratch = self.directory / UNFINISHED, self.directory / WORKERS
        self.items = list_items(self.origin, options.modality)
        self.num_items, self.listing = len(self.items), listing_of(self.items)
        if options.restart and share is not None:
            raise ConfigError(f"--restart: one share would delete the work of the others; delete {self.directory} once, before the shares")
        if not options.restart:
            refuse_strange(self.directory)
        with told(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            with alone_in(self.directory, patience_s=PATIENCE_S):
                if options.restart:
                    clear(self.directory)
                if share is None:
                    shutil.rmtree(self.scratch, ignore_errors=True)

    def num_done(self, share: Share = WHOLE) -> int:
        """Return the number of items that are embedded; those that were before the shares began count to the first share."""
        queue = self._queue()
        if queue is None:
            return 0
        before = len(self.items) - queue["items"] if share.index == 0 else 0
        return before + sum(len(self._span(queue, number)) for number in self._shards(queue, share) if self._has(number))

    def is_done(self) -> bool:
        """Return True if all shards are written, or if the finished index holds all items already."""
        queue = self._queue()
        if queue is None:
            return (self.scratch / UNCHANGED).exists()
        return all(self._has(number) for number in self._shards(queue, WHOLE))

    def work(self, share: Share, advance: Advance) -> int:
        """Embed the missing shards of a share; return the number of items that could not be read."""
        model, failed = self.load_model(), 0
        if not self.options.allow_nan:
            refuse_not_finite(model, self.name)
        embed = find_embedder(model, self.options.modality)
        read = reader_of(model, self.options.modality, self.origin)
        with told(self.directory), alone_in(self.directory, patience_s=PATIENCE_S):
            queue = self._begin(model)
        for number in self._shards(queue, share) if queue is not None else ():
            if self._has(number):
                continue
            leave_if_orphan()
            items = self._items_of(self._span(queue, number))  # type: ignore[arg-type]
            vectors, errors = embed_items(items, read, embed, self.options.batch_size, self.options.readers, advance)
            with told(self.directory):
                write_shard(self.folder, number, items, vectors.astype(self.options.dtype), errors)
            failed += len(errors)
        return failed

    def join(self) -> int:
        """Write the index from all shards."""
        queue = self._queue()
        with told(self.directory), alone_in(self.directory, patience_s=PATIENCE_S):
            if queue is None:
                result = EmbedResult(self.directory, len(Index(self.directory)), [], 0)
            else:
                plan = read_plan(self.folder / PLAN, SAME)
                writer = IndexWriter(self.directory, {word: plan[word] for word in SAME}, queue["rows"])
                writer.recall()
                if writer.num_known < len(self.items):
                    raise DataError(f"{self.folder}: finished shards do not hold all items; {REMEDY}")
                origin = str(self.origin.absolute())
                manifest = writer.finish(model=queue["model"], origin=origin, storage=self.options.format, dim=queue["dim"])
                failed = list(read_json_lines(self.directory / FAILED))
                result = EmbedResult(self.directory, manifest.count, failed, queue["items"])
            shutil.rmtree(self.scratch, ignore_errors=True)
        return self.show(result)

    def _begin(self, model: Any) -> Queue | None:
        """Return the queue of these items; the first worker writes it. None if the finished index holds all items already."""
        queue, facts = self._queue(), facts_of(model, self.options.modality, self.options.dtype)
        rows = part_length(len(self.items), self.count, self.options.batch_size)
        writer = IndexWriter(self.directory, facts, rows)  # refuses an index or shards of another model
        if queue is not None:
            return queue
        if writer.begin(self.items, update=self.options.update):
            if writer.old is not None and writer.old.manifest.storage == self.options.format:
                writer.drop()
                self.scratch.mkdir(exist_ok=True)
                (self.scratch / UNCHANGED).touch()
                return None
            writer.write_plan()
            writer.recall()
        left = {key_of(item): item for item in writer.unknown()}
        with whole_file(self.folder / QUEUED) as file:
            file.writelines((json.dumps(item) + "\n").encode() for item in left.values())
        rows = part_length(len(left), self.count, self.options.batch_size) if left else rows
        made = Queue(
            listing=self.listing,
            first=writer.next_number,
            rows=rows,
            items=len(left),
            model=place_of(self.name),
            dim=width_of(model, self.options.modality),
        )
        write_text_atomically(self.folder / QUEUE, json.dumps(made, indent=1) + "\n")
        return made

    def _queue(self) -> Queue | None:
        """Return the queue of these items; None if there is none, or if it is of another list."""
        path = self.folder / QUEUE
        if not path.exists() or not (self.folder / PLAN).exists():
            return None
        found = read_json_object(path, DataError)
        queue: Any = check(found, Queue, path, DataError, REMEDY)
        if queue["rows"] < 1 or queue["first"] < 0:
            raise DataError(f"{path}: rows is {queue['rows']}, first is {queue['first']}; allowed are 1 or more and 0 or more; {REMEDY}")
        return queue if queue["listing"] == self.listing else None

    def _shards(self, queue: Queue, share: Share) -> list[int]:
        count = -(-queue["items"] // queue["rows"])
        return [queue["first"] + number for number in range(count) if share.holds(number)]

    def _span(self, queue: Queue, number: int) -> range:
        start = (number - queue["first"]) * queue["rows"]
        return range(start, min(start + queue["rows"], queue["items"]))

    def _has(self, number: int) -> bool:
        return (self.folder / f"{number:06d}.jsonl").exists()

    def _items_of(self, span: range) -> list[Item]:
        path = self.folder / QUEUED
        with path.open("rb") as file:  # lines before the span are skipped without being parsed
            return [
                check_item(line, f"{path}, line {number}")
                for number, line in enumerate(islice(file, span.start, span.stop), span.start + 1)
            ]


def listing_of(items: list[Item]) -> str:
    """Return the hash of a list of items."""
    digest = hashlib.sha256()
    for item in items:
        digest.update((json.dumps(item) + "\n").encode())
    return digest.hexdigest()


def complete_job(options: Namespace, name: str, load_model: Callable[[], Any], show: Callable[[EmbedResult], int]) -> EmbedJob | None:
    """Return the job of several workers that only has to be joined; None if there is none."""
    if options.update or options.restart or not (Path(options.output) / UNFINISHED / QUEUE).is_file():
        return None
    job = EmbedJob(options, name, load_model, show)
    return job if job.is_done() else None
