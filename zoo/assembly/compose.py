"""Composing: an entry config of ``conf/`` and overrides become one plain, checked dict. Nothing here imports torch.

Hydra composes; ``zoo.assembly.config_source`` gives it the files and tables of ``conf/``, and ``zoo.assembly.hydra_jobs`` runs its sweeps.
"""

import difflib
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, QuotedString
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from zoo.assembly.config_source import NULLABLE, PLAIN_GROUPS, UNSET, entry_keys, options, register_configs
from zoo.errors import ConfigError, ZooError, first_line, name_choices
from zoo.registry import MODALITIES, TABLES, find_row
from zoo.registry.config_keys import current_key, keywords_at, warn_renamed, with_current_names
from zoo.registry.construct import refuse_code
from zoo.registry.rows import is_provided
from zoo.registry.schemas import ComposedFile, check_composed
from zoo.registry.settings import MISSING, SETTINGS, complete_settings
from zoo.registry.short_names import near_key, usual_key
from zoo.storage.outside import shown

OPTIONAL = {"data": ("packing",)}  # keys that any option of a group may be given
EXTRAS = {  # groups whose options come from plug-ins of Hydra
    "hydra/launcher": "joblib, submitit_local and submitit_slurm come with: zoo install sweep; ray with hydra-ray-launcher",
    "hydra/sweeper": "optuna comes with: zoo install sweep",
}
PLACES_OF_TABLES = {
    "encoder": "encoder@system.encoders.image",
    "head": "head@system.head",
    "language": "language@system.head.language",
}
ODD_VALUES = (
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    AssertionError,
    RecursionError,
)  # of Hydra, on values that it does not expect
NULL = re.compile(r"(?<![\w/.'\"-])null(?![\w/.'\"-])")
_LOCK = threading.RLock()


def compose(
    config_name: str = "train", overrides: Sequence[str] = (), *, config_dir: str | Path | None = None, primary: str | None = None
) -> dict[str, Any]:
    """Compose an entry config with overrides and return it resolved, as plain dicts and lists.

    A keyword that a part has but its row does not mention may be set without Hydra's ``+``.

    Args:
        config_name: "train", "evaluate" or "system": our entry config, and the checks of its result.
        overrides: in Hydra's syntax.
        config_dir: folder of YAML files laid out as ``conf/``, which are found before ours.
        primary: name of an entry config in that folder, in place of ours.

    Raises:
        ConfigError: an unknown key or option (near matches are named), an invalid override, or a key that names code.
    """
    refuse_wrong_backbones(overrides)
    with hydra_session(config_dir):
        config, _ = compose_leniently(primary or config_name, [with_named_null(quoted_pattern(text)) for text in overrides])
    return check_composed(to_plain(config), config_name)


@contextmanager
def hydra_session(config_dir: str | Path | None = None) -> Iterator[None]:
    """Context in which Hydra is initialized, with a folder of YAML that comes before ``conf/`` if one is given.

    Hydra keeps its state in a global. Therefore one thread composes at a time, and a job that Hydra runs gets its state back afterwards.
    """
    register_configs()
    with _LOCK:
        outer = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()
        session = (
            initialize(version_base="1.3", config_path=None)
            if config_dir is None
            else initialize_config_dir(version_base="1.3", config_dir=str(Path(config_dir).resolve()))
        )
        try:
            with session:
                yield
        finally:
            GlobalHydra.instance().hydra = outer


def with_named_null(text: str) -> str:
    """Replace ``null`` in the choice of an optional group (``evaluation=null``) by an option's name, because Hydra takes names only."""
    key, equals, value = text.partition("=")
    return f"{key}={NULL.sub(UNSET, value)}" if equals and key in NULLABLE else text


def refuse_wrong_backbones(overrides: Sequence[str]) -> None:
    """Raise ConfigError if an override chooses a backbone of another library that cannot be used; the message names the override's key."""
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
        except (HydraException, *ODD_VALUES):
            continue  # composing reports the error
        if override.key_or_group not in ("encoder", "language"):
            continue
        value = override.value()
        for choice in value.list if isinstance(value, ChoiceSweep) else [value]:
            name = choice.text if isinstance(choice, QuotedString) else choice
            try:
                _ = find_row(str(name), override.key_or_group) if is_provided(name) else None
            except ConfigError as error:
                raise ConfigError(f"{text.partition('=')[0]}: {error}") from error


def quoted_pattern(text: str) -> str:
    """Quote a value with braces such as ``path=/data/{000..099}.tar``, as Hydra requires; the shell removes the quotes of the user."""
    key, equals, value = text.partition("=")
    is_pattern = re.fullmatch(r"[^'\"\[{(\s$][^'\"$\[\]()\s]*\{[^'\"$]*", value)
    return f"{key}{equals}'{value}'" if is_pattern else text


def to_plain(config: DictConfig, *, composed: bool = True) -> dict[str, Any]:
    """Resolve interpolations and replace old names of keys.

    Args:
        composed: False for a saved config, in which nothing is unset or left out.

    Raises:
        ConfigError: a key without a value, an interpolation that cannot be resolved, or a key that names code.
    """
    try:
        missing = sorted(OmegaConf.missing_keys(config))
        plain = None if missing else OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(_explain_interpolation(error)) from error
    except RecursionError as error:
        raise ConfigError("config: an interpolation ${...} refers to itself; give a plain value") from error
    if missing:
        raise ConfigError(f"{', '.join(missing)}: has no value; give it as an override, {missing[0]}=...")
    if not isinstance(plain, dict):
        raise ConfigError(f"config: is {shown(plain)}; it must be a mapping of keys to values")
    refuse_code(plain)
    return with_current_names(_completed(plain) if composed else plain)  # type: ignore[arg-type]


def _completed(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config in which unset groups are null, and settings from a user's own file have the defaults that the file leaves out."""
    found = {key: None if key in NULLABLE and value == {} else value for key, value in config.items()}
    if found.get("experiment", ()) is None:
        del found["experiment"]
    _refuse_mistaken(found)
    for group in SETTINGS:
        if isinstance(given := found.get(group), Mapping):
            complete = found[group] = complete_settings(group, given)
            if lacking := [key for key, value in complete.items() if value == MISSING]:
                raise ConfigError(f"{group}.{lacking[0]}: has no value; give it, or begin {group}/NAME.yaml with: defaults: [default]")
    return found


def _refuse_mistaken(config: Mapping[str, Any]) -> None:
    """Raise ConfigError for a key at the top level that looks like another one; any further key may serve ``${key}`` elsewhere."""
    legal = {"system", *ComposedFile.__annotations__, *entry_keys(), *PLAIN_GROUPS}
    for key in config:
        near = difflib.get_close_matches(str(key), legal, n=1, cutoff=0.8)
        if key not in legal and (near or usual_key(str(key)) is not None):
            raise ConfigError(f"{key}: no such key at the top level; {near_key(str(key), str(key), legal)}")


def compose_leniently(config_name: str, overrides: list[str]) -> tuple[DictConfig, list[str]]:
    """Compose; mend an override that Hydra refuses if its key is an old name, or a keyword that the row of the part does not mention.

    Returns:
        The config and the overrides that made it.

    Raises:
        ConfigError: any other error of Hydra.
    """
    for _ in range(2 * len(overrides) + 1):  # an override may need a new key and then a "+"
        with _told(overrides):
            try:
                return hydra_compose(config_name, overrides=overrides), overrides
            except ConfigCompositionException as error:
                key = _unknown_key(error)
                position = _position(overrides, key) if key else None
                if key is None or position is None:
                    raise
            mended = _mended(config_name, overrides, position, key)
            overrides = [*overrides[:position], mended, *overrides[position + 1 :]]
    raise AssertionError("each round mends one override")


@contextmanager
def _told(overrides: Sequence[str]) -> Iterator[None]:
    """Raise ConfigError, with the override that is wrong, for errors of Hydra and OmegaConf."""
    try:
        yield
    except ZooError:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error, overrides)) from error
    except ODD_VALUES as error:
        raise ConfigError(_explain_odd_value(error, overrides)) from error


def _unknown_key(error: Exception) -> str | None:
    """Return the key that Hydra does not know, or None if the error is another one."""
    found = re.match(r"Could not override '([^'@]+)'", str(error))
    return found[1] if found and isinstance(error, ConfigCompositionException) else None


def _position(overrides: Sequence[str], key: str) -> int | None:
    return next((i for i, text in enumerate(overrides) if text.split("=")[0] == key), None)


def _mended(config_name: str, overrides: list[str], position: int, key: str) -> str:
    """Return an override with its new key, or with the ``+`` that lets Hydra add a key.

    Raises:
        ConfigError: the part above ``key`` has no such keyword.
    """
    text = overrides[position]
    rest = hydra_compose(config_name, overrides=overrides[:position])
    if key.startswith("weights.") and "weights" in rest:
        _refuse_twice(rest, key)
        return f"+{text}"  # names of the system's parts, which are checked when it is built
    parent = key.rpartition(".")[0]
    node = OmegaConf.select(rest, parent) if parent else rest
    if parent == "evaluation" and node is None:
        return f"+{text}"  # a keyword of the head's evaluation, which is checked when it is built
    if not isinstance(node, DictConfig):
        raise ConfigError(_explain_parent(rest, key))
    new = current_key(key, node.get("name"))
    if new is not None:
        warn_renamed(key, new)
        return new + text.removeprefix(key)
    if not parent and key in TABLES:
        whole = f"{PLACES_OF_TABLES.get(key, key)}={text.partition('=')[2]}"
        raise ConfigError(f"{key}: say of which place, {whole}; see the options with: zoo list --kind {key}")
    _refuse_unknown_keyword(node, key)
    return f"+{text}"


def _explain_parent(config: DictConfig, key: str) -> str:
    """Return the message for a key whose parent is null or does not exist."""
    parent, _, last = key.rpartition(".")
    exists = _has(config, parent)
    if parent in PLAIN_GROUPS and OmegaConf.select(config, parent) is None:
        return f"{key}: no {parent} is chosen; say which with {parent}=NAME; {name_choices('', options(parent))}"
    if exists and OmegaConf.select(config, parent) is None:
        return f"{key}: {parent} is null; give it whole, '{parent}={{{last}: ...}}'"
    path, known, wrong = _nearest_node(config, parent)
    if usual_key(key) is not None:
        return f"{key}: no such key; {near_key(key, wrong, known)}"
    return f"{key}: no such key; under {path or 'the top level'}: {name_choices(wrong, known)}"


def _refuse_unknown_keyword(node: DictConfig, key: str) -> None:
    """Raise ConfigError unless ``key`` is a keyword of the part, or a field of the settings, that the config has as ``node``."""
    parent, _, last = key.rpartition(".")
    legal = {*map(str, node), *keywords_at(parent, node.get("name")), *OPTIONAL.get(parent, ())}
    if last not in legal:
        place = f"under {parent}" if parent else "at the top level"
        raise ConfigError(f"{key}: no such key {place}; {near_key(key, last, legal)}")


def _refuse_twice(config: DictConfig, key: str) -> None:
    """Raise ConfigError if a part that contains ``key`` has weights of its own, which would be loaded over those of ``key``."""
    words = key.split(".")
    for above in (".".join(words[:i]) for i in range(1, len(words))):
        if isinstance(value := OmegaConf.select(config, above), str):
            raise ConfigError(f"{key}: {above}={value} loads this part too; give one of the two")


def _nearest_node(config: DictConfig, key: str) -> tuple[str, list[str], str]:
    """Return the path and the keys of the deepest existing node of ``key``, and the first word that does not exist there."""
    path, node = "", config
    for word in key.split("."):
        child = OmegaConf.select(node, word)
        if not isinstance(child, DictConfig):
            return path, [str(k) for k in node], word
        path, node = f"{path}.{word}".strip("."), child
    return path, [str(k) for k in node], ""


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """Return a message of one or two lines for an error of Hydra; for an unknown option it lists near matches."""
    text = str(error)
    option = re.search(r"Could not find '(?P<group>[^']*)/(?P<name>[^'/]+)'", text)
    if isinstance(error, MissingConfigException) and option:
        group, wrong = option["group"], option["name"]
        if group in EXTRAS and not wrong.startswith("basic"):
            return f"{group}={wrong}: is not installed, or there is no such option; {EXTRAS[group]}"
        key = next((o.split("=")[0] for o in overrides if o.endswith("=" + wrong)), group)
        return f"{key}: there is no {group} {wrong!r}; {name_choices(wrong, error.options or options(group))}"
    if isinstance(error, OverrideParseException):
        return f"override {first_line(error)}; write KEY=VALUE, for example training.max_steps=100"
    ambiguous = re.match(r"Ambiguous value for argument '([^']+)'", text)
    if ambiguous:
        return f"override {ambiguous[1]}: has several values; run a sweep with -m, or write a list as KEY=[A,B]"
    group_key = re.match(r"Could not override '([^']+)'", text)
    if group_key:
        parts = [*(f"encoder@system.encoders.{m}" for m in MODALITIES), *PLACES_OF_TABLES.values(), "system"]
        return f"{group_key[1]}: no such group or place; {near_key(group_key[1], group_key[1], [*parts, *PLAIN_GROUPS])}"
    return f"config: {first_line(error)}"


def _explain_interpolation(error: OmegaConfBaseException) -> str:
    """Return the message for a value ``${...}`` that cannot be resolved."""
    key = f"{error.full_key}: " if error.full_key else ""
    return f"config: {key}{first_line(error)}; give a plain value, or ${{KEY}} with an existing key that does not refer back"


def _explain_odd_value(error: Exception, overrides: Sequence[str]) -> str:
    """Return the message for an override on which Hydra fails with an exception of Python, with the first override that causes it."""
    groups = (*PLAIN_GROUPS, *TABLES)
    for text in overrides:
        key, _, value = text.partition("=")
        name = key.lstrip("+~").partition("@")[0]
        if not name:
            return f"override {shown(text)}: has no key; write KEY=VALUE, for example training.max_steps=100"
        if name in groups and (value in ("null", "true", "false") or not re.fullmatch(r"[A-Za-z_][\w./ -]*", value)):
            choices = name_choices(value, options(name)) if name in PLAIN_GROUPS else "see: zoo list"
            return f"{key}: got {shown(value)}; allowed is the name of an option; {choices}"
    longest = max(overrides, key=len, default="")
    reason = shown(first_line(error))
    return f"config: an override cannot be read ({reason}); the longest is {shown(longest)}; write KEY=VALUE with plain values"


def apply_overrides(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set ``key=value`` overrides on a saved, resolved config, in which groups are no longer options.

    Raises:
        ConfigError: a key that the config does not have, or an override that is not ``key=value``.
    """
    tree = OmegaConf.create(with_current_names(config))
    try:
        parsed = OverridesParser.create().parse_overrides(list(map(quoted_pattern, overrides)))
        for override in parsed:
            OmegaConf.update(tree, _saved_key(tree, override.key_or_group), override.value())
    except (OverrideParseException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error, overrides)) from error
    except ConfigError:
        raise
    except ODD_VALUES as error:
        raise ConfigError(_explain_odd_value(error, overrides)) from error
    return check_composed(to_plain(tree, composed=False), "train")


def _saved_key(tree: DictConfig, key: str) -> str:
    """Return the key of a saved config that an override means.

    Raises:
        ConfigError: the config has no such key, under an old or a new name.
    """
    if not key:
        raise ConfigError("override: has no key; write KEY=VALUE, for example training.max_steps=100")
    if OmegaConf.select(tree, key, throw_on_missing=False) is not None or _has(tree, key):
        return key
    parent = key.rpartition(".")[0]
    node = OmegaConf.select(tree, parent) if parent else None
    new = current_key(key, node.get("name")) if isinstance(node, DictConfig) else None
    if new is None:
        path, known, wrong = _nearest_node(tree, key)
        raise ConfigError(f"{key}: the saved config has no such key; {near_key(key, wrong, known)}")
    warn_renamed(key, new)
    return new


def _has(tree: DictConfig, key: str) -> bool:
    """Return True if the config has the key, even if its value is null."""
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(tree, parent) if parent else tree
    return isinstance(node, DictConfig) and last in node
