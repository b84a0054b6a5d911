"""Config to objects, name to object, directory to system.

Works on plain dicts; ``zoo.compose`` makes them from Hydra configs and ``zoo.inspection`` tries them without weights.
"""

import inspect
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from torch import nn

from zoo import adapters
from zoo.checkpoint import CONFIG_FILE, WEIGHTS_FILE, atomic_directory, compress, write_tensors
from zoo.compose import compose, refuse_code
from zoo.construct import build_part, construct
from zoo.counting import spec_of_shown, token_counts, try_patches
from zoo.data.processor import CONVERSATION, Processor, hash_files
from zoo.errors import ConfigError, WeightsError
from zoo.layers.backbone import freeze
from zoo.layers.meta import meta_device
from zoo.registry import find_part, find_row
from zoo.system import System, specs_of
from zoo.types import Encoder, EncoderSpec, Head, LanguageModel, reads_of
from zoo.weights.loading import FORMAT, Source, find_weights, load_parts, read_source

log = logging.getLogger("zoo")

EXAMPLE_DIM = 64  # width of the encoders that a head built alone is given
EXAMPLE_WORDS = {"vocab_size": 512, "word_dim": EXAMPLE_DIM}  # and of the table of words of one of text
EXAMPLE_LANGUAGE = "llama_nano"  # and its language model


def build_system(config: Mapping[str, Any], key: str = "system") -> System:
    """Build encoders, head and processor from a system's config; where torch's default device is meta, without weights.

    Raises:
        ConfigError: anything that does not fit, with the config key, both sides and what is allowed.
    """
    refuse_code(config, key)
    unknown = sorted(set(config) - {"name", "encoders", "head", "processor", adapters.KEY})
    if unknown:
        raise ConfigError(f"{key}.{unknown[0]}: a system has no such key; known: name, encoders, head, processor")
    for part in ("encoders", "head"):
        if not isinstance(config.get(part), Mapping) or (part == "head" and not config[part]):
            raise ConfigError(f"{key}.{part}: is missing; choose one, for example with head@{key}.head=clip")
    encoders = {m: _build_encoder(m, c, f"{key}.encoders.{m}") for m, c in config["encoders"].items()}
    refuse_encoders(config, specs_of(encoders), key)
    specs = _specs_for_head(config, encoders, key)
    head = _build_head(config["head"], specs, f"{key}.head")
    for encoder in encoders.values():  # what nobody reads gets no gradient, which several processes would wait for
        if "pooled" not in reads_of(head) and isinstance(pooler := getattr(encoder, "pooler", None), nn.Module):
            pooler.requires_grad_(False)
    if isinstance(connectors := getattr(head, "connectors", None), nn.ModuleDict):
        head.counts = token_counts(encoders, specs, connectors)  # type: ignore[attr-defined]  # the system tells its processor
    processor = _build_processor(config.get("processor") or {}, encoders, key, head)
    system = System(encoders, head, processor=processor, config=config, name=str(config.get("name", "system")))
    add_adapters(system, config.get(adapters.KEY) or {}, f"{key}.{adapters.KEY}")
    return system


def add_adapters(system: System, words: Mapping[str, Any], key: str) -> None:
    """Put adapters into parts of a system.

    Args:
        words: keywords of ``zoo.adapters.Adapter`` by part, for example ``{"head.language": {"kind": "lora", "rank": 16}}``.

    Raises:
        ConfigError: unknown keywords, and what ``zoo.adapters.inject`` refuses.
    """
    adapters.inject(system, {part: construct(adapters.Adapter, w or {}, f"{key}.{part}") for part, w in words.items()}, key)


def _specs_for_head(config: Mapping[str, Any], encoders: Mapping[str, Encoder], key: str) -> dict[str, EncoderSpec]:
    """What the head is told of the encoders. Parameters behind the layer that it reads get no gradient, and are frozen."""
    part: Any = find_part("head", config["head"]["name"], f"{key}.head.name")
    if part.accepts.reads != "patches":
        return specs_of(encoders)
    known = inspect.signature(part).parameters
    layer, class_token = (config["head"].get(k, known[k].default if k in known else None) for k in ("feature_layer", "class_token"))
    specs = {}
    for modality, encoder in encoders.items():
        build = partial(_build_encoder, modality, config["encoders"][modality], f"{key}.encoders.{modality}")
        try:
            shown = try_patches(build, layer, class_token=bool(class_token))
        except ConfigError as error:
            raise ConfigError(f"{key}.head.feature_layer: encoders.{modality}: {error}") from error
        freeze(cast(nn.Module, encoder), shown.unused)
        specs[modality] = spec_of_shown(encoder, shown)
    return specs


def _build_head(config: Mapping[str, Any], inputs: Mapping[str, EncoderSpec], key: str) -> Head:
    """A head, and first the language model in it where it has one: ``{name: llava, language: {name: causal_lm, ...}, ...}``."""
    part, given = find_part("head", str(config.get("name")), f"{key}.name"), {}
    if "language" in inspect.signature(part).parameters:
        if not isinstance(config.get("language"), Mapping):
            raise ConfigError(f"{key}.language: is missing; choose one, for example with language@{key}.language=llama_nano")
        given["language"] = build_part("language", config["language"], f"{key}.language")
    return build_part("head", {k: v for k, v in config.items() if k not in given}, key, inputs=inputs, **given)


def _build_encoder(modality: str, config: Mapping[str, Any], key: str) -> Encoder:
    encoder = build_part("encoder", config, key)
    if encoder.modality != modality:
        raise ConfigError(
            f"{key}: encoder {config['name']!r} takes {encoder.modality}, but stands under {modality!r}; put it under "
            f"encoders.{encoder.modality} or choose an encoder of {modality} (see: zoo list --kind encoder)"
        )
    return encoder


def refuse_encoders(config: Mapping[str, Any], specs: Mapping[str, EncoderSpec], key: str) -> None:
    """Raise ConfigError where the head does not take these encoders."""
    name = config["head"].get("name")
    accepts = find_part("head", name, f"{key}.head.name").accepts
    legal = f"head {name!r} takes {accepts.minimum}" + (f" to {accepts.maximum}" if accepts.maximum > accepts.minimum else "")
    legal += f" encoder(s) of {', '.join(accepts.modalities)}"
    for modality, spec in specs.items():
        if modality not in accepts.modalities:
            raise ConfigError(f"{key}.encoders.{modality}: an encoder of {modality} does not fit; {legal}")
        if accepts.reads == "pooled" and not spec.pooled:
            raise ConfigError(
                f"{key}.encoders.{modality}: gives no pooled vector (pool: none), which head {name!r} reads; set "
                f"{key}.encoders.{modality}.pool to one that pools"
            )
    if not accepts.minimum <= len(specs) <= accepts.maximum:
        raise ConfigError(f"{key}.encoders: has {len(specs)} ({', '.join(specs) or 'none'}); {legal}")


def _build_processor(config: Mapping[str, Any], encoders: Mapping[str, Encoder], key: str, head: Head | None = None) -> Processor:
    """One part per modality; facts that the encoder, head or language model owns are taken from it, and may not be contradicted.

    What the encoder's weights were trained with (``encoder.preprocessing``) holds unless the config says otherwise.
    """
    parts, language = {}, getattr(head, "language", None)
    names: list[str] = [*encoders, *config, *getattr(head, "processors", ()), *([] if language is None else [CONVERSATION])]
    for modality in dict.fromkeys(names):
        here, encoder = f"{key}.processor.{modality}", encoders.get(modality)
        part = find_part("processor", modality, here)
        trained = getattr(head, "conversing", {}) if modality == CONVERSATION else getattr(encoder, "preprocessing", {})
        keywords = {**trained, **(config.get(modality) or {})}
        for name in part.encoder_keys if encoder is not None else ():
            theirs = getattr(encoder, "preprocessing", {}).get(name, getattr(encoder, name, None))
            ours = keywords.setdefault(name, theirs)
            if theirs is not None and ours != theirs:
                raise ConfigError(
                    f"{here}.{name}: the processor has {ours}, the encoder at {key}.encoders.{modality}.{name} has {theirs}; "
                    "they must be equal: change one of the two"
                )
        keywords |= _told(getattr(part, "language_keys", ()), keywords, language, here, f"{key}.head.language")
        keywords |= _told(getattr(part, "head_keys", ()), keywords, head, here, f"{key}.head")
        parts[modality] = build_part("processor", {"name": modality, **keywords}, here)
        refuse_other_eot(parts[modality], encoder, modality, key)
    if hasattr(head, "conversation"):
        refuse_missing_symbols(parts[CONVERSATION], encoders, key)
    return Processor(parts)


def _told(names: Sequence[str], keywords: Mapping[str, Any], owner: Any, here: str, where: str) -> dict[str, int]:
    """What a processor is told of the model that reads its tokens, where the config does not say; it may say less.

    Args:
        owner: the head, or the language model in it.
        where: its config key.
    """
    if names and not all(hasattr(owner, name) for name in names):
        example = (
            "llava_nano, which reads conversations" if where.endswith("language") else "whisper_nano_decoder, which writes transcripts"
        )
        raise ConfigError(f"{here}: there is nothing at {where} that reads its tokens; choose a head that does, for example {example}")
    found = {}
    for name in names:
        ours, theirs = keywords.get(name), getattr(owner, name)
        if isinstance(ours, int) and ours > theirs:
            raise ConfigError(
                f"{here}.{name}: the processor has {ours}, {where}.{name} is {theirs}; it may not be more: change one of the two"
            )
        if ours is None:
            found[name] = theirs
    return found


def refuse_other_eot(part: Any, encoder: Any, modality: str, key: str) -> None:
    """Raise ConfigError where a tokenizer ends texts with another symbol than the encoder looks for."""
    if getattr(encoder, "pool", None) == "eot" and part.eot_token_id != encoder.eot_token_id:
        raise ConfigError(
            f"{key}.encoders.{modality}.eot_token_id: pools at {encoder.eot_token_id}, but the tokenizer ends texts with "
            f"{part.eot_token_id} ({key}.processor.{modality}.eot_token_id); they must be equal"
        )
    separator = getattr(encoder, "separator_id", None)
    if separator is not None and separator != part.eot_token_id:
        raise ConfigError(
            f"{key}.encoders.{modality}.separator_id: {separator} ends a text for the encoder, but {part.eot_token_id} for the tokenizer "
            f"({key}.processor.{modality}.eot_token_id); they must be equal, or separator_id null"
        )


def refuse_missing_symbols(part: Any, modalities: Iterable[str], key: str) -> None:
    """Raise ConfigError where a head that looks for symbols around items would find none."""
    missing = [modality for modality in modalities if modality not in part.span_symbols]
    if missing:
        raise ConfigError(
            f"{key}.processor.conversation.template: {part.template_name!r} lays no start and end symbols around {missing[0]}, which the "
            f"head looks for; choose template kosmos, or name two special tokens: {key}.processor.conversation.spans.{missing[0]}"
        )


def create_model(
    name: str,
    *,
    weights: str | Path | None = None,
    weights_parts: Sequence[str] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **overrides: Any,
) -> nn.Module:
    """Create an encoder, language model, head or system by name, in eval mode.

    Args:
        name: any name of ``zoo.list_models()``.
        weights: where weights come from (see ``zoo.weights.loading``): a saved or a transformers directory, a file of tensors with zoo's,
            timm's, open_clip's, transformers' or the paper's names, "timm://NAME", "hf://OWNER/NAME", or "bundled" (shipped
            with zoo); None leaves random weights.
        weights_parts: load only these parts: of a system for example ["encoders.image"]; for an encoder ["encoder"] leaves a
            classifier behind, and ["encoders.image"] takes it out of a system's weights.
        overrides: constructor keywords that replace the row's (for a system: a nested dict per key).

    Raises:
        ConfigError: unknown name (near matches are named), keyword or value.
        WeightsError: weights that cannot be read or do not fit; nothing is half loaded.
    """
    row = find_row(name)
    with meta_device() if device is not None and torch.device(device).type == "meta" else torch.device(device or "cpu"):
        if row.kind == "system":
            model: nn.Module = build_system(_merge(compose("system", [f"system={name}"])["system"], overrides))
        else:
            inputs = overrides.pop("inputs", None)
            config = _merge({"name": row.family, **row.arguments}, overrides)
            if row.kind == "head":
                config = {**example_language(config), **config}
                model = cast(nn.Module, _build_head(config, inputs or example_inputs(config), name))
            else:
                model = build_part(row.kind, config, name)
            model.config = {row.kind: config}  # type: ignore[assignment]
    return finish(model, weights, name, device, dtype, weights_parts)


def example_inputs(config: Mapping[str, Any]) -> dict[str, EncoderSpec]:
    """Encoders for a head that is created alone: as few as it takes, image and text first, as wide as its ``embed_dim`` or ``dim``."""
    accepts = find_part("head", config["name"]).accepts
    order = [m for m in ("image", "text", "audio") if m in accepts.modalities]
    words: dict[str, dict[str, Any]] = {"text": EXAMPLE_WORDS}
    width = config.get("embed_dim", config.get("dim", EXAMPLE_DIM))
    return {m: EncoderSpec(m, width, **words.get(m, {})) for m in order[: accepts.minimum]}


def example_language(config: Mapping[str, Any]) -> dict[str, Any]:
    """A small language model for a head that has one and is created alone."""
    if "language" not in inspect.signature(find_part("head", config["name"])).parameters:
        return {}
    return {"language": _of_row("language", EXAMPLE_LANGUAGE)}


def _of_row(kind: str, name: str) -> dict[str, Any]:
    """A part's config, as its row gives it."""
    row = find_row(name, kind)
    return {"name": row.family, **row.arguments}


def _merge(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(config)
    for key, value in overrides.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def finish(
    model: nn.Module,
    weights: str | Path | Source | None,
    name: str,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    parts: Sequence[str] | None = None,
) -> nn.Module:
    """Load weights where asked for, set dtype and device, and leave training mode."""
    if weights is not None:
        load_parts(model, find_weights("bundled", name) if weights == "bundled" else weights, parts)
    return model.to(device=device, dtype=dtype).eval()


def create_system(
    config_or_name: str | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    weights: str | Path | None = None,
    weights_parts: Sequence[str] | None = None,
) -> System:
    """Create a system from a name with overrides in Hydra's syntax, or from a plain config.

    Args:
        config_or_name: a system's name, or a mapping with ``encoders``, ``head`` and, where wanted, ``processor``. Each
            encoder and the head is a mapping with ``name``, or the name of a row.
        overrides: for example ``["encoder@system.encoders.image=vig_nano", "system.head.embed_dim=32"]``.

    Raises:
        ConfigError: unknown names and keys, or parts that do not fit.
    """
    if isinstance(config_or_name, str):
        find_row(config_or_name, "system")
        config = compose("system", [f"system={config_or_name}", *overrides])["system"]
    else:
        if overrides:
            raise ConfigError("overrides: they go with a system's name; change the mapping itself instead")
        config = expand_names(config_or_name)
    system = build_system(config)
    return cast(System, finish(system, weights, system.name, None, None, weights_parts))


def expand_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the names of rows in a system's mapping by what they stand for."""

    def expand(kind: str, part: Any) -> Any:
        return _of_row(kind, part) if isinstance(part, str) else part

    config = dict(config.get("system", config))
    if isinstance(config.get("encoders"), Mapping):
        config["encoders"] = {m: expand("encoder", part) for m, part in config["encoders"].items()}
    head, language = expand("head", config.get("head")), config.pop("language", None)
    if isinstance(head, Mapping) and (language or isinstance(head.get("language"), str)):
        head = {**head, "language": expand("language", language or head["language"])}
    return {**config, "head": head}


def save(model: nn.Module, directory: str | Path, *, storage: str | None = None) -> Path:
    """Write ``config.yaml``, ``model.safetensors`` and the processor's files, all or nothing.

    Args:
        storage: None keeps every weight as it is; "fp16" and "int8" take fewer bytes and lose precision
            (``zoo.checkpoint.compress``).

    Raises:
        ConfigError: the model was not built by zoo, so that nobody could build it again.
    """
    config = {"system": model.config} if isinstance(model, System) else getattr(model, "config", None)
    if not config or not next(iter(config.values())):
        raise ConfigError(f"{type(model).__name__} has no config: build it with zoo.create_model or zoo.create_system")
    with atomic_directory(Path(directory)) as folder:
        state = model.state_dict()
        write_tensors(state if storage is None else compress(state, storage), folder / WEIGHTS_FILE)
        content = {"format": FORMAT, **config}
        processor: Any = getattr(model, "processor", None)
        if processor is not None and (isinstance(model, System) or "image" not in processor.parts):  # an image encoder's is in its config
            processor.save(folder)
            content["processor_sha256"] = hash_files(folder)
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    return Path(directory)


def load(
    source: str | Path, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> "System | Encoder | Head | LanguageModel":
    """Load what ``save`` wrote, the model of a run directory, or one of transformers, open_clip or OpenAI (also "hf://OWNER/NAME").

    The architecture is read from the source itself. Another library's model is built from our parts and its weights are
    converted: ViT, DINOv2, BERT, RoBERTa, ALBERT, the encoder of T5 and the vision towers of CLIP and SigLIP give an encoder, a
    ViT with classifier, a whole CLIP or SigLIP and a Whisper (of transformers, OpenAI or CTranslate2) give a system,
    and a GPT-2, LLaMA or Mistral a system without encoders that talks. A source is a directory, or a file: GGUF, a Whisper, or
    the whole CLIP of OpenAI or open_clip. An encoder that is loaded alone carries ``processor``.

    Raises:
        ConfigError: an architecture of transformers that our parts do not make.
        WeightsError: not a checkpoint, damaged, changed preprocessing, or weights that do not fit.
    """
    found = read_source(source)
    config = found.description.config if found.config is None else found.config
    if found.config is None and found.description.left_out:
        log.warning("%s: %s is left out; what zoo.load gives is the encoder alone", source, found.description.left_out)
    if "system" in config:
        model: nn.Module = build_system(config["system"])
    else:
        kind = next((kind for kind in ("encoder", "language", "head") if kind in config), None)
        if kind is None:
            raise WeightsError(f"{found.directory}/{CONFIG_FILE}: names no system and no encoder; it was not written by zoo.save")
        given = {"inputs": example_inputs(config[kind])} if kind == "head" else {}
        model = build_part(kind, config[kind], kind, **given)
        model.config = {kind: config[kind]}  # type: ignore[assignment]
        if getattr(model, "modality", None) == "image":  # its processor needs nothing that the encoder does not know
            model.processor = _build_processor({}, {"image": model}, "encoder")  # type: ignore[assignment, dict-item]
        elif found.config is None or "processor_sha256" in config:
            model.processor = found.processor()  # type: ignore[assignment]
        elif getattr(model, "modality", None) == "audio":
            model.processor = _build_processor({}, {"audio": model}, "encoder")  # type: ignore[assignment, dict-item]
    return finish(model, found, str(source), device, dtype)  # type: ignore[return-value]
