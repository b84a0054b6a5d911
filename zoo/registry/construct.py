"""Construction of registered parts from plain configs, with checked keywords."""

import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.errors import ConfigError, ZooError, first_line, name_choices
from zoo.registry.config_keys import rename_for
from zoo.registry.parts import find_part
from zoo.registry.schemas import LAYERS, MAX_LAYERS
from zoo.storage.copies import localised
from zoo.storage.outside import MAX_SHOWN, shown
from zoo.storage.remote import is_remote_data

PLAIN = (int, float, str, bool, type(None))  # hints that a value has if it is an instance
MAX_SIZE = 2**31 - 1
SIZES = (  # keywords that count something of a model, and are 1 or more wherever they stand
    *("dim", "depth", "num_heads", "num_kv_heads", "head_dim", "hidden_dim", "embed_dim", "patch_size", "image_size", "num_mels"),
    *("context_length", "vocab_size", "num_classes", "num_buckets", "num_tokens", "sample_rate_hz"),
)


def build_part(kind: str, config: Mapping[str, Any], key: str, **given: Any) -> Any:
    """Construct a registered part from ``{name: ..., keyword: value, ...}``.

    Args:
        kind: registry kind.
        config: ``name`` and constructor keywords.
        key: config key, for messages.
        given: keywords that do not come from the config, for example a head's ``inputs``.

    Raises:
        ConfigError: an unknown name or keyword, a value of the wrong type, or an error of the constructor.
    """
    if not isinstance(config, Mapping):
        raise ConfigError(f"{key}: got {shown(config)}; allowed is a mapping with 'name' and the {kind}'s keywords")
    refuse_code(config, key)
    keywords = dict(config)
    name = keywords.pop("name", None)
    if name is None:
        raise ConfigError(f"{key}: has no 'name'; a config names a registered {kind} (see: zoo list)")
    part: Any = find_part(kind, name, f"{key}.name")
    if kind == "source":
        keywords = {name: value if name in part.reads_remote else _localised(value) for name, value in keywords.items()}
    return construct(part, keywords, key, **given)


def _localised(value: Any) -> Any:
    """Return a keyword of a source with local copies in place of remote files and folders, also in a list."""
    if isinstance(value, list):
        return [_localised(each) for each in value]
    return localised(value) if is_remote_data(value) else value


def construct(part: type, keywords: Mapping[str, Any], key: str, **given: Any) -> Any:
    """Call a constructor with checked keywords; the config key is put before the constructor's own errors.

    Raises:
        ConfigError: an unknown keyword, a value of the wrong type, or an error of the constructor.
    """
    checked = check_keywords(part, keywords, key, given)
    try:
        return part(**checked, **given)
    except ConfigError as error:
        raise ConfigError(f"{key}.{error}") from error
    except ZooError:
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError, MemoryError) as error:
        reason = f"{type(error).__name__}: {first_line(error)[:MAX_SHOWN]}"
        raise ConfigError(
            f"{key}: {part.__name__} cannot be built with these values ({reason}); correct them (ZOO_DEBUG=1 shows where it failed)"
        ) from error


def check_keywords(part: type, keywords: Mapping[str, Any], key: str, given: Mapping[str, Any] = {}) -> dict[str, Any]:  # noqa: B006
    """Check keywords against a constructor's signature and type hints.

    A whole number becomes a float if the hint is a float; a renamed keyword gets its new name (``zoo.registry.config_keys``).

    Raises:
        ConfigError: an unknown keyword, a value of the wrong type, or a required keyword is missing.
    """
    parameters = {name: p for name, p in inspect.signature(part).parameters.items() if name not in given}
    hints = typing.get_type_hints(part.__init__)
    checked = {}
    for name, value in rename_for(part, keywords, key).items():
        if not isinstance(name, str) or name not in parameters:
            raise ConfigError(f"{key}.{name}: {key} ({part.__name__}) has no such option; {name_choices(str(name), parameters)}")
        checked[name] = checked_value(f"{key}.{name}", value, hints.get(name, Any))
        _refuse_absurd_size(name, value, f"{key}.{name}")
    missing = [name for name, p in parameters.items() if p.default is p.empty and name not in checked]
    if missing:
        raise ConfigError(f"{key}: needs {', '.join(missing)}; set {key}.{missing[0]}=...")
    return checked


def checked_value(key: str, value: Any, hint: Any) -> Any:
    """Return a value after a check against its type hint; a whole number becomes a float if the hint is a float.

    Raises:
        ConfigError: a value of another type.
    """
    value = _floats_for_whole_numbers(value, hint)
    # Python counts a bool as an int; a config that says "true" for a number is wrong.
    stray_bool = isinstance(value, bool) and bool not in (hint, *typing.get_args(hint)) and hint is not Any
    if stray_bool or not _fits(value, hint):
        raise ConfigError(f"{key}: got {shown(value)} ({type(value).__name__}); allowed is {_readable(hint)}")
    return value


def _fits(value: Any, hint: Any) -> bool:
    """Return True if a value has a type; of a list or dict every element is checked, where beartype alone draws one at random."""
    if not _is_bearable(value, hint):
        return False
    if isinstance(value, list):
        return all(_is_bearable([element], hint) for element in value)
    if isinstance(value, dict):
        return all(_is_bearable({name: element}, hint) for name, element in value.items())
    return True


def _is_bearable(value: Any, hint: Any) -> bool:
    """Return what beartype's function of this name does, which is imported only for hints that are not simple: that takes 0.1 s."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if hint in PLAIN:
        return isinstance(value, hint)
    if origin in (typing.Union, types.UnionType):
        return any(_is_bearable(value, each) for each in arguments)
    if origin in (list, Sequence):
        return isinstance(value, origin) and all(_is_bearable(element, arguments[0]) for element in value)
    if origin in (dict, Mapping):
        return isinstance(value, origin) and all(
            _is_bearable(each, kind) for pair in value.items() for each, kind in zip(pair, arguments, strict=True)
        )
    from beartype.door import is_bearable

    return is_bearable(value, hint)


def _refuse_absurd_size(name: str, value: Any, key: str) -> None:
    """Raise ConfigError for a size below 1, or one that no machine could hold or a constructor would loop over for ever."""
    if name in SIZES and type(value) is int:
        most = MAX_LAYERS if name in LAYERS else MAX_SIZE
        if not 1 <= value <= most:
            raise ConfigError(f"{key}: got {shown(value)}; allowed are whole numbers from 1 to {most:,}")


def _floats_for_whole_numbers(value: Any, hint: Any) -> Any:
    """Return whole numbers as floats if the hint is a float, also in lists and mappings.

    YAML reads ``1`` and ``[0, 0.5]`` as whole numbers. Every element of a list is converted, because beartype checks one random element.
    """
    if type(value) is int and not _is_bearable(value, hint) and _is_bearable(float(value), hint):
        return float(value)
    if isinstance(value, dict) and _is_bearable({"": 1.0}, hint) and not _is_bearable({"": 1}, hint):
        return {name: float(element) if type(element) is int else element for name, element in value.items()}
    if not isinstance(value, list) or not all(type(element) in (int, float) for element in value):
        return value
    if not _is_bearable([1], hint) and _is_bearable([1.0], hint):
        return [float(element) for element in value]
    return value


def _readable(hint: Any) -> str:
    """Return a type hint as an error message shows it."""
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "").replace("collections.abc.", "")


def refuse_code(config: Any, key: str = "") -> None:
    """Raise ConfigError if a key has the form ``_key_``, by which frameworks such as Hydra call or import code."""
    if isinstance(config, Mapping):
        for name, value in config.items():
            here = f"{key}.{name}".strip(".")
            if str(name).startswith("_") and str(name).endswith("_"):
                raise ConfigError(f"{here}: {value!r} names code; a config names registered parts only, with 'name: ...' (see: zoo list)")
            refuse_code(value, here)
    elif isinstance(config, list | tuple):
        for i, value in enumerate(config):
            refuse_code(value, f"{key}[{i}]")
