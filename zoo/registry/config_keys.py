"""Keys of configs: the kind of part that stands at a key, its keywords, and old names of keys."""

import functools
import inspect
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

from zoo.errors import ConfigError
from zoo.registry.declarations import find_declaration
from zoo.registry.parts import find_part, part_names
from zoo.registry.settings import SETTINGS, settings_class

log = logging.getLogger("zoo")

# A class lists its renamed keywords as ``renamed = {"old": "new"}``, and renamed values of a keyword as
# ``renamed_values = {"keyword": {"old": "new"}}``. The old names are accepted for one release, with a warning.
RENAMED, RENAMED_VALUES = "renamed", "renamed_values"

_KINDS = {
    r"(system\.)?encoders\.\w+": "encoder",
    r"(system\.)?head": "head",
    r"(system\.)?head\.language": "language",
    r"(system\.)?processor\.\w+": "processor",
    r"data\.source": "source",
    r"evaluation": "evaluation",
    r"objective": "objective",
}


def kind_at(key: str) -> str | None:
    """Return the kind of part that stands at a config key, or None if no part stands there."""
    return next((kind for pattern, kind in _KINDS.items() if re.fullmatch(pattern, key)), None)


def part_at(key: str, name: Any) -> tuple[str, str] | None:
    """Return kind and name of the part that a config holds at ``key`` with ``name``; None if no part stands there."""
    kind = kind_at(key)
    if kind == "processor":  # named by its modality
        return kind, key.rpartition(".")[2]
    return (kind, name) if kind is not None and isinstance(name, str) else None


def keywords_at(key: str, name: Any) -> list[str]:
    """Return the constructor keywords of the part, or the fields of the settings, at a config key; empty if neither stands there."""
    if key in SETTINGS:
        return list(inspect.signature(settings_class(key)).parameters)
    part = part_at(key, name)
    if part is None:
        return []
    declared = find_declaration(*part)
    if declared is None or declared.keywords is None:
        keywords = list(inspect.signature(find_part(*part, f"{key}.name")).parameters)
    else:
        keywords = list(declared.keywords)
    given = ("inputs", "language") if part[0] == "head" else ()  # made from other parts of the config
    return [keyword for keyword in keywords if keyword not in given]


def current_key(key: str, name: Any) -> str | None:
    """Return the new key of a renamed one, for example of ``evaluation.judge``; None if it was not renamed.

    Args:
        key: the whole key.
        name: ``name`` of the part that the config holds above ``key``.
    """
    parent, _, last = key.rpartition(".")
    new = _renamings_at(parent, name)[0].get(last)
    return None if new is None else f"{parent}.{new}"


def with_current_names(config: Mapping[str, Any], key: str = "") -> dict[str, Any]:
    """Replace old names of keys and values in a whole config, with one warning each.

    Raises:
        ConfigError: an old and the new key have different values.
    """
    found = {
        name: with_current_names(value, f"{key}.{name}".strip(".")) if isinstance(value, Mapping) else value
        for name, value in config.items()
    }
    keys, values = _renamings_at(key, found.get("name"))
    return rename(found, key, keys, values) if keys or values else found


def rename_for(part: type, keywords: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Replace old names in the keywords of a class, as ``with_current_names`` does in a whole config."""
    keys, values = (dict(_inherited(part, attribute)) for attribute in (RENAMED, RENAMED_VALUES))
    return rename(keywords, key, keys, values, part) if keys or values else dict(keywords)


def rename(
    keywords: Mapping[str, Any], key: str, keys: Mapping[str, str], values: Mapping[str, Mapping[str, str]], part: type | None = None
) -> dict[str, Any]:
    """Replace old keys and values, with a warning that names the new ones."""
    found = dict(keywords)
    for old, new in keys.items():
        if old in found:
            value = found.pop(old)
            _refuse_both(key, old, new, value, found, part)
            warn_renamed(f"{key}.{old}", f"{key}.{new}")
            found[new] = value
    for keyword, renamed in values.items():
        value = found.get(keyword)
        if isinstance(value, str) and value in renamed:
            warn_renamed(f"{key}.{keyword}={value}", f"{key}.{keyword}={renamed[value]}")
            found[keyword] = renamed[value]
    return found


def _refuse_both(key: str, old: str, new: str, value: Any, found: Mapping[str, Any], part: type | None) -> None:
    """Raise ConfigError if old and new key are both given; a new key that has its default counts as not given."""
    if new not in found or found[new] == value:
        return
    owner = part or (settings_class(key) if key in SETTINGS else None)
    if owner is None or found[new] != inspect.signature(owner).parameters[new].default:
        raise ConfigError(f"{key}.{old}: is the old name of {key}.{new}, which is {found[new]!r} here; give {key}.{new} only")


def _renamings_at(key: str, name: Any) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Return renamed keys and renamed values of the part at a config key, without importing a part."""
    if key in SETTINGS:
        return dict(_inherited(settings_class(key), RENAMED)), dict(_inherited(settings_class(key), RENAMED_VALUES))
    part = part_at(key, name)
    declared = find_declaration(*part) if part is not None and part[1] in part_names(part[0]) else None
    if declared is None:  # of parts from other packages, the constructor's check replaces old names
        return {}, {}
    return dict(declared.values.get(RENAMED, {})), dict(declared.values.get(RENAMED_VALUES, {}))


def _inherited(part: type, attribute: str) -> Iterator[tuple[str, Any]]:
    """Yield the entries of a mapping that a class and its bases may define."""
    for each in reversed(part.__mro__):
        yield from vars(each).get(attribute, {}).items()


@functools.cache
def warn_renamed(old: str, new: str) -> None:
    """Log the new name of a config key, once a process."""
    log.warning(f"{old} is now called {new}; the old name is accepted until the next release")
