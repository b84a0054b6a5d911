"""Hydra's own command line for training and evaluation: sweeps (``-m``), launchers, ``--cfg job`` and the like."""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import main as hydra_main
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from zoo.assembly.compose import ODD_VALUES, compose_leniently, hydra_session, quoted_pattern, refuse_wrong_backbones, with_named_null
from zoo.assembly.config_source import register_configs
from zoo.assembly.hydra_flags import HydraFlags, read_flags
from zoo.assembly.hydra_node import refuse_code_of_hydra
from zoo.assembly.sweep_jobs import PLACES, SweepJob, defaults_of_sweeper, restore_logging, wait_for_local_jobs
from zoo.errors import ConfigError, ZooError, first_line
from zoo.storage.outside import MAX_SHOWN, shown

FULL_ERROR = "HYDRA_FULL_ERROR"  # environment variable of Hydra


def run_with_hydra(arguments: Sequence[str], job: Callable[[dict[str, Any]], Any], *, config_name: str = "train") -> int:
    """Let Hydra run a sweep (``-m``), or print a config (``--cfg job``); in a sweep each job has its own directory.

    The same sweep again, with the same ``run_dir`` or without one, skips its finished jobs and repeats the others; see ``SweepJob``.

    Args:
        arguments: flags and overrides of the command line.
        job: function that runs one composed config and returns its score, which a sweeper such as Optuna makes as large as it can.
        config_name: "train" or "evaluate".

    Returns:
        The exit status: 1 if a job failed.

    Raises:
        ConfigError: as ``compose``, before the first job starts.
    """
    flags = read_flags(arguments)
    primary = flags.config_name or config_name
    overrides = _mend_all([with_named_null(quoted_pattern(word)) for word in flags.overrides], flags, primary)
    _refuse_foreign_code(overrides, flags, primary)
    base = _base_of(overrides, config_name, primary)
    overrides += [f"hydra.sweep.dir={_quoted(base)}", *defaults_of_sweeper(overrides)]
    sweep = SweepJob(job, Path(base), config_name)
    register_configs()
    GlobalHydra.instance().clear()
    folder = [] if flags.config_dir is None else ["--config-dir", str(flags.config_dir)]
    with _command_line([f"zoo {config_name}", *flags.words, *folder, *overrides]):
        try:
            hydra_main(version_base="1.3", config_path=None, config_name=primary)(sweep)()
        except (HydraException, OmegaConfBaseException, *ODD_VALUES) as error:
            if sweep.faults:  # a job's own fault, which Hydra may have wrapped
                raise sweep.faults[0] from error
            if isinstance(error, ZooError) or sweep.failed():
                raise
            raise ConfigError(f"hydra: {_reason(error)}; correct the override or the YAML file that says so") from error
        except KeyboardInterrupt:
            if sweep.interrupted is None:
                raise
            raise sweep.interrupted from None
        except RuntimeError:  # of a launcher, one of whose processes was killed
            wait_for_local_jobs(Path(base))
            if not sweep.unfinished():
                raise
        finally:
            restore_logging(sweep.level)
    return sweep.report() if flags.multirun else 0


def _base_of(overrides: Sequence[str], config_name: str, primary: str) -> str:
    """Return the directory of a sweep: that of ``run_dir`` (``output`` of an evaluation), or one that follows from the overrides.

    The launcher is no part of the name: a sweep may go on with another one.
    """
    key = PLACES[config_name]
    given = [OverridesParser.create().parse_override(text).value() for text in overrides if text.startswith(f"{key}=")]
    if given and given[-1] is not None:
        return str(given[-1])
    rest = [text for text in overrides if not text.startswith((f"{key}=", "hydra/launcher", "hydra.launcher"))]
    name = hashlib.sha256("\n".join([primary, *sorted(rest)]).encode()).hexdigest()[:8]
    return f"runs/{'sweep' if config_name == 'train' else 'evaluations'}_{name}"


def _quoted(text: str) -> str:
    """Return a text as Hydra's quoted string."""
    return "'" + text.replace("'", "\\'") + "'"


def _reason(error: Exception) -> str:
    """Return an error of Hydra, or of Python's logging under it, in one line with its cause."""
    parts = [first_line(each)[:MAX_SHOWN] for each in (error, error.__cause__) if each is not None]
    return f"{type(error).__name__}: {': '.join(parts)}"


@contextmanager
def _command_line(words: list[str]) -> Iterator[None]:
    """Context in which Hydra reads its arguments from these words, and raises its errors instead of printing them and leaving."""
    old, full = sys.argv, os.environ.get(FULL_ERROR)
    sys.argv, os.environ[FULL_ERROR] = words, "1"
    try:
        yield
    finally:
        sys.argv = old
        os.environ.pop(FULL_ERROR) if full is None else os.environ.update({FULL_ERROR: full})


def _mend_all(overrides: list[str], flags: HydraFlags, primary: str) -> list[str]:
    """Check the keys of overrides, and mend them as ``compose`` does; the values of a sweep stay as they are."""
    refuse_wrong_backbones(overrides)
    with hydra_session(flags.config_dir):
        chosen = [_choices(text)[0] for text in overrides] if flags.multirun else list(overrides)
        _, mended = compose_leniently(primary, list(chosen))
    keys = [new.removesuffix(old.removeprefix(_key(old))) for old, new in zip(chosen, mended, strict=True)]
    return [key + text.removeprefix(_key(text)) for key, text in zip(keys, overrides, strict=True)]


def _key(override: str) -> str:
    return override.partition("=")[0]


def _choices(text: str) -> list[str]:
    """Return the overrides that a sweep makes of one: ``a=1,2`` -> ``a=1``, ``a=2``; of an interval, its start stands for all.

    The first one stands for all jobs when keys are checked. Call it in a ``hydra_session``, whose files ``glob(*)`` chooses among.

    Raises:
        ConfigError: it is no override, or a glob that matches nothing.
    """
    try:
        override = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader()).parse_overrides([text])[0]
        if not override.is_sweep_override():
            return [text]
        value = override.value()
        values = [value.start] if isinstance(value, IntervalSweep) else list(override.sweep_string_iterator())
    except (HydraException, *ODD_VALUES) as error:
        reason = first_line(error)[:MAX_SHOWN]
        raise ConfigError(f"override {shown(text)}: {reason}; write KEY=VALUE, for example training.max_steps=100") from error
    if not values:
        raise ConfigError(f"override {shown(text)}: matches no option; see the options with: zoo train --help")
    return [f"{_key(text)}={value}" for value in values]


def _jobs_with_other_files(overrides: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield the overrides of the jobs of a sweep that may read other YAML files; numbers choose no file, so one stands for all."""
    choices = [_choices(text) for text in overrides]
    return product(*(each if any(map(_may_be_a_name, each)) else each[:1] for each in choices))


def _may_be_a_name(override: str) -> bool:
    try:
        float(override.partition("=")[2])
    except ValueError:
        return True
    return False


def _refuse_foreign_code(overrides: Sequence[str], flags: HydraFlags, primary: str) -> None:
    """Raise ConfigError if Hydra's own node would run code in any job that belongs to neither Hydra nor its plug-ins."""
    typed = [_key(text).lstrip("+") for text in overrides]
    with hydra_session(flags.config_dir):
        for chosen in list(_jobs_with_other_files(overrides)) if flags.multirun else [tuple(overrides)]:
            try:
                node = hydra_compose(primary, overrides=list(chosen), return_hydra_config=True).hydra
            except (HydraException, OmegaConfBaseException, *ODD_VALUES):
                continue  # composing the job itself reports the error
            refuse_code_of_hydra(OmegaConf.to_container(node, resolve=False), typed)
