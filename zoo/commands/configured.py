"""Commands with a config: ``zoo check``, ``zoo train`` and ``zoo evaluate``, and the flags of Hydra that they take."""

import os
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from zoo.assembly.compose import apply_overrides, compose
from zoo.assembly.hydra_flags import read_flags
from zoo.commands.model_options import as_overrides
from zoo.errors import ConfigError, Interrupted

NO_RUN = ("resume=null", "resume=auto")  # overrides that name no run, so that the whole config is composed


def composed(config_name: str, words: Sequence[str]) -> dict[str, Any]:
    """Compose the config of a command that runs no sweep.

    Raises:
        ConfigError: as ``compose``; or a flag that only ``zoo train`` and ``zoo evaluate`` take.
    """
    flags = read_flags(words)
    if flags.words:
        raise ConfigError(f"{flags.words[0]}: only zoo train and zoo evaluate take this flag")
    return compose(config_name, flags.overrides, **flags.where())


def check_command(options: Namespace, words: list[str]) -> int:
    """Check a training config and print its data flow."""
    from zoo.assembly.quick_check import quick_check

    config = composed("train", words)
    quick_check(config)  # a wrong combination is refused before torch is imported

    from zoo.runs.check import check

    report = check(config)
    planned = None
    if options.world_size is not None:
        from zoo.runs.planning.plan import plan

        planned = plan(config, options.world_size)

    from zoo.commands.display import show_check

    show_check(report, planned, as_json=options.json)
    return 0


def train_command(options: Namespace, words: list[str]) -> int:
    """Train one config, resume a run, or let Hydra run a sweep."""
    flags, as_json = read_flags(words), options.json
    if flags.words:
        from zoo.assembly.hydra_jobs import run_with_hydra

        status = run_with_hydra(words, lambda config: _train_job(config, as_json))
    elif resume := [word.partition("=")[2] for word in flags.overrides if word.startswith("resume=") and word not in NO_RUN]:
        from zoo.runs.run_directory import read_run_config

        changes = [word for word in flags.overrides if not word.startswith(("resume=", "run_dir="))]
        status = _train_one({**apply_overrides(read_run_config(resume[-1]), changes), "resume": resume[-1]}, as_json)
    else:
        status = _train_one(compose("train", flags.overrides, **flags.where()), as_json)
    if status == 0:
        from zoo.losses.distributed import leave

        leave()
    return status


def _train_job(config: dict[str, Any], as_json: bool) -> float | None:
    """Train one job of a sweep; returns its score."""
    from zoo.runs.sweep_training import train_job

    return train_job(config, lambda each: _train_one(each, as_json))


def _train_one(config: dict[str, Any], as_json: bool) -> int:
    from zoo.commands.display import show_trained, training_progress
    from zoo.losses.distributed import leave
    from zoo.runs.train import train

    try:
        with training_progress(config, as_json=as_json) as progress:
            result = train(config, progress=progress)
    except Interrupted:  # of all ranks at the same step
        leave()
        raise
    if int(os.environ.get("RANK", "0")) == 0:
        show_trained(result, as_json=as_json)
    return 0


def evaluate_command(options: Namespace, words: list[str]) -> int:
    """Evaluate one config, or let Hydra run a sweep of evaluations."""
    from zoo.commands import evaluate
    from zoo.losses.distributed import leave

    given = [*as_overrides(options), *words]
    flags = read_flags(given)
    if flags.words:
        from zoo.assembly.hydra_jobs import run_with_hydra

        return run_with_hydra(given, lambda config: evaluate.evaluate_once(config, options.json), config_name="evaluate")
    status = evaluate.evaluate_command(options, compose("evaluate", flags.overrides, **flags.where()))
    leave()
    return status
