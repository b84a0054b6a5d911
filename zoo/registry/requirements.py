"""Plug-ins that a saved model or run needs: recorded when it is saved, held against what is installed when it is read."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import zoo
from zoo.errors import WeightsError
from zoo.registry.parts import KINDS, find_plugin, own_names
from zoo.registry.plugins import NAME, OURS, SWITCH, is_on, normalised

KEY = "requires"  # of config.yaml and environment.json
_DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+!_-]*")

log = logging.getLogger("zoo")


@dataclass(frozen=True)
class Requirement:
    """A part of another distribution, as a saved file records it."""

    kind: str
    name: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} of {self.distribution} {self.version}"


def parts_named(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the kind and name of each part that a config names: of a saved model (``{"encoder": ...}``) or of a run."""
    system = config.get("system") or {}
    encoders, head = system.get("encoders") or {}, system.get("head") or config.get("head") or {}
    language = head.get("language") or config.get("language") or {}
    named = [("encoder", each) for each in (*encoders.values(), config.get("encoder"))]
    named += [("head", head), ("language", language), ("source", (config.get("data") or {}).get("source"))]
    named += [(kind, config.get(kind)) for kind in ("evaluation", "objective")]
    named += [("evaluation", {"name": name}) for name in config.get("evaluations") or () if isinstance(name, str)]
    connectors = (head.get("connectors") or {}).values()
    named += [("connector", {"name": each.get("kind") if isinstance(each, Mapping) else each}) for each in connectors]
    named += [("processor", {"name": modality}) for modality in (*encoders, *(system.get("processor") or {}))]
    yield from dict.fromkeys(
        (kind, part["name"]) for kind, part in named if isinstance(part, Mapping) and isinstance(part.get("name"), str)
    )


def requirements(parts: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    """Return kind, name, distribution and version of those parts that are plug-ins; none if all are this package's."""
    found = [find_plugin(kind, name) for kind, name in parts]
    return [asdict(Requirement(p.kind, p.name, p.distribution, p.version)) for p in found if p is not None]


def refuse_missing(config: Mapping[str, Any], origin: object) -> None:
    """Hold the plug-ins that a saved file needs against the installed ones; another version is one warning for each distribution.

    Args:
        config: content of the file, with ``requires`` if it was saved with plug-ins.
        origin: the file or directory, for messages.

    Raises:
        WeightsError: a plug-in is missing, its name is now another distribution's, or the record is damaged.
    """
    recorded = _read(config.get(KEY), origin)
    for need in recorded:
        _refuse_missing(need, origin)
    for kind, name in parts_named(config):
        plugin = find_plugin(kind, name)
        if plugin is not None and not any((need.kind, need.name) == (kind, name) for need in recorded):
            raise WeightsError(
                f"{origin} names {kind} {name!r} but does not say that it needs a plug-in; here {name!r} is of {plugin.distribution} "
                f"{plugin.version}, which it was not saved with; uninstall that, or set {SWITCH}=0"
            )
    _warn_of_other_versions(recorded, origin)


def _read(recorded: Any, origin: object) -> list[Requirement]:
    """Check the record of a file that may be hostile: its words are shown to the user, who may install what they name."""
    fields = Requirement.__dataclass_fields__
    for entry in recorded if isinstance(recorded, list) else ([] if recorded is None else [recorded]):
        right = isinstance(entry, dict) and entry.keys() == fields.keys() and all(isinstance(value, str) for value in entry.values())
        if (
            not right
            or entry["kind"] not in KINDS
            or not (
                NAME.fullmatch(entry["name"]) and _DISTRIBUTION.fullmatch(entry["distribution"]) and _VERSION.fullmatch(entry["version"])
            )
        ):
            raise WeightsError(
                f"{origin}: {KEY} holds {str(entry)[:80]!r}; allowed is a list of mappings with {', '.join(fields)} of a plug-in; the file "
                "was changed after it was saved"
            )
    return [Requirement(**entry) for entry in recorded or ()]


def _refuse_missing(need: Requirement, origin: object) -> None:
    if need.name in own_names(need.kind):
        raise WeightsError(
            f"{origin} needs {need}, but here {need.name!r} is of {OURS} {zoo.__version__}; install the versions it was saved with"
        )
    plugin = find_plugin(need.kind, need.name)
    if plugin is None and not is_on():
        raise WeightsError(f"{origin} needs {need}, but {SWITCH}=0 turns plug-ins off; unset it if you trust {need.distribution}")
    if plugin is None:
        raise WeightsError(f"{origin} needs {need}, which is not installed; install it if you trust it")
    if normalised(plugin.distribution) != normalised(need.distribution):
        raise WeightsError(
            f"{origin} needs {need}, but here {need.name!r} is of {plugin.distribution} {plugin.version}; uninstall that and install "
            f"{need.distribution} if you trust it"
        )


def _warn_of_other_versions(recorded: Iterable[Requirement], origin: object) -> None:
    others = {}
    for need in recorded:
        plugin = find_plugin(need.kind, need.name)
        if plugin is not None and plugin.version != need.version:
            others[plugin.distribution] = (need.version, plugin.version)
    for distribution, (saved, installed) in others.items():
        log.warning("%s was saved with %s %s; installed is %s, whose results may differ", origin, distribution, saved, installed)
