"""Options of every command that can share its items among several processes; no torch is imported here."""

from argparse import ArgumentParser, Namespace
from typing import Any

from zoo.errors import ConfigError
from zoo.runs.jobs.shares import Share, read_share

SHARES_WORK = ("embed", "classify", "transcribe", "answer", "evaluate")


def add_worker_options(command: ArgumentParser) -> None:
    """Add ``--workers``, ``--launcher``, ``--launcher-option`` and ``--shard``."""
    group = command.add_argument_group("many workers", "(zoo guide: assets/guide/jobs.md)")
    group.add_argument("--workers", type=int, metavar="N", help="share the items among N processes; the same command resumes the job")
    group.add_argument("--launcher", metavar="L", help="what starts the workers: local (default), submitit (Slurm) or ray")
    group.add_argument(
        "--launcher-option", action="append", metavar="K=V", help="setting of submitit or ray, for example slurm_partition=gpu; repeatable"
    )
    group.add_argument(
        "--shard", metavar="I/N", help="do share I (from 0) of N and end, for job arrays; then the same command without --shard joins them"
    )


def share_of(options: Namespace) -> Share | None:
    """Return the share of ``--shard``; None without it.

    Raises:
        ConfigError: another form, options that exclude each other, or ``--workers`` below 1.
    """
    if options.workers is not None and options.workers < 1:
        raise ConfigError(f"--workers: {options.workers}; allowed is 1 or more processes")
    for option, value in (("--launcher", options.launcher), ("--launcher-option", options.launcher_option)):
        if value is not None and options.workers is None:
            raise ConfigError(f"{option}: {value}, but nothing is launched; add --workers N")
    if options.shard is None:
        return None
    if options.workers is not None:
        raise ConfigError("--shard: this process is one of several workers, so that --workers has no meaning; give one of the two")
    return read_share(options.shard)


def shares_work(options: Namespace) -> bool:
    """Return True if the command line asks for several processes, or for one share of several.

    Raises:
        ConfigError: as ``share_of``.
    """
    return share_of(options) is not None or options.workers is not None


def launcher_options(options: Namespace) -> dict[str, Any]:
    """Return the settings of ``--launcher-option``, with numbers as numbers.

    Raises:
        ConfigError: a setting is not KEY=VALUE.
    """
    import yaml

    found = {}
    for text in options.launcher_option or ():
        key, equals, value = text.partition("=")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            found[key] = value
        if not key or not equals:
            raise ConfigError(f"--launcher-option: got {text!r}; allowed is KEY=VALUE, for example gpus_per_node=1")
    return found
