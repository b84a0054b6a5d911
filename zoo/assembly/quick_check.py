"""Quick check of a composed config: refuse wrong combinations within a second, because nothing here imports torch or a part.

It reads facts of parts from their source text (``zoo.registry.declarations``). ``zoo.runs.check.check`` is the complete check, with the
same messages; it also finds what depends on computed facts.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from zoo.assembly.compatibility import refuse_encoders, refuse_misplaced, refuse_source, refuse_unequal
from zoo.registry import find_part, part_names
from zoo.registry.config_keys import part_at
from zoo.registry.construct import construct
from zoo.registry.declarations import find_declaration
from zoo.registry.settings import SETTINGS, settings_class


def quick_check(config: Mapping[str, Any]) -> None:
    """Check names, modalities and settings of a composed config.

    Raises:
        ConfigError: an unknown part, parts that do not fit, or a setting outside its range.
    """
    for key, name in _named(config, ""):
        _refuse_unknown(key, name)
    system, source = config.get("system"), (config.get("data") or {}).get("source")
    encoders = system.get("encoders") if isinstance(system, Mapping) else None
    if isinstance(system, Mapping) and isinstance(encoders, Mapping):
        _check_encoders(system, encoders)
        if isinstance(source, Mapping):
            given = _fact("source", source.get("name"), "modalities")
            refuse_source(str(source.get("name")), given if given is not None else tuple(encoders), encoders)
    for group in SETTINGS:
        if isinstance(config.get(group), Mapping):
            construct(settings_class(group), config[group], group)


def _named(node: Mapping[str, Any], key: str) -> Iterator[tuple[str, Any]]:
    """Yield key and ``name`` of every mapping in a config that has a name."""
    if "name" in node:
        yield key, node["name"]
    for word, value in node.items():
        if isinstance(value, Mapping):
            yield from _named(value, f"{key}.{word}".strip("."))


def _refuse_unknown(key: str, name: Any) -> None:
    """Raise ConfigError if a part stands at the key and none is registered under the name."""
    part = part_at(key, name)
    if part is not None and part[1] not in part_names(part[0]):
        find_part(*part, f"{key}.name")


def _fact(kind: str, name: Any, attribute: str) -> Any:
    """Return a class attribute of a part, or None if its source text does not state it."""
    declared = find_declaration(kind, name) if isinstance(name, str) and name in part_names(kind) else None
    return None if declared is None else declared.values.get(attribute)


def _check_encoders(system: Mapping[str, Any], encoders: Mapping[str, Any]) -> None:
    """Check the place of each encoder, its agreement with the processor, and whether the head accepts it."""
    for modality, encoder in encoders.items():
        if not isinstance(encoder, Mapping):
            continue
        takes = _fact("encoder", encoder.get("name"), "modality")
        refuse_misplaced(str(encoder.get("name")), takes or modality, modality, f"system.encoders.{modality}")
        _check_processor(system, modality, encoder)
    head = system.get("head")
    if not isinstance(head, Mapping):
        return
    accepts = _fact("head", head.get("name"), "accepts")
    if accepts is not None:
        refuse_encoders(str(head["name"]), accepts, dict.fromkeys(encoders, True), "system")  # the pool is a computed fact


def _check_processor(system: Mapping[str, Any], modality: str, encoder: Mapping[str, Any]) -> None:
    """Check settings that both an encoder and its processor give."""
    processor = (system.get("processor") or {}).get(modality) or {}
    for name in _fact("processor", modality, "encoder_keys") or ():
        if processor.get(name) is not None and encoder.get(name) is not None:
            refuse_unequal(name, processor[name], encoder[name], modality, "system")
