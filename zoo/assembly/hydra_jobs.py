"""Hydra's own command line for training: sweeps (``-m``), launchers, ``--cfg job`` and the like."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

from hydra import compose as hydra_compose
from hydra import main as hydra_main
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from zoo.assembly.compose import ODD_VALUES, compose_leniently, hydra_session, quoted_pattern, refuse_wrong_backbones, to_plain
from zoo.assembly.config_source import register_configs
from zoo.assembly.hydra_node import refuse_code_of_hydra
from zoo.errors import ConfigError, ZooError, first_line
from zoo.registry.schemas import check_composed
from zoo.storage.outside import MAX_SHOWN, shown

FULL_ERROR = "HYDRA_FULL_ERROR"  # environment variable of Hydra


def run_with_hydra(arguments: Sequence[str], job: Callable[[dict[str, Any]], int]) -> int:
    """Let Hydra run a sweep (``-m``), or print a config (``--cfg job``); in a sweep each job has its own ``run_dir``.

    Args:
        arguments: flags and overrides of the command line.
        job: function that trains one composed config and returns an exit status.

    Returns:
        The exit status: 1 if a job failed.

    Raises:
        ConfigError: as ``compose``, before the first job starts.
    """
    flags = [word for word in arguments if word.startswith("-") or word in _values_of_flags(arguments)]
    overrides = _mend_all([quoted_pattern(word) for word in arguments if word not in flags])
    _refuse_foreign_code(overrides)
    given = [text.partition("=")[2] for text in overrides if text.startswith("run_dir=")]
    base = given[-1] if given and given[-1] != "null" else f"runs/sweep_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    overrides.append(f"hydra.sweep.dir={base}")
    failures: list[str] = []
    faults: list[Exception] = []
    level = logging.root.level

    def call(config: DictConfig) -> None:
        _restore_logging(level)
        own = HydraConfig.get()
        place = {"run_dir": f"{base}/{own.job.num}"} if own.mode == RunMode.MULTIRUN else {}
        try:
            job(check_composed(to_plain(config), "train") | place)
        except ZooError as error:
            failures.append(f"job {place.get('run_dir', base)}: {error}")
            print(f"zoo: {failures[-1]}", file=sys.stderr)
        except Exception as error:
            faults.append(error)
            raise

    register_configs()
    GlobalHydra.instance().clear()
    with _command_line(["zoo train", *flags, *overrides]):
        try:
            hydra_main(version_base="1.3", config_path=None, config_name="train")(call)()
        except (HydraException, OmegaConfBaseException, *ODD_VALUES) as error:
            if faults:  # a job's own fault, which Hydra may have wrapped
                raise faults[0] from error
            if isinstance(error, ZooError):
                raise
            raise ConfigError(f"hydra: {_reason(error)}; correct the override or the YAML file that says so") from error
        finally:
            _restore_logging(level)
    return 1 if failures else 0


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


def _restore_logging(level: int) -> None:
    """Undo ``job_logging=disabled``, which turns off every existing logger and raises the root level above warnings."""
    logging.root.setLevel(level)
    logging.getLogger("zoo").disabled = False


def _values_of_flags(arguments: Sequence[str]) -> list[str]:
    """Return the arguments that are values of the flag before them (``--cfg job``)."""
    takes = ("--cfg", "-c", "--info", "-i", "--package", "-p")
    return [after for flag, after in zip(arguments, arguments[1:], strict=False) if flag in takes]


def _mend_all(overrides: list[str]) -> list[str]:
    """Check the keys of overrides, and mend them as ``compose`` does; the values of a sweep stay as they are."""
    refuse_wrong_backbones(overrides)
    chosen = [_first_choice(text) for text in overrides]
    with hydra_session():
        _, mended = compose_leniently("train", list(chosen))
    keys = [new.removesuffix(old.removeprefix(_key(old))) for old, new in zip(chosen, mended, strict=True)]
    return [key + text.removeprefix(_key(text)) for key, text in zip(keys, overrides, strict=True)]


def _key(override: str) -> str:
    return override.partition("=")[0]


def _first_choice(text: str) -> str:
    """Return the first job's override of a sweep: ``a=1,2`` -> ``a=1``. It stands for all jobs when keys are checked."""
    return _choices(text)[0]


def _choices(text: str) -> list[str]:
    """Return the overrides that a sweep makes of one: ``a=1,2`` -> ``a=1``, ``a=2``.

    Raises:
        ConfigError: it is no override.
    """
    try:
        override = OverridesParser.create().parse_override(text)
        values = list(override.sweep_string_iterator()) if override.is_sweep_override() else None
    except (HydraException, *ODD_VALUES) as error:
        reason = first_line(error)[:MAX_SHOWN]
        raise ConfigError(f"override {shown(text)}: {reason}; write KEY=VALUE, for example training.max_steps=100") from error
    return [text] if not values else [f"{_key(text)}={value}" for value in values]


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


def _refuse_foreign_code(overrides: Sequence[str]) -> None:
    """Raise ConfigError if Hydra's own node would run code in any job that belongs to neither Hydra nor its plug-ins."""
    for chosen in _jobs_with_other_files(overrides):
        with hydra_session():
            try:
                node = hydra_compose("train", overrides=list(chosen), return_hydra_config=True).hydra
            except (HydraException, OmegaConfBaseException, *ODD_VALUES):
                continue  # composing the job itself reports the error
        refuse_code_of_hydra(OmegaConf.to_container(node, resolve=False))
