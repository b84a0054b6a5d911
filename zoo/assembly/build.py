"""Build a system from a plain config; ``zoo.assembly.compose`` makes plain configs from Hydra's."""

import inspect
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from torch import nn

from zoo.assembly.compatibility import (
    facts_of_owner,
    refuse_encoders,
    refuse_misplaced,
    refuse_missing_keys,
    refuse_missing_symbols,
    refuse_other_eot,
    refuse_unequal,
)
from zoo.assembly.memory import refuse_too_large
from zoo.assembly.system import System, specs_of
from zoo.assembly.token_counts import spec_of_shown, token_counts, try_patches
from zoo.data.system_processor import CONVERSATION, Processor
from zoo.errors import ConfigError, ContractError
from zoo.layers import adapters
from zoo.layers.hosted_backbone import freeze
from zoo.layers.tiling import tiler_class
from zoo.registry import find_part, label_of, part_names
from zoo.registry.construct import build_part, construct, refuse_code
from zoo.types import Encoder, EncoderSpec, Head, check_encoder_words

log = logging.getLogger("zoo")


def build_system(config: Mapping[str, Any], key: str = "system") -> System:
    """Build encoders, head and processor from a system's config; if torch's default device is meta, without weights.

    Raises:
        ConfigError: parts that do not fit; the message names the config key, both sides and the allowed values.
    """
    refuse_code(config, key)
    unknown = sorted(set(config) - {"name", "encoders", "head", "processor", adapters.KEY})
    if unknown:
        raise ConfigError(f"{key}.{unknown[0]}: a system has no such key; known: name, encoders, head, processor")
    for part in ("encoders", "head"):
        if not isinstance(config.get(part), Mapping) or (part == "head" and not config[part]):
            raise ConfigError(f"{key}.{part}: is missing; choose one, for example with head@{key}.head=clip")
    refuse_too_large(config, partial(build_system, config, key), key)
    encoders = {m: _build_encoder(m, c, f"{key}.encoders.{m}") for m, c in config["encoders"].items()}
    head_name = config["head"].get("name")
    accepts = cast(Any, find_part("head", head_name, f"{key}.head.name")).accepts
    refuse_encoders(head_name, accepts, {modality: spec.pooled for modality, spec in specs_of(encoders).items()}, key)
    specs = _specs_for_head(config, encoders, key)
    head = build_head(_with_newline(config, key), specs, f"{key}.head")
    for encoder in encoders.values():  # an unused pooler gets no gradient, for which several processes would wait
        if "pooled" not in head.reads and encoder.pooler is not None:
            encoder.pooler.requires_grad_(False)
    counts = token_counts(encoders, specs, head.connectors)
    processor = build_processor(config.get("processor") or {}, encoders, key, head)
    system = System(encoders, head, processor=processor, config=config, counts=counts, name=str(config.get("name", "system")))
    add_adapters(system, config.get(adapters.KEY) or {}, f"{key}.{adapters.KEY}")
    return system


def add_adapters(system: System, settings: Mapping[str, Any], key: str) -> None:
    """Put adapters into parts of a system.

    Args:
        settings: keywords of ``zoo.layers.adapters.Adapter`` by part, for example ``{"head.language": {"kind": "lora", "rank": 16}}``.

    Raises:
        ConfigError: unknown keywords, or an error of ``zoo.layers.adapters.inject``.
    """
    adapters.inject(system, {part: construct(adapters.Adapter, w or {}, f"{key}.{part}") for part, w in settings.items()}, key)


def _specs_for_head(config: Mapping[str, Any], encoders: Mapping[str, Encoder], key: str) -> dict[str, EncoderSpec]:
    """Return the encoders' specs for the head, and freeze the parameters that get no gradient: those after the layer that it reads."""
    part: Any = find_part("head", config["head"]["name"], f"{key}.head.name")
    if part.accepts.reads != "patches":
        return specs_of(encoders)
    known = inspect.signature(part).parameters
    layer, class_token = (config["head"].get(k, known[k].default if k in known else None) for k in ("feature_layer", "class_token"))
    specs = {}
    for modality, encoder in encoders.items():
        part = f"{key}.encoders.{modality}"
        build = partial(_build_encoder, modality, config["encoders"][modality], part)
        try:
            shown = try_patches(build, layer, class_token=bool(class_token), part=f"{part}: {label_of(encoder)}")
        except ContractError:
            raise
        except ConfigError as error:
            raise ConfigError(f"{key}.head.feature_layer: encoders.{modality}: {error}") from error
        freeze(cast(nn.Module, encoder), shown.unused)
        specs[modality] = spec_of_shown(encoder, shown)
    return specs


def _with_newline(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the config of the head; its connector of images gets the vector for ends of rows if the images' tiler needs one."""
    head, image = dict(config["head"]), (config.get("processor") or {}).get("image") or {}
    tiler, connectors = image.get("tiler"), dict(head.get("connectors") or {})
    if tiler is None or "image" not in config["encoders"]:
        return head
    part: Any = find_part("head", head["name"])
    known = inspect.signature(part).parameters
    if "connectors" not in known or not tiler_class(tiler, f"{key}.processor.image.tiler").needs_newline:
        return head
    chosen = connectors.get("image", known["connectors"].default.get("image"))
    options = {"kind": chosen} if isinstance(chosen, str) else dict(chosen)
    return head | {"connectors": {**connectors, "image": {"newline": True, **options}}}


def build_head(config: Mapping[str, Any], inputs: Mapping[str, EncoderSpec], key: str) -> Head:
    """Build a head with the language model in it, if it has one: ``{name: llava, language: {name: causal_lm, ...}, ...}``."""
    part, given = find_part("head", str(config.get("name")), f"{key}.name"), {}
    if "language" in inspect.signature(part).parameters:
        if not isinstance(config.get("language"), Mapping):
            raise ConfigError(f"{key}.language: is missing; choose one, for example with language@{key}.language=llama_nano")
        given["language"] = build_part("language", config["language"], f"{key}.language")
    return build_part("head", {k: v for k, v in config.items() if k not in given}, key, inputs=inputs, **given)


def _build_encoder(modality: str, config: Mapping[str, Any], key: str) -> Encoder:
    encoder = build_part("encoder", config, key)
    check_encoder_words(encoder, f"{key}: encoder {config['name']!r}")
    refuse_misplaced(config["name"], encoder.modality, modality, key)
    return encoder


def build_processor(config: Mapping[str, Any], encoders: Mapping[str, Encoder], key: str, head: Head | None = None) -> Processor:
    """Build a processor with one part per modality.

    Values that belong to the encoder, head or language model (``image_size``, ``vocab_size``) are taken from it. The preprocessing that the
    encoder's weights were trained with (``encoder.preprocessing``) is the default of the other settings.

    Raises:
        ConfigError: the config contradicts the encoder, head or language model.
    """
    parts, language = {}, None if head is None else head.language
    names: list[str] = [*encoders, *config, *(() if head is None else head.processors), *([] if language is None else [CONVERSATION])]
    for modality in dict.fromkeys(names):
        here, encoder = f"{key}.processor.{modality}", encoders.get(modality)
        part = find_part("processor", modality, here)
        trained: Mapping[str, Any] = {} if encoder is None else encoder.preprocessing
        if modality == CONVERSATION and head is not None:
            trained = head.processor_defaults
        keywords = {**trained, **(config.get(modality) or {})}
        if encoder is not None and keywords.get("tiler") is not None:
            keywords["tiler"] = _tiler_of_encoder(keywords["tiler"], encoder, here, key)
        for name in part.encoder_keys if encoder is not None else ():
            theirs = trained.get(name, getattr(encoder, name))
            ours = keywords.setdefault(name, theirs) if theirs is not None else keywords.get(name)
            if theirs is not None:
                refuse_unequal(name, ours, theirs, modality, key)
        if encoder is not None:
            refuse_missing_keys(encoder, part, keywords, f"{key}.encoders.{modality}: {label_of(encoder)}", here)
        keywords |= facts_of_owner(part.language_keys, keywords, language, here, f"{key}.head.language")
        keywords |= facts_of_owner(part.head_keys, keywords, head, here, f"{key}.head")
        parts[modality] = build_part("processor", {"name": modality, **keywords}, here)
        _refuse_tiler(parts[modality], head, modality, here)
        refuse_other_eot(parts[modality], encoder, modality, key)
    if head is not None and head.needs_symbols:
        refuse_missing_symbols(parts[CONVERSATION], encoders, key)
    return Processor(parts)


def _tiler_of_encoder(tiler: str | Mapping[str, Any], encoder: Encoder, here: str, key: str) -> str | Mapping[str, Any]:
    """Return the config of a tiler; one that cuts patches gets their size from the encoder.

    Raises:
        ConfigError: the encoder takes no lists of patches, or patches of another size.
    """
    options: dict[str, Any] = {"kind": tiler} if isinstance(tiler, str) else dict(tiler)
    if options.get("kind") not in part_names("tiler"):
        return tiler  # the processor's constructor says so
    part: Any = find_part("tiler", options["kind"])
    if part.cuts == "tiles":
        return tiler
    owner = f"{key}.encoders.{encoder.modality}"
    if not encoder.takes_patches:
        raise ConfigError(
            f"{here}.tiler: {options['kind']!r} cuts pictures into patches, and {owner}: {label_of(encoder)} takes no lists of patches; "
            "choose an encoder that does, such as vit, or a tiler of tiles: anyres, canvas, split"
        )
    if options.setdefault("patch_size", encoder.patch_size) != encoder.patch_size:
        raise ConfigError(
            f"{here}.tiler.patch_size: {options['patch_size']}, but {owner}.patch_size is {encoder.patch_size}; leave it out here"
        )
    if isinstance(options.get("video"), Mapping):
        video = options["video"] = {"frames": encoder.frames, **options["video"]}
        if video["frames"] != encoder.frames:
            raise ConfigError(f"{here}.tiler.video.frames: {video['frames']}, but {owner}.frames is {encoder.frames}; leave it out here")
    return options


def _refuse_tiler(part: Any, head: Head | None, modality: str, here: str) -> None:
    """Raise ConfigError if a tiler makes several inputs of a picture and nothing puts their features together again."""
    if part.tiler is None or part.tiler.cuts == "patches" or (head is not None and modality in head.connectors):
        return
    raise ConfigError(
        f"{here}.tiler: cuts a picture into several inputs, which needs a language model with a connector of {modality}s; remove it, "
        "choose one that cuts patches (fit, budget), or choose a head such as llava or kosmos"
    )
