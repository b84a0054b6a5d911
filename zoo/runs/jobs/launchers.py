"""Launchers of workers: processes of this machine, jobs of submitit (Slurm), tasks of Ray.

A launcher starts a command line and tells how it ended; it knows nothing of items and parts, and a worker that is started again does
what is missing. submitit and Ray are imported when they are chosen.
"""

import os
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from zoo.errors import ConfigError, first_line, name_choices

PARENT = "ZOO_JOB_PARENT"  # environment of a local worker: id of the process that started it
LOST = 255  # status of a worker whose engine lost it
GRACE_S = 10.0  # for a worker to end by itself after it was asked to


class Worker(ABC):
    """A started worker."""

    @abstractmethod
    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while the worker runs or waits to be run."""

    @abstractmethod
    def stop(self) -> None:
        """End the worker now."""


class Launcher(ABC):
    """Starter of workers.

    Args:
        options: settings of the engine, by name.
        workers: number of workers that will run at the same time.
    """

    extra = ""  # of pip, if the engine is no dependency of zoo

    def __init__(self, options: Mapping[str, Any], workers: int) -> None:
        self.options, self.workers = dict(options), workers

    @abstractmethod
    def start(self, command: Sequence[str], number: int, log: Path) -> Worker:
        """Start a command line as worker ``number``; its output goes to the file ``log``."""

    def close(self) -> None:  # noqa: B027  # most engines hold nothing
        """Release the engine."""


class LocalWorker(Worker):
    """A process of this machine."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while it runs."""
        return self.process.poll()

    def stop(self) -> None:
        """Interrupt the process as Ctrl-C does; kill it if it does not end soon."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Local(Launcher):
    """Processes of this machine; with several GPUs, each process sees one of them, in turns, and cores are shared out."""

    def __init__(self, options: Mapping[str, Any], workers: int) -> None:
        super().__init__(options, workers)
        if options:
            raise ConfigError(f"--launcher-option: {next(iter(options))}: the launcher local has no options; leave it out")
        self.gpus = visible_gpus()

    def start(self, command: Sequence[str], number: int, log: Path) -> Worker:
        """Start a process."""
        threads = max(1, (os.cpu_count() or 1) // self.workers)
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ, PARENT: str(os.getpid())}
        if self.gpus and not any("cuda:" in word for word in command):  # a GPU that the user names stays visible under its number
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[number % len(self.gpus)]
        with log.open("ab") as file:
            process = subprocess.Popen(list(command), stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment)
        return LocalWorker(process)


def visible_gpus() -> list[str]:
    """Return the names of the GPUs of this process, as ``CUDA_VISIBLE_DEVICES`` takes them; empty without a GPU."""
    import torch

    count = torch.cuda.device_count()
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return names[:count] if len(names) >= count else [str(number) for number in range(count)]


def call(command: Sequence[str], log: str) -> int:
    """Run a command line to its end, in the process that an engine started; return its status."""
    with open(log, "ab") as file:
        environment = {**os.environ, PARENT: str(os.getpid())}
        return subprocess.call(list(command), stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment)


class SubmititWorker(Worker):
    """A job of submitit."""

    def __init__(self, job: Any) -> None:
        self.job = job

    def poll(self) -> int | None:
        """Return the exit status, ``LOST`` if the job ended without one; None while it waits or runs."""
        if not self.job.done():
            return None
        fault = self.job.exception()
        return self.job.result() if fault is None else LOST

    def stop(self) -> None:
        """Cancel the job."""
        self.job.cancel(check=False)


class Submitit(Launcher):
    """Jobs of submitit: of Slurm if this machine has it, else processes of this machine.

    Options are those of submitit's ``update_parameters``, for example ``slurm_partition=gpu``, ``gpus_per_node=1``, ``timeout_min=600``;
    ``cluster`` chooses ``slurm`` or ``local``.
    """

    extra = "submitit"

    def __init__(self, options: Mapping[str, Any], workers: int) -> None:
        super().__init__(options, workers)
        self.cluster = self.options.pop("cluster", None)

    def start(self, command: Sequence[str], number: int, log: Path) -> Worker:
        """Submit a job."""
        import submitit

        try:
            executor = submitit.AutoExecutor(folder=str(log.parent / "submitit"), cluster=self.cluster)
            executor.update_parameters(**{"timeout_min": 60 * 24, "name": "zoo", **self.options})
        except (TypeError, ValueError, NameError, AssertionError, RuntimeError) as error:  # an unknown option or cluster
            raise ConfigError(f"--launcher-option: submitit refuses an option ({first_line(error)}); see its update_parameters") from error
        return SubmititWorker(executor.submit(call, list(command), str(log)))


class RayWorker(Worker):
    """A task of Ray."""

    def __init__(self, ray: Any, reference: Any) -> None:
        self.ray, self.reference = ray, reference

    def poll(self) -> int | None:
        """Return the exit status, ``LOST`` if Ray lost the task; None while it waits or runs."""
        if not self.ray.wait([self.reference], timeout=0)[0]:
            return None
        try:
            return self.ray.get(self.reference)
        except self.ray.exceptions.RayError:
            return LOST

    def stop(self) -> None:
        """Cancel the task."""
        self.ray.cancel(self.reference, force=True)


class Ray(Launcher):
    """Tasks of Ray: one per worker; the cluster of ``address``, else a local one.

    Options: ``address``, and those of a task, for example ``num_cpus=4`` and ``num_gpus=1``.
    """

    extra = "ray"

    def __init__(self, options: Mapping[str, Any], workers: int) -> None:
        super().__init__(options, workers)
        ray: Any = import_module("ray")  # an extra that the test environment lacks
        address = self.options.pop("address", None)
        self.ray, self.mine = ray, not ray.is_initialized()
        if self.mine:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **({} if address else {"include_dashboard": False}))

    def start(self, command: Sequence[str], number: int, log: Path) -> Worker:
        """Start a task."""
        try:
            task = self.ray.remote(call).options(max_retries=0, **self.options)
            return RayWorker(self.ray, task.remote(list(command), str(log)))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"--launcher-option: Ray refuses an option ({first_line(error)}); see ray.remote") from error

    def close(self) -> None:
        """Stop the local cluster, if this launcher started it."""
        if self.mine:
            self.ray.shutdown()


LAUNCHERS: dict[str, type[Launcher]] = {"local": Local, "submitit": Submitit, "ray": Ray}


def make_launcher(name: str, options: Mapping[str, Any], workers: int) -> Launcher:
    """Return a launcher by its name.

    Raises:
        ConfigError: there is no such launcher, its library is not installed, or it refuses an option.
    """
    if name not in LAUNCHERS:
        raise ConfigError(f"--launcher: there is no {name!r}; {name_choices(name, LAUNCHERS)}")
    try:
        return LAUNCHERS[name](options, workers)
    except ImportError as error:
        extra = LAUNCHERS[name].extra
        raise ConfigError(f"--launcher: {name} is not installed ({first_line(error)}); install it with: zoo install {extra}") from error


def worker_command(arguments: Sequence[str], number: int, workers: int) -> list[str]:
    """Return the command line of a worker: that of the job, with ``--shard`` instead of the options of launching."""
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        name, equals, _ = word.partition("=")
        if name in ("--workers", "--launcher", "--launcher-option"):
            if not equals:
                next(words, None)
        elif name != "--restart":  # the job was cleared once, before its workers
            kept.append(word)
    return [sys.executable, "-m", "zoo", *kept, "--shard", f"{number}/{workers}"]
