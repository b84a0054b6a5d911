"""Jobs of a sweep: each has a record, by which the same command skips finished jobs and repeats the others.

A sweep's directory holds one directory per job, ``0``, ``1``, ..., and the records in ``.jobs``. A record says with which overrides the
job ran, and how far it came: started, done (with its score), failed (with its error) or stopped.
"""

import json
import logging
import os
import sys
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra import __version__ as hydra_version
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import DictConfig

from zoo.assembly.compose import to_plain
from zoo.errors import ConfigError, Interrupted, ZooError
from zoo.registry.schemas import check_composed
from zoo.storage.files import write_text_atomically
from zoo.storage.outside import printable, read_json_object

PLACES = {"train": "run_dir", "evaluate": "output"}  # key of the directory of one job
RECORDS, SUBMITTED = ".jobs", ".submitit"
STARTED, DONE, FAILED, STOPPED = "started", "done", "failed", "stopped"
LAUNCHING = ("hydra/", "hydra.")  # overrides that do not change what a job computes
GOES_ON = "the same command goes on with the sweep"
OPTUNA = "hydra/sweeper=optuna"


@dataclass
class SweepJob:
    """One job of a sweep, called by Hydra's launcher with its config; or the only job of a command without a sweep.

    Launchers pickle it, so that it may run in another process or on another machine.

    Args:
        job: function that runs a plain config and returns its score or None.
        base: directory of the sweep.
        config_name: "train" or "evaluate".

    Attributes:
        session: name of this call of the command; its records tell what happened in it.
        faults: exceptions of jobs in this process that are no errors of the user.
        told: jobs whose error this process has printed.
        interrupted: reason why the user or a scheduler stopped the sweep.
    """

    job: Callable[[dict[str, Any]], Any]
    base: Path
    config_name: str
    session: str = field(default_factory=lambda: uuid.uuid4().hex)
    parent: int = field(default_factory=os.getpid)
    level: int = field(default_factory=lambda: logging.root.level)
    faults: list[Exception] = field(default_factory=list)
    told: set[int] = field(default_factory=set)
    interrupted: Interrupted | None = None

    def __call__(self, config: DictConfig) -> Any:
        """Run the job unless a record says that it is done; returns its score, or None if it failed."""
        restore_logging(self.level)
        own = HydraConfig.get()
        if own.mode != RunMode.MULTIRUN:
            return self.job(check_composed(to_plain(config), self.config_name))
        number = int(own.job.num)
        overrides = [text for text in own.overrides.task if not text.startswith(LAUNCHING)]
        try:
            before = self._record_before(number, overrides)
            if before.get("status") == DONE and (self.base / str(number)).is_dir():
                self._write(number, {**before, "skipped": True})
                return before.get("score")
            return self._run(config, number, overrides)
        except ZooError as error:
            return self._failed(number, overrides, error)

    def _run(self, config: DictConfig, number: int, overrides: list[str]) -> Any:
        """Run the job and record its start and its end."""
        record = {"overrides": overrides}
        self._write(number, {**record, "status": STARTED})
        plain = check_composed(to_plain(config), self.config_name) | {PLACES[self.config_name]: str(self.base / str(number))}
        try:
            score = self.job(plain)
        except ZooError:
            raise
        except Exception as error:  # recorded here, and reported where all faults end
            self.faults.append(error)
            self._write(number, {**record, "status": FAILED, "error": f"{type(error).__name__}: {error}"})
            raise
        score = float(score) if isinstance(score, int | float) else None
        self._write(number, {**record, "status": DONE, "score": score})
        return score

    def _failed(self, number: int, overrides: list[str], error: ZooError) -> None:
        """Record an error of the user, and print it if this process has the terminal; a user who stops a job stops the sweep."""
        stopped = isinstance(error, Interrupted)
        self._write(number, {"overrides": overrides, "status": STOPPED if stopped else FAILED, "error": str(error)})
        if os.getpid() == self.parent:
            if isinstance(error, Interrupted):
                self.interrupted = Interrupted(f"sweep stopped in job {self.base / str(number)}: {error}; {GOES_ON}", error.status)
                raise KeyboardInterrupt from error  # Hydra starts the next job after any other exception
            self._tell(number, str(error))

    def _record_before(self, number: int, overrides: list[str]) -> dict[str, Any]:
        """Return the record of an earlier call; empty if there is none.

        Raises:
            ConfigError: the job of this number had other overrides.
        """
        path = self._path(number)
        if not path.exists():
            return {}
        record = read_json_object(path, ConfigError)
        if record.get("overrides") != overrides and record.get("status") != FAILED:
            before = printable(" ".join(map(str, record.get("overrides") or [])))
            raise ConfigError(
                f"{self.base / str(number)}: belongs to a job with {before}, but this one has {' '.join(overrides)}; choose another "
                f"{PLACES[self.config_name]} for this sweep"
            )
        return record

    def _path(self, number: int) -> Path:
        return self.base / RECORDS / f"{number}.json"

    def _write(self, number: int, record: dict[str, Any]) -> None:
        self._path(number).parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**record, "session": self.session}, indent=1, ensure_ascii=False)
        write_text_atomically(self._path(number), text + "\n")

    def _tell(self, number: int, error: str) -> None:
        self.told.add(number)
        print(f"zoo: job {self.base / str(number)}: {printable(error)}", file=sys.stderr)

    def records(self) -> dict[int, dict[str, Any]]:
        """Return the records of this call by the number of their job."""
        paths = sorted((self.base / RECORDS).glob("*.json"), key=lambda path: int(path.stem))
        found = {int(path.stem): read_json_object(path, ConfigError) for path in paths}
        return {number: record for number, record in found.items() if record.get("session") == self.session}

    def failed(self) -> list[int]:
        """Return the jobs of this call that failed."""
        return [number for number, record in self.records().items() if record["status"] == FAILED]

    def unfinished(self) -> list[int]:
        """Return the jobs of this call that were killed or stopped."""
        return [number for number, record in self.records().items() if record["status"] in (STARTED, STOPPED)]

    def report(self) -> int:
        """Print which jobs were skipped, failed or killed; returns 0 if all are done, else 1."""
        records = self.records()
        skipped = sum(record.get("skipped", False) for record in records.values())
        for number, record in records.items():
            if record["status"] == STARTED:
                self._tell(number, "was killed")
            elif "error" in record and number not in self.told:
                self._tell(number, record["error"])
        bad = len(self.failed()) + len(self.unfinished())
        if skipped or bad:
            done = sum(record["status"] == DONE for record in records.values()) - skipped
            told = f"{done} jobs done now, {skipped} done before, {len(self.failed())} failed, {len(self.unfinished())} killed or stopped"
            print(f"zoo: sweep {self.base}: {told}" + (f"; {GOES_ON}" if bad else ""), file=sys.stderr)
        self._tell_best(records)
        return 1 if bad else 0

    def _tell_best(self, records: dict[int, dict[str, Any]]) -> None:
        """Print the job with the highest score, and the overrides that only it has."""
        scores = {number: record["score"] for number, record in records.items() if isinstance(record.get("score"), int | float)}
        if len(scores) > 1:
            best = max(scores, key=lambda number: scores[number])
            others = [record["overrides"] for number, record in records.items() if number != best]
            own = [text for text in records[best]["overrides"] if not all(text in other for other in others)]
            print(f"zoo: best: job {self.base / str(best)} with {scores[best]:.6g}: {' '.join(own)}", file=sys.stderr)


def restore_logging(level: int) -> None:
    """Undo ``job_logging=disabled``, which turns off every existing logger and raises the root level above warnings."""
    logging.root.setLevel(level)
    for name in ("zoo", *logging.root.manager.loggerDict):
        if name == "zoo" or name.startswith("zoo."):
            logging.getLogger(name).disabled = False


def defaults_of_sweeper(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that Optuna needs here, as far as the user gives no others.

    Scores are better if higher. A fixed seed repeats the proposals, so that the same command finds its finished jobs by number.
    """
    if OPTUNA not in overrides:
        return []
    keys = [text.partition("=")[0].lstrip("+") for text in overrides]
    wanted = {"hydra.sweeper.direction": "maximize", "hydra.sweeper.sampler.seed": "0"}
    if "hydra/launcher" not in keys:
        wanted["hydra.sweeper.n_jobs"] = "1"  # jobs run one after the other, and each proposal can use all scores before
    if hydra_version.startswith("1.3.") and find_spec("hydra_plugins.hydra_optuna_sweeper") is not None:
        # The plug-in's outer class needs instantiate() of Hydra 1.4; the inner one is a sweeper too, but Hydra does not find it itself.
        inner = import_module("hydra_plugins.hydra_optuna_sweeper._impl").OptunaSweeperImpl
        Plugins.instance().register(inner)
        wanted["hydra.sweeper._target_"] = f"{inner.__module__}.{inner.__name__}"
    return [f"{key}={value}" for key, value in wanted.items() if key not in keys]


def wait_for_local_jobs(base: Path) -> None:
    """Wait for the processes that submitit started on this machine; it gives up waiting at the first that was killed."""
    for folder in (base / SUBMITTED).glob("*"):
        if folder.name.isdigit():  # submitit names the folder by the id of the process
            with suppress(ChildProcessError):
                os.waitpid(int(folder.name), 0)
