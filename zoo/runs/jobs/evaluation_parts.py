"""Evaluation in parts: what ranks of a process group exchange in memory, shares of a job exchange in files.

An evaluation reads its items by ``zoo.evaluation.measures.shares``, which asks for the results of all ranks after it has those of its own.
Here a rank is a part of the job: its results are written to a file, whose mark says that it is done. If other parts are missing, the
evaluation of this part ends there. Once all files exist, a reader without items of its own runs the same evaluation and gets them all.
An evaluation that reads twice (a probe reads the training split, then the test split) has two such exchanges, one after the other.
"""

import dataclasses
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from zoo.errors import ConfigError, DataError, first_line
from zoo.evaluation.measures.shares import Ranks, divided, set_ranks
from zoo.registry import name_of
from zoo.storage.files import whole_file, write_text_atomically
from zoo.types import Evaluation

# What the reader of pickles raises on a damaged file, or one that holds other objects.
DAMAGED = (pickle.UnpicklingError, OSError, EOFError, RuntimeError, ValueError, TypeError, LookupError, AttributeError)


class PartDoneError(Exception):
    """The evaluation cannot continue: the results of other parts are missing."""


class EvaluationParts:
    """Files of the parts of evaluations: ``NAME/EXCHANGE/PART.pt``, each with a mark ``PART.done`` that holds its number of items.

    Args:
        folder: of the files.
        num_parts: number of parts of each evaluation.
    """

    def __init__(self, folder: Path, num_parts: int) -> None:
        self.folder, self.num_parts = folder, num_parts

    def runner(self, parts: list[int], advance: Callable[[int], None]) -> Callable[..., tuple[Any, None]]:
        """Return a function that runs an evaluation on the given parts; without parts it reads the results of all parts.

        The function raises ``PartDoneError`` if the results of other parts are missing.
        """

        def run(evaluation: Evaluation, model: Any, source: Any, split: str, **others: Any) -> tuple[Any, None]:
            name = name_of("evaluation", type(evaluation))
            if not evaluation.shares_items:
                raise ConfigError(f"evaluation: {name} does not divide its items among workers; leave out --workers and --shard")
            result = None
            for part in parts or [self.num_parts]:
                exchange = Exchange(self.folder / name, part, self.num_parts)
                try:
                    with divided(exchange.ranks()):
                        result = evaluation(model, source, split, advance=lambda items, e=exchange: _both(items, e, advance))
                except PartDoneError:
                    if not parts:
                        raise
            if parts:
                raise PartDoneError
            return result, None

        return run

    def is_done(self, evaluations: int) -> bool:
        """Return True if each exchange that was begun has the results of all parts, in as many evaluations as given."""
        names = [path for path in self.folder.glob("*") if path.is_dir()]
        exchanges = [list(name.glob("[0-9]*")) for name in names]
        return (
            len(names) >= evaluations
            and all(exchanges)
            and all(len(list(each.glob("*.done"))) == self.num_parts for several in exchanges for each in several)
        )

    def num_done(self, holds: Callable[[int], bool]) -> int:
        """Return the number of items in the finished parts that ``holds`` accepts."""
        marks = self.folder.glob("*/[0-9]*/*.done")
        return sum(int(mark.read_text(encoding="ascii")) for mark in marks if holds(int(mark.stem)))


def _both(items: int, exchange: "Exchange", advance: Callable[[int], None]) -> None:
    exchange.items += items
    advance(items)


class Exchange:
    """Exchange of results by files, for one part of one evaluation.

    Args:
        folder: of the evaluation.
        part: number of the part; ``num_parts`` for a reader without items.
        num_parts: number of parts.

    Attributes:
        items: number of items since the last exchange.
    """

    def __init__(self, folder: Path, part: int, num_parts: int) -> None:
        self.folder, self.part, self.num_parts, self.number, self.items = folder, part, num_parts, 0, 0

    def ranks(self) -> Ranks:
        """Return the ranks for the next exchange; a part that is done reads no items again."""
        done = self._mark(self.part).exists()
        return Ranks(self.num_parts if done else self.part, self.num_parts, self._gather)

    def _gather(self, own: Any) -> list[Any]:
        """Write the results of this part, and return those of all parts.

        Raises:
            PartDoneError: other parts are missing.
        """
        found, fault, skips = own
        if fault is not None:
            raise fault
        place = self.folder / f"{self.number:03d}"
        place.mkdir(parents=True, exist_ok=True)
        if self.part < self.num_parts and not self._mark(self.part).exists():
            with whole_file(place / f"{self.part:05d}.pt") as file:
                torch.save((found, skips), file)
            write_text_atomically(self._mark(self.part), str(self.items))
        if not all(self._mark(part).exists() for part in range(self.num_parts)):
            raise PartDoneError
        everyone = [_read(place / f"{part:05d}.pt") for part in range(self.num_parts)]
        self.number, self.items = self.number + 1, 0
        set_ranks(self.ranks())
        return [(results, None, state) for results, state in everyone]

    def _mark(self, part: int) -> Path:
        return self.folder / f"{self.number:03d}" / f"{part:05d}.done"


def _read(path: Path) -> Any:
    """Read the results of a part; only tensors, plain values and the dataclasses of results are made from the file, no code runs.

    Raises:
        DataError: the file is damaged, or holds other objects.
    """
    modules = [module for name, module in list(sys.modules.items()) if name.startswith(("zoo.evaluation.", "zoo.types"))]
    classes = {
        value for module in modules for value in vars(module).values() if isinstance(value, type) and dataclasses.is_dataclass(value)
    }
    try:
        with torch.serialization.safe_globals(list(classes)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGED as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)[:160]}); delete it and its .done to do this part again") from error
