"""Rules for Hydra's own node, in which a YAML file of a search path could otherwise run any function.

Hydra imports what three places of its node name: ``_target_`` of the launcher, the sweeper and the callbacks; the logging configs, whose
factories (``()``), classes and ``ext://`` references Python's ``logging.config`` imports and calls; and the resolvers of ``${...}``.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.errors import ConfigError
from zoo.storage.outside import shown

# Launchers and sweepers of Hydra and of plug-ins that the user installed, and Optuna's samplers. Whole names only: a prefix would
# let through hydra._internal.utils.os.system, a function that Hydra's module imports.
TARGETS = re.compile(
    r"hydra\._internal\.core_plugins\.basic_(launcher\.BasicLauncher|sweeper\.BasicSweeper)"
    r"|hydra_plugins\.\w+\.\w+\.[A-Z]\w*(Launcher|Sweeper|SweeperImpl)"
    r"|optuna\.samplers\.[A-Z]\w*Sampler|hydra_plugins\.hydra_optuna_sweeper\._impl\.create_nsgaiii_sampler"
)
# Keys whose values a shell or Python runs; the user may type them as overrides, a YAML file may not hold them.
TYPED = {
    "launcher.setup": "shell commands of a job",
    "launcher.additional_parameters": "options of sbatch",
    "launcher.srun_args": "options of srun",
    "launcher.python": "a program",
    "job.env_set": "environment variables, which can make programs run others",
}
LOGGING = ("hydra_logging", "job_logging")
MADE = ("launcher", "sweeper", "callbacks", *LOGGING)  # nodes from which Hydra and logging make objects
OTHER_NODE = re.compile(r"\$\{(?!\s*(hydra[.:]|now:|python_version:))")  # ${...} that leaves Hydra's node, where nothing is checked
CLASSES = ("logging.StreamHandler", "logging.FileHandler", "logging.NullHandler", "logging.handlers.RotatingFileHandler")
FORMATTERS = ("colorlog.ColoredFormatter", "logging.Formatter")
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
RESOLVERS = ("hydra", "now", "python_version")  # Hydra's own; none of them runs code or reads the environment
NESTED = re.compile(r"\$\{\s*([\w.]+)\s*:")  # ${resolver:...}; ${key} has no colon
ALLOWED = "only Hydra's own launchers and sweepers and Python's standard log handlers are allowed there; remove it from the YAML file"


def refuse_code_of_hydra(node: Any, typed: Sequence[str] = ()) -> None:
    """Raise ConfigError if Hydra's node, not yet resolved, names code that is neither Hydra's nor that of an installed plug-in.

    Args:
        node: Hydra's node.
        typed: keys of the overrides that the user typed, for example "hydra.launcher.setup"; these may hold commands.
    """
    if not isinstance(node, Mapping):
        raise ConfigError(f"hydra: got {shown(node)}; it must be the mapping that Hydra reads: leave it out")
    _refuse_targets(node, "hydra")
    _refuse_commands(node, typed)
    for name in MADE:
        _refuse_references(node.get(name), f"hydra.{name}")
    for name in LOGGING:
        _refuse_factories(node.get(name), f"hydra.{name}")
    for name in ("launcher", "sweeper", "callbacks", "run", "sweep", "job", "env", *LOGGING):
        _refuse_resolvers(node.get(name), f"hydra.{name}")


def _refuse_targets(node: Any, key: str) -> None:
    """Raise ConfigError for a ``_target_`` of foreign code, anywhere below ``node``."""
    for name, value in _entries(node):
        here = f"{key}.{name}"
        if name == "_target_" and value != "???" and not TARGETS.fullmatch(str(value)):
            raise ConfigError(f"{here}: {shown(value)} names code; {ALLOWED}")
        if name == "custom_search_space" and value is not None:
            raise ConfigError(f"{here}: {shown(value)} names code; write the search space as overrides, KEY=interval(1,2)")
        _refuse_targets(value, here)


def _refuse_commands(node: Mapping[Any, Any], typed: Sequence[str]) -> None:
    """Raise ConfigError for commands in Hydra's node that the user did not type, and for line breaks, which sbatch would run."""
    for key, what in TYPED.items():
        group, _, name = key.partition(".")
        found = node.get(group)
        value = found.get(name) if isinstance(found, Mapping) else None
        if value and not any(word == f"hydra.{key}" or word.startswith(f"hydra.{key}.") for word in typed):
            raise ConfigError(f"hydra.{key}: {shown(value)} holds {what}; a YAML file may not: type it, 'hydra.{key}=...'")
    _refuse_line_breaks(node.get("launcher"), "hydra.launcher")


def _refuse_references(node: Any, key: str) -> None:
    """Raise ConfigError for ``${key}`` of another part of the config, which may be a mapping that names code."""
    if isinstance(node, str) and OTHER_NODE.search(node):
        raise ConfigError(f"{key}: {shown(node)} refers to a value outside of hydra; write the value itself")
    for name, value in _entries(node):
        _refuse_references(value, f"{key}.{name}")


def _refuse_line_breaks(node: Any, key: str) -> None:
    if isinstance(node, str) and not node.isprintable():
        raise ConfigError(f"{key}: {shown(node)} holds a line break or a control character; write it in one line")
    for name, value in _entries(node):
        _refuse_line_breaks(value, f"{key}.{name}")


def _refuse_factories(node: Any, key: str) -> None:
    """Raise ConfigError for what ``logging.config.dictConfig`` would import or call, but for the handlers and streams listed above."""
    for name, value in _entries(node):
        here = f"{key}.{name}"
        known = {"class": (*CLASSES, *FORMATTERS), "()": FORMATTERS, "stream": STREAMS}.get(str(name))
        if known is not None and value not in known:
            raise ConfigError(f"{here}: {shown(value)} names code; {ALLOWED} (known: {', '.join(known)})")
        # logging.config turns ext:// and cfg:// texts into objects
        if isinstance(value, str) and "://" in value and value not in STREAMS:
            raise ConfigError(f"{here}: {shown(value)} refers to code; {ALLOWED}")
        _refuse_factories(value, here)


def _refuse_resolvers(node: Any, key: str) -> None:
    """Raise ConfigError for a resolver that would read the environment, where a search path's file asks for it."""
    if isinstance(node, str):
        for word in NESTED.findall(node):
            if word not in RESOLVERS and not word.startswith("oc.") or word == "oc.env":
                raise ConfigError(f"{key}: {shown(node)} calls the resolver {word!r}; allowed are {', '.join(RESOLVERS)} and ${{KEY}}")
    for name, value in _entries(node):
        _refuse_resolvers(value, f"{key}.{name}")


def _entries(node: Any) -> list[tuple[Any, Any]]:
    if isinstance(node, Mapping):
        return list(node.items())
    return list(enumerate(node)) if isinstance(node, list | tuple) else []
