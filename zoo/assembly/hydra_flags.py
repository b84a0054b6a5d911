"""Hydra's flags on our command line: own folders of YAML (``--config-dir``), ``--config-name``, sweeps and what Hydra prints."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from zoo.errors import ConfigError
from zoo.storage.outside import read_yaml_object

SHOWN = ("job", "hydra", "all")  # by --cfg
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
HELP = {  # flag -> help; the first line of ``zoo train --help`` about each
    ("--multirun", "-m"): "run a sweep: one job for each combination of values, KEY=A,B or 'KEY=range(1,4)', 'KEY=glob(*)'",
    ("--config-dir", "-cd"): "own folder of YAML, laid out as conf/: experiment/mine.yaml is experiment=mine",
    ("--config-name", "-cn"): "own entry config in that folder, in place of ours",
    ("--cfg", "-c"): f"print the config and stop: {', '.join(SHOWN)}",
    ("--resolve",): "with --cfg: replace ${...} by values",
    ("--package", "-p"): "with --cfg: print only this part, for example training",
    ("--info", "-i"): f"print how the config is found and stop: {', '.join(INFO)}",
    ("--hydra-help",): "print Hydra's own help",
}
REFUSED = {
    "--experimental-rerun": "reads a pickle, which can run code; use resume=RUN_DIR",
    "--config-path": "is not used by zoo; give your folder with --config-dir",
    "-cp": "is not used by zoo; give your folder with --config-dir",
    "--shell-completion": "is replaced by: zoo completion bash|zsh|fish",
    "-sc": "is replaced by: zoo completion bash|zsh|fish",
}


@dataclass(frozen=True)
class HydraFlags:
    """Arguments of a command line with a config.

    Attributes:
        overrides: the words that are no flags.
        config_dir: own folder of YAML files, absolute; None if there is none.
        config_name: entry config in place of ours; None uses ours.
        words: flags for Hydra's own command line; empty if nothing but composing is needed.
        multirun: a sweep.
    """

    overrides: tuple[str, ...] = ()
    config_dir: Path | None = None
    config_name: str | None = None
    words: tuple[str, ...] = ()
    multirun: bool = False

    def where(self) -> dict[str, Any]:
        """Return the keywords of ``compose`` that say where YAML is found."""
        return {"config_dir": self.config_dir, "primary": self.config_name}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see the flags with: zoo train --help")


def read_flags(words: Sequence[str]) -> HydraFlags:
    """Split the words of a command line into Hydra's flags and overrides.

    Raises:
        ConfigError: an unknown flag, a flag without its value, two flags that exclude each other, or a folder that does not exist.
    """
    for word in words:
        if (reason := REFUSED.get(word.partition("=")[0])) is not None:
            raise ConfigError(f"{word}: {reason}")
    found, unknown = _parser().parse_known_intermixed_args(_with_all(words))
    if unknown:
        raise ConfigError(f"{unknown[0]}: there is no such flag; see the flags with: zoo train --help")
    chosen = [name for name in ("multirun", "cfg", "info", "hydra_help") if getattr(found, name)]
    if len(chosen) > 1:
        raise ConfigError(f"--{' and --'.join(chosen)}: give only one of them")
    folder = _checked_folder(found.config_dir)
    if found.config_name is not None:
        refuse_packages(folder, found.config_name)
    words_for_hydra = _flags(found) if chosen else ()
    return HydraFlags(tuple(found.overrides), folder, found.config_name, words_for_hydra, found.multirun)


def _with_all(words: Sequence[str]) -> list[str]:
    """Return the words with ``all`` after an ``--info`` that has no value; argparse would take the override after it."""
    found: list[str] = []
    for word, after in zip(words, [*words[1:], ""], strict=False):
        found += [word, "all"] if word in ("--info", "-i") and after not in INFO else [word]
    return found


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(add_help=False, allow_abbrev=False, prog="zoo")
    for names, text in HELP.items():
        if names[0] in ("--multirun", "--resolve", "--hydra-help"):
            parser.add_argument(*names, action="store_true", help=text)
        else:
            parser.add_argument(*names, choices={"--cfg": SHOWN, "--info": INFO}.get(names[0]), help=text)
    parser.add_argument("overrides", nargs="*")
    return parser


def _flags(found: argparse.Namespace) -> tuple[str, ...]:
    """Return the flags as Hydra's own parser reads them."""
    words = [f"--{name.replace('_', '-')}" for name in ("multirun", "resolve", "hydra_help") if getattr(found, name)]
    for name in ("cfg", "package", "info"):
        if (value := getattr(found, name)) is not None:
            words += [f"--{name}", value]
    return tuple(words)


def _checked_folder(folder: str | None) -> Path | None:
    if folder is None:
        return None
    if not Path(folder).is_dir():
        raise ConfigError(f"--config-dir: there is no folder {folder}; give a folder with YAML files such as experiment/mine.yaml")
    return Path(folder).resolve()


def refuse_packages(folder: Path | None, name: str) -> None:
    """Raise ConfigError if an own entry config does not exist, or has a search path of Python packages, which Hydra would import."""
    path = None if folder is None else folder / f"{name.removesuffix('.yaml')}.yaml"
    if path is None or not path.is_file():
        if name not in ("train", "evaluate"):
            raise ConfigError(f"--config-name: there is no {path or f'{name}.yaml'}; give its folder with --config-dir")
        return
    node = read_yaml_object(path, ConfigError).get("hydra")
    entries = node.get("searchpath") if isinstance(node, dict) else None
    for entry in entries if isinstance(entries, list) else [entries]:
        if entry is not None and (not isinstance(entry, str) or "${" in entry or "://" in entry and not entry.startswith("file://")):
            raise ConfigError(f"{path}: hydra.searchpath: got {entry!r}; a file may name folders only (file://PATH or PATH)")
