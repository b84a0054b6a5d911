"""Results of a job in parts: JSON lines in files that appear whole or not at all.

A folder holds ``plan.json`` (what the job is, how many items it has, how long a part is) and one file per finished part:
``000003.jsonl`` with one line per item, in the order of the items. The name of a part follows from its items alone, so any number of
workers, one after another or at the same time, can do the rest of a job. Model: the completion marks of datatrove (``executor/base.py``).
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from zoo.errors import ConfigError, DataError
from zoo.runs.jobs.shares import WHOLE, Share
from zoo.storage.files import whole_file, write_text_atomically
from zoo.storage.lock import alone
from zoo.storage.outside import parse_json, read_json_object, shown

PLAN, LOCK = "plan.json", ".lock"
LONGEST_PART = 1024  # items: the most that is lost if a worker is killed
PARTS_PER_WORKER = 4  # at least, so that the last worker does not keep the others waiting for long
PATIENCE_S = 120.0  # workers that start together wait for each other while one of them writes the plan


class Parts:
    """Parts of a job in a folder; the first process makes the plan, all others must have the same job and items.

    Args:
        folder: of the plan and the parts.
        job: plain values that identify the job: command, model, settings.
        items: names of the items, in order.
        workers: number of workers; the length of a part follows from it if there is no plan yet.
        multiple: a part's length is a multiple of this, for example the batch size.

    Raises:
        ConfigError: the folder holds parts of another job.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, job: Mapping[str, Any], items: Iterable[str], *, workers: int = 1, multiple: int = 1) -> None:
        self.folder = folder
        digest, count = hashlib.sha256(), 0
        for item in items:
            count += 1
            digest.update(item.encode("utf-8", "surrogateescape") + b"\0")
        own = {"job": json.loads(json.dumps(job, default=str)), "items": count, "listing": digest.hexdigest()}
        folder.mkdir(parents=True, exist_ok=True)
        with self._alone():
            if not (folder / PLAN).exists():
                self._write_plan({**own, "part_items": part_length(count, workers, multiple), "agreed": {}})
            self.plan = self._read_plan()
        self._refuse_other(own)
        self.num_items, self.length = count, int(self.plan["part_items"])
        self.num_parts = -(-count // self.length)

    def span(self, part: int) -> range:
        """Return the positions of a part's items."""
        return range(part * self.length, min((part + 1) * self.length, self.num_items))

    def path(self, part: int) -> Path:
        """Return the file of a part; if it exists, the part is done."""
        return self.folder / f"{part:06d}.jsonl"

    def missing(self, share: Share = WHOLE) -> list[int]:
        """Return the parts of a share that are not done."""
        done = {path.name for path in self.folder.glob("*.jsonl")}
        return [part for part in range(self.num_parts) if share.holds(part) and self.path(part).name not in done]

    def num_done(self, share: Share = WHOLE) -> int:
        """Return the number of items in the finished parts of a share."""
        missing = set(self.missing(share))
        return sum(len(self.span(part)) for part in range(self.num_parts) if share.holds(part) and part not in missing)

    def agree(self, key: str, value: Any) -> Any:
        """Return the value that all workers share: that of the first worker which told one.

        Raises:
            ConfigError: the plan holds another value, for example another hash of the weights.
        """
        with self._alone():
            self.plan = self._read_plan()
            value = json.loads(json.dumps(value))
            if key not in self.plan["agreed"]:
                self.plan["agreed"][key] = value
                self._write_plan(self.plan)
        if self.plan["agreed"][key] != value:
            raise ConfigError(
                f"{self.folder}: finished parts have other {key} than this worker; use the same model everywhere, or delete this folder "
                "to start over"
            )
        return value

    def agreed(self, key: str) -> Any:
        """Return a value that the workers shared with ``agree``; None if no worker told one."""
        self.plan = self._read_plan()
        return self.plan["agreed"].get(key)

    def write(self, part: int, lines: Iterable[Mapping[str, Any]]) -> None:
        """Write the result of a part, one line per item."""
        with whole_file(self.path(part)) as file:
            for line in lines:
                file.write(json.dumps(line).encode() + b"\n")

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of all items in order; one part is open at a time.

        Raises:
            DataError: a part is damaged.
        """
        for part in range(self.num_parts):
            path, number = self.path(part), 0
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    found = parse_json(line, f"{path}, line {number}", DataError)
                    if not isinstance(found, dict):
                        raise DataError(f"{path}, line {number}: got {shown(found)}; allowed is an object; delete the file to do it again")
                    yield found
            if number != len(self.span(part)):
                raise DataError(f"{path}: has {number} lines for {len(self.span(part))} items; delete the file to do the part again")

    def remove(self) -> None:
        """Remove the folder; the plan goes last, so that a kill in between leaves an unfinished job and never half a result."""
        for path in self.folder.glob("*.jsonl"):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _alone(self) -> Any:
        return alone(self.folder / LOCK, f"{self.folder}: another worker is writing the plan", patience_s=PATIENCE_S)

    def _write_plan(self, plan: Mapping[str, Any]) -> None:
        write_text_atomically(self.folder / PLAN, json.dumps(plan, indent=1) + "\n")

    def _read_plan(self) -> dict[str, Any]:
        path = self.folder / PLAN
        plan = read_json_object(path, DataError)
        length, agreed = plan.get("part_items"), plan.get("agreed")
        if isinstance(length, bool) or not isinstance(length, int) or length < 1 or not isinstance(agreed, dict):
            raise DataError(f"{path}: part_items is {shown(length)}; allowed is 1 or more; delete {self.folder} to start over")
        return plan

    def _refuse_other(self, own: Mapping[str, Any]) -> None:
        before, now = self.plan.get("job"), own["job"]
        if before != now:
            before = before if isinstance(before, dict) else {}
            changed = [f"{key} {shown(before.get(key), 60)} is now {shown(now.get(key), 60)}" for key in {**before, **now}]
            changed = [text for key, text in zip({**before, **now}, changed, strict=True) if before.get(key) != now.get(key)]
            raise ConfigError(
                f"{self.folder}: holds finished parts of a job with other settings ({'; '.join(changed)}); run that command again to "
                "end it, or delete this folder"
            )
        if (self.plan.get("items"), self.plan.get("listing")) != (own["items"], own["listing"]):
            raise ConfigError(
                f"{self.folder}: holds finished parts of a job with other inputs ({self.plan.get('items')} items, now {own['items']}); "
                "restore the inputs, or delete this folder to start over"
            )


def part_length(items: int, workers: int, multiple: int) -> int:
    """Return the number of items per part: at least ``PARTS_PER_WORKER`` parts per worker, at most ``LONGEST_PART`` items a part.

    With 20,000 items, 2 workers and batches of 64: 1024. With 100 items, 2 workers and batches of 4: 16.
    """
    wished = min(LONGEST_PART, -(-items // (workers * PARTS_PER_WORKER)))
    return max(1, -(-wished // multiple)) * multiple
