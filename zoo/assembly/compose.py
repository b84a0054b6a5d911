"""Configs: Hydra groups from the files and tables of ``conf/``, overrides checked, the result as plain dicts.

The only file that knows Hydra and OmegaConf. Every row of a table becomes an option of its group, so
``encoder@system.encoders.image=vig_nano`` works for every name that ``zoo list`` shows, and ``=timm/resnet18`` for the
backbones of other libraries. Nothing here imports torch.
"""

import inspect
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize
from hydra import main as hydra_main
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, QuotedString
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from zoo.errors import ConfigError, ZooError, first_line, name_choices
from zoo.registry import MODALITIES, TABLES, Row, find_part, find_row, part_names, rows
from zoo.registry.construct import refuse_code
from zoo.registry.plugins import ADVICE, OURS, RowFile, row_files
from zoo.registry.rows import is_provided, read_plugin_yaml
from zoo.storage.files import read_yaml
from zoo.storage.places import packaged_directory

PLAIN_GROUPS = ("data", "training", "evaluation", "objective", "experiment")
OPTIONAL = {"data": ("packing",)}  # keys that any option of a group may be given
_HEADER = re.compile(r"^#\s*@package\s+(\S+)", re.MULTILINE)


def register_configs(overrides: Sequence[str] = ()) -> None:
    """Put everything in ``conf/`` into Hydra's ConfigStore (doing it again changes nothing), and the backbones that overrides choose.

    Raises:
        ConfigError: a backbone that cannot be used, with the key that chose it.
    """
    store = ConfigStore.instance()
    conf = packaged_directory("conf")
    for kind in TABLES:
        for row in rows(kind).values():
            node = _system_node(row) if kind == "system" else {"name": row.family, **row.arguments}
            store.store(group=kind, name=row.name, node=node)
            for name in row.arguments["encoders"].values() if kind == "system" else ():
                _store_backbone(store, name, f"{row.name}.encoders")
    for key, group, name in _chosen_models(overrides):
        _store_backbone(store, name, key, group)
    for group in PLAIN_GROUPS:
        owners = {name: OURS for path in sorted((conf / group).glob("*.yaml")) for name in _store_file(store, path, group)}
        for file in row_files(group):
            _store_plugin_file(store, file, owners)
        for name in part_names(group) if group in ("evaluation", "objective") else ():
            if name not in owners:  # where a part has no file, its class documents all that there is to set
                store.store(group=group, name=name, node={"name": name})
    for path in sorted(conf.glob("*.yaml")):
        _store_file(store, path, None)


def _chosen_models(overrides: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
    """Key, group and option of each override of the groups ``encoder`` and ``language``; of a sweep all its options."""
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException:
            continue  # composing says what is wrong
        value = override.value()
        if override.key_or_group in ("encoder", "language"):
            for name in value.list if isinstance(value, ChoiceSweep) else [value]:
                yield text.partition("=")[0], override.key_or_group, name.text if isinstance(name, QuotedString) else name


def _store_backbone(store: ConfigStore, name: Any, key: str, group: str = "encoder") -> None:
    """Make ``timm/resnet18`` an option of its group: to Hydra it is option ``resnet18`` of a group below."""
    if not is_provided(name):
        return
    try:
        row = find_row(name, group)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error
    for spelling in {name, name.rstrip("/")}:  # of a directory with a slash behind it, Hydra looks for both
        folder, _, option = f"{group}/{spelling}".rpartition("/")
        store.store(group="/".join(filter(None, folder.split("/"))), name=option, node={"name": row.family, **row.arguments})


def _store_file(store: ConfigStore, path: Path, group: str | None) -> list[str]:
    """Store a file of ``conf/`` as one option or, if it is a table, as several; return their names."""
    header, node = _HEADER.search(path.read_text(encoding="utf-8")), read_yaml(path) or {}
    if "variants" in node:  # a table: several options, and what they share
        for name, own in node["variants"].items():
            store.store(group=group, name=name, node={**node.get("shared", {}), **own})
        return list(node["variants"])
    for choice in node.get("defaults", ()):
        for place, name in choice.items() if isinstance(choice, dict) else ():
            _store_backbone(store, name, str(path), "language" if "/language@" in str(place) else "encoder")
    store.store(group=group, name=path.stem, node=node, package=header[1] if header else None)
    return [path.stem]


def _store_plugin_file(store: ConfigStore, file: RowFile, owners: dict[str, str]) -> None:
    """Store the options that a plug-in's file adds to a group.

    Args:
        owners: distribution of each option of the group; updated.

    Raises:
        ConfigError: the file cannot be read, or two distributions have an option of the same name.
    """
    read_plugin_yaml(file.path, file.distribution)
    for name in _store_file(store, file.path, file.kind):
        if name in owners:
            raise ConfigError(f"{file.kind}={name} is in {owners[name]} and in {file.distribution}; {ADVICE}")
        owners[name] = file.distribution


def _system_node(row: Row) -> dict[str, Any]:
    """A row names its parts (``encoders: {image: vit_nano}``, ``head: clip``); Hydra wants them as a defaults list."""
    arguments = dict(row.arguments)
    defaults: list[Any] = [{f"/encoder@encoders.{modality}": name} for modality, name in arguments.pop("encoders").items()]
    defaults.append({"/head@head": arguments.pop("head")})
    if "language" in arguments:  # of its head
        defaults.append({"/language@head.language": arguments.pop("language")})
    return {"defaults": [*defaults, "_self_"], "name": row.name, **arguments}


def compose(config_name: str = "train", overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Compose an entry config with overrides and return it resolved, as plain dicts and lists.

    A keyword that a part has but its row does not mention may be set without Hydra's ``+``.

    Raises:
        ConfigError: an unknown key or option (near matches are named), a bad override, a key that names code.
    """
    register_configs(overrides)
    GlobalHydra.instance().clear()
    with initialize(version_base="1.3", config_path=None):
        config, _ = _compose_leniently(config_name, list(map(_quoted_pattern, overrides)))
    return to_plain(config)


def _quoted_pattern(text: str) -> str:
    """``path=/data/{000..099}.tar`` in the quotes that Hydra wants around braces within a word; a shell takes away those of a user."""
    key, equals, value = text.partition("=")
    is_pattern = re.fullmatch(r"[^'\"\[{(\s$][^'\"$\[\]()\s]*\{[^'\"$]*", value)
    return f"{key}{equals}'{value}'" if is_pattern else text


def to_plain(config: DictConfig) -> dict[str, Any]:
    """Resolve interpolations, and refuse what names code."""
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ConfigError(f"{', '.join(missing)}: has no value; give it as an override, {missing[0]}=...")
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"config: {first_line(error)}") from error
    assert isinstance(plain, dict)
    refuse_code(plain)
    return plain  # type: ignore[return-value]


def _compose_leniently(config_name: str, overrides: list[str]) -> tuple[DictConfig, list[str]]:
    """Compose; where Hydra refuses a key that is a constructor keyword of the part there, add it with ``+``.

    Returns the config and the overrides that made it.
    """
    for _ in range(len(overrides) + 1):
        try:
            return hydra_compose(config_name, overrides=overrides), overrides
        except (HydraException, OmegaConfBaseException) as error:
            culprit = _unknown_key(error)
            position = _position(overrides, culprit) if culprit else None
            if culprit is None or position is None:
                raise ConfigError(_explain(error, overrides)) from error
            _refuse_unknown_keyword(config_name, overrides, position, culprit)
            overrides = [*overrides[:position], "+" + overrides[position], *overrides[position + 1 :]]
    raise AssertionError("each round mends one override")


def _unknown_key(error: Exception) -> str | None:
    found = re.match(r"Could not override '([^'@]+)'", str(error))
    return found[1] if found and isinstance(error, ConfigCompositionException) else None


def _position(overrides: Sequence[str], key: str) -> int | None:
    return next((i for i, text in enumerate(overrides) if text.split("=")[0] == key), None)


def _refuse_unknown_keyword(config_name: str, overrides: list[str], position: int, key: str) -> None:
    """Raise ConfigError unless ``key`` is a keyword of the part that the config has at its parent."""
    rest = hydra_compose(config_name, overrides=overrides[:position])
    if key.startswith("weights.") and "weights" in rest:
        _refuse_twice(rest, key)
        return  # names of the system's parts, which are held against it when it is built
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(rest, parent) if parent else rest
    if node is None and parent in PLAIN_GROUPS:
        options = [name.removesuffix(".yaml") for name in ConfigStore.instance().list(parent)]
        raise ConfigError(f"{key}: no {parent} is chosen; say which with {parent}=NAME; {name_choices('', options)}")
    if node is None and _has(rest, parent):
        raise ConfigError(f"{key}: {parent} is null; give it whole, '{parent}={{{last}: ...}}'")
    if not isinstance(node, DictConfig):
        above = _nearest_node(rest, parent)
        raise ConfigError(f"{key}: no such key; under {above[0] or 'the top level'}: {name_choices(above[2], above[1])}")
    legal = {*map(str, node), *keywords_at(parent, node.get("name")), *OPTIONAL.get(parent, ())}
    if last not in legal:
        where = f"under {parent}" if parent else "at the top level"
        raise ConfigError(f"{key}: no such key {where}; {name_choices(last, legal)}")


def _refuse_twice(config: DictConfig, key: str) -> None:
    """Raise ConfigError where a part above ``key`` has its weights already, which the override would drop."""
    words = key.split(".")
    for above in (".".join(words[:i]) for i in range(1, len(words))):
        if isinstance(value := OmegaConf.select(config, above), str):
            raise ConfigError(f"{key}: {above}={value} loads this part too; give one of the two")


def _nearest_node(config: DictConfig, key: str) -> tuple[str, list[str], str]:
    """The deepest part of ``key`` that exists: its path, its keys, and the first word that does not exist."""
    path, node = "", config
    for word in key.split("."):
        child = OmegaConf.select(node, word)
        if not isinstance(child, DictConfig):
            return path, [str(k) for k in node], word
        path, node = f"{path}.{word}".strip("."), child
    return path, [str(k) for k in node], ""


def keywords_at(key: str, name: Any) -> list[str]:
    """Constructor keywords of the part that a config holds at ``key``; empty where no part stands there."""
    kind = kind_at(key)
    if kind is None or (kind != "processor" and not isinstance(name, str)):
        return []
    part = find_part(kind, key.rpartition(".")[2] if kind == "processor" else name, f"{key}.name")
    given = ("inputs", "language") if kind == "head" else ()  # made by the builder, of other parts of the config
    return [k for k in inspect.signature(part).parameters if k not in given]


def kind_at(key: str) -> str | None:
    """Which kind of part stands at a config key."""
    kinds = {
        r"(system\.)?encoders\.\w+": "encoder",
        r"(system\.)?head": "head",
        r"(system\.)?head\.language": "language",
        r"(system\.)?processor\.\w+": "processor",
        r"data\.source": "source",
        r"evaluation": "evaluation",
        r"objective": "objective",
    }
    return next((kind for pattern, kind in kinds.items() if re.fullmatch(pattern, key)), None)


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """One or two lines for a person, with near matches where an option is unknown."""
    text = str(error)
    option = re.search(r"Could not find '(?P<group>[^']*)/(?P<name>[^'/]+)'", text)
    if isinstance(error, MissingConfigException) and option:
        group, wrong = option["group"], option["name"]
        legal = ConfigStore.instance().list(group) if group in (*TABLES, *PLAIN_GROUPS) else []
        key = next((o.split("=")[0] for o in overrides if o.endswith("=" + wrong)), group)
        known = [name.removesuffix(".yaml") for name in legal if name.endswith(".yaml")]  # not the groups below
        return f"{key}: there is no {group} {wrong!r}; {name_choices(wrong, known)}"
    if isinstance(error, OverrideParseException):
        return f"override {first_line(error)}; write KEY=VALUE, for example training.max_steps=100"
    group_key = re.match(r"Could not override '([^']+)'", text)
    if group_key:
        parts = [*(f"encoder@system.encoders.{m}" for m in MODALITIES), "head@system.head", "language@system.head.language", "system"]
        return f"{group_key[1]}: no such group or place; {name_choices(group_key[1], [*parts, 'system', *PLAIN_GROUPS])}"
    return f"config: {first_line(error)}"


def refuse_foreign_plugins(overrides: Sequence[str]) -> None:
    """Hydra's own node may start launchers and callbacks; only Hydra's and its plugins' classes are let through."""
    register_configs(overrides)
    GlobalHydra.instance().clear()
    with initialize(version_base="1.3", config_path=None):
        try:
            node = hydra_compose("train", overrides=list(overrides), return_hydra_config=True).hydra
        except (HydraException, OmegaConfBaseException):
            return  # composing the job itself will say what is wrong
    _refuse_targets(OmegaConf.to_container(node, resolve=False), "hydra")


def _refuse_targets(node: Any, key: str) -> None:
    for name, value in node.items() if isinstance(node, dict) else ():
        if name == "_target_" and not str(value).startswith(("hydra._internal.", "hydra_plugins.")):
            raise ConfigError(f"{key}._target_: {value!r} names code; only Hydra's own launchers and sweepers may stand there")
        _refuse_targets(value, f"{key}.{name}")


def apply_overrides(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set ``key=value`` overrides on a saved, resolved config; groups cannot be chosen any more.

    Raises:
        ConfigError: a key that the config does not have, or an override that is not ``key=value``.
    """
    tree = OmegaConf.create(dict(config))
    try:
        parsed = OverridesParser.create().parse_overrides(list(map(_quoted_pattern, overrides)))
    except OverrideParseException as error:
        raise ConfigError(_explain(error, overrides)) from error
    for override in parsed:
        key = override.key_or_group
        if OmegaConf.select(tree, key, throw_on_missing=False) is None and not _has(tree, key):
            above = _nearest_node(tree, key)
            raise ConfigError(f"{key}: the saved config has no such key; {name_choices(above[2], above[1])}")
        OmegaConf.update(tree, key, override.value())
    return to_plain(tree)


def _has(tree: DictConfig, key: str) -> bool:
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(tree, parent) if parent else tree
    return isinstance(node, DictConfig) and last in node


def run_with_hydra(words: Sequence[str], job: Callable[[dict[str, Any]], int]) -> int:
    """Hand over to Hydra for sweeps (``-m``), ``--cfg job`` and the like; in a sweep each job has its own ``run_dir``.

    Raises:
        ConfigError: as ``compose``, before the first job starts.
    """
    flags = [word for word in words if word.startswith("-") or word in _values_of_flags(words)]
    overrides = _amend([_quoted_pattern(word) for word in words if word not in flags])
    refuse_foreign_plugins([_first_choice(text) for text in overrides])
    given = [text.partition("=")[2] for text in overrides if text.startswith("run_dir=")]
    base = given[-1] if given and given[-1] != "null" else f"runs/sweep_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    overrides.append(f"hydra.sweep.dir={base}")
    failures: list[str] = []

    def call(config: DictConfig) -> None:
        logging.getLogger("zoo").disabled = False  # Hydra's "disabled" turns off every logger that is there
        plain = to_plain(config)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            plain["run_dir"] = f"{base}/{HydraConfig.get().job.num}"
        try:
            job(plain)
        except ZooError as error:
            failures.append(f"job {plain['run_dir']}: {error}")
            print(f"zoo: {failures[-1]}", file=sys.stderr)

    GlobalHydra.instance().clear()
    old = sys.argv
    sys.argv = ["zoo train", *flags, *overrides]
    try:
        hydra_main(version_base="1.3", config_path=None, config_name="train")(call)()
    finally:
        sys.argv = old
        logging.getLogger("zoo").disabled = False
    return 1 if failures else 0


def _values_of_flags(words: Sequence[str]) -> list[str]:
    """Words that belong to the flag before them (``--cfg job``)."""
    takes = ("--cfg", "-c", "--info", "-i", "--package", "-p")
    return [after for word, after in zip(words, words[1:], strict=False) if word in takes]


def _first_choice(text: str) -> str:
    """``a=1,2`` -> ``a=1``: one job of a sweep stands for all when keys are checked."""
    try:
        override = OverridesParser.create().parse_override(text)
    except OverrideParseException as error:
        raise ConfigError(_explain(error, [text])) from error
    if not override.is_sweep_override():
        return text
    first = next(iter(override.sweep_string_iterator()))
    return f"{text.partition('=')[0]}={first}"


def _amend(overrides: list[str]) -> list[str]:
    """Check keys, and put ``+`` before those that a part has but its row does not mention."""
    register_configs(overrides)
    GlobalHydra.instance().clear()
    with initialize(version_base="1.3", config_path=None):
        _, amended = _compose_leniently("train", [_first_choice(text) for text in overrides])
    return ["+" + old if new.startswith("+") and not old.startswith("+") else old for old, new in zip(overrides, amended, strict=True)]
