"""Rules for Hydra's own node, in which a YAML file of a search path could otherwise run any function.

Hydra imports what three places of its node name: ``_target_`` of the launcher, the sweeper and the callbacks; the logging configs, whose
factories (``()``), classes and ``ext://`` references Python's ``logging.config`` imports and calls; and the resolvers of ``${...}``.
"""

import re
from collections.abc import Mapping
from typing import Any

from zoo.errors import ConfigError
from zoo.storage.outside import shown

TARGETS = ("hydra._internal.", "hydra_plugins.")  # Hydra's classes, and those of plug-ins that the user installed
LOGGING = ("hydra_logging", "job_logging")
CLASSES = ("logging.StreamHandler", "logging.FileHandler", "logging.NullHandler", "logging.handlers.RotatingFileHandler")
FORMATTERS = ("colorlog.ColoredFormatter", "logging.Formatter")
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
RESOLVERS = ("hydra", "now", "python_version")  # Hydra's own; none of them runs code or reads the environment
NESTED = re.compile(r"\$\{\s*([\w.]+)\s*:")  # ${resolver:...}; ${key} has no colon
ALLOWED = "only Hydra's own launchers and sweepers and Python's standard log handlers are allowed there; remove it from the YAML file"


def refuse_code_of_hydra(node: Any) -> None:
    """Raise ConfigError if Hydra's node, not yet resolved, names code that is neither Hydra's nor that of an installed plug-in."""
    if not isinstance(node, Mapping):
        raise ConfigError(f"hydra: got {shown(node)}; it must be the mapping that Hydra reads: leave it out")
    _refuse_targets(node, "hydra")
    for name in LOGGING:
        _refuse_factories(node.get(name), f"hydra.{name}")
    for name in ("launcher", "sweeper", "callbacks", "run", "sweep", "job", "env", *LOGGING):
        _refuse_resolvers(node.get(name), f"hydra.{name}")


def _refuse_targets(node: Any, key: str) -> None:
    """Raise ConfigError for a ``_target_`` of foreign code, anywhere below ``node``."""
    for name, value in _entries(node):
        here = f"{key}.{name}"
        if name == "_target_" and not str(value).startswith(TARGETS):
            raise ConfigError(f"{here}: {shown(value)} names code; {ALLOWED}")
        _refuse_targets(value, here)


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
