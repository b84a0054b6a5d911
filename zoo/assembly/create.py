"""Create models and systems by name."""

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from zoo.assembly.build import build_head, build_processor, build_system
from zoo.assembly.loading import finish
from zoo.assembly.memory import refuse_too_large
from zoo.assembly.placement import find_device, find_precision
from zoo.assembly.system import System
from zoo.data.system_processor import Processor
from zoo.errors import ConfigError
from zoo.layers.meta import meta_device
from zoo.registry import Row, find_part, find_row
from zoo.registry.construct import build_part
from zoo.registry.pretrained import find_pretrained, is_tagged
from zoo.registry.rows import own_rows
from zoo.types import Encoder, EncoderSpec, Part

EXAMPLE_DIM = 64  # width of the example encoders of a head that is created alone
EXAMPLE_WORDS = {"vocab_size": 512, "word_dim": EXAMPLE_DIM}  # and the word table of an example text encoder
EXAMPLE_LANGUAGE = "llama_nano"  # its example language model


def create_model(
    name: str,
    *,
    weights: str | Path | None = None,
    weights_parts: Sequence[str] | None = None,
    pretrained: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    precision: str | None = None,
    **overrides: Any,
) -> nn.Module:
    """Create an encoder, language model, head or system by name, in eval mode.

    Args:
        name: any name of ``zoo.list_models()``, or one with a tag of ``zoo.list_models(pretrained=True)`` ("clip_vit_b32:openai").
        weights: source of the weights (see ``zoo.assembly.loading``): a saved or a transformers directory, a file of tensors with the names
            of zoo, timm, open_clip, transformers or the paper, "timm://NAME", "hf://OWNER/NAME", or "bundled" (shipped with zoo). None
            keeps random weights.
        weights_parts: load only these parts, of a system for example ["encoders.image"]. For an encoder, ["encoder"] skips a classifier,
            and ["encoders.image"] reads the encoder from a system's weights.
        pretrained: tag of published weights; "openai" with the name "clip_vit_b32" is the same as the name "clip_vit_b32:openai".
        device: "auto" is the GPU if there is one; None is the CPU.
        dtype: of the weights; None is float32.
        precision: "fp32", "bf16", "fp16" or "fp64", which are types of the weights (fp16 not on a CPU, see ``set_precision``); "int8"
            or "int4" for inference on a CPU (``zoo.layers.low_precision``); "auto" for bf16 on a GPU that has it, else fp32.
        overrides: constructor keywords that replace the row's (for a system: a nested dict per key).

    Raises:
        ConfigError: an unknown name (the message lists near matches), keyword or value.
        WeightsError: the weights cannot be read or do not fit; no weight has been loaded then.
    """
    device = find_device(device)
    found_precision = find_precision(precision, dtype, device=device)
    if pretrained is not None or is_tagged(name):
        others = {"weights": weights, "weights_parts": weights_parts, **overrides}
        return _pretrained(name, pretrained, others, device, found_precision)
    row = find_row(name)
    with meta_device() if device is not None and torch.device(device).type == "meta" else torch.device(device or "cpu"):
        if row.kind == "system":
            model: nn.Module = build_system(_merge(plain_system(row), overrides))
        else:
            inputs = overrides.pop("inputs", None)
            config = _merge({"name": row.family, **row.arguments}, overrides)
            if row.kind == "head":
                config = {**example_language(config), **config}
                model = cast(nn.Module, build_head(config, inputs or example_inputs(config), name))
            else:
                refuse_too_large(config, partial(build_part, row.kind, config, name), name)
                model = build_part(row.kind, config, name)
            cast(Part, model).remember({row.kind: config}, encoder_processor(model, row.name))
    return finish(model, weights, name, device, found_precision, weights_parts)


def _pretrained(
    name: str, tag: str | None, others: Mapping[str, Any], device: torch.device | str | None, precision: str | torch.dtype | None
) -> nn.Module:
    """Return the model of a name and tag; what it is made of is read from its weights, so that nothing else can be chosen."""
    from zoo.assembly.pretrained import load_pretrained  # it imports this module

    given = sorted(key for key, value in others.items() if value is not None)
    if given:
        full = name if tag is None else f"{name}:{tag}"
        raise ConfigError(
            f"{given[0]}: cannot be chosen together with pretrained weights ({full}), whose source says what the model is; take "
            f"create_model({name.partition(':')[0]!r}, weights={find_pretrained(full).address!r}, ...) instead"
        )
    return load_pretrained(name if tag is None else f"{name}:{tag}", device=device, precision=precision)


def encoder_processor(model: nn.Module, name: str) -> Processor | None:
    """Return the processor of an encoder that is created alone; None for another part, and for an encoder of no raw input.

    Texts are processed as in the system of ``conf/`` that has the row; a tokenizer that comes with weights is not there yet.
    """
    if not isinstance(model, Encoder) or not set(find_part("processor", model.modality).encoder_keys) <= _told(model):
        return None
    systems = [row.arguments for row in own_rows("system").values() if row.arguments["encoders"].get(model.modality) == name]
    settings = next((system["processor"].get(model.modality) or {} for system in systems if system.get("processor")), {})
    end = {} if model.eot_token_id is None else {"eot_token_id": model.eot_token_id}
    try:
        return build_processor({model.modality: {**end, **settings}} if model.modality == "text" else {}, {model.modality: model}, name)
    except ConfigError:  # sizes that no raw input fits, for example a vocabulary of ten words: the encoder still takes ready tensors
        return None


def _told(encoder: Encoder) -> set[str]:
    keys = find_part("processor", encoder.modality).encoder_keys
    return {key for key in keys if encoder.preprocessing.get(key) is not None or vars(encoder).get(key) is not None}


def example_inputs(config: Mapping[str, Any]) -> dict[str, EncoderSpec]:
    """Return example encoders for a head that is created alone: the fewest that it accepts, with its ``embed_dim`` or ``dim`` as width."""
    accepts = find_part("head", config["name"]).accepts
    order = sorted(accepts.modalities, key=lambda m: (m != accepts.modalities[0], m == "audio"))  # the first one, then image and text
    words: dict[str, dict[str, Any]] = {"text": EXAMPLE_WORDS}
    width = config.get("embed_dim", config.get("dim", EXAMPLE_DIM))
    projections = config.get("projections")
    kinds = projections if isinstance(projections, Mapping) else {}
    widths = {m: EXAMPLE_DIM if kinds.get(m) == "mlp_and_input" else width for m in order}  # such a projection widens its input
    return {m: EncoderSpec(m, widths[m], **words.get(m, {})) for m in order[: accepts.minimum]}


def example_language(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a small language model for a head that needs one and is created alone."""
    if "language" not in inspect.signature(find_part("head", config["name"])).parameters:
        return {}
    return {"language": _of_row("language", EXAMPLE_LANGUAGE)}


def _of_row(kind: str, name: str) -> dict[str, Any]:
    """Return the config of a row: its part and keywords."""
    row = find_row(name, kind)
    return {"name": row.family, **row.arguments}


def _merge(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(config)
    for key, value in overrides.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def create_system(
    config_or_name: str | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    weights: str | Path | None = None,
    weights_parts: Sequence[str] | None = None,
) -> System:
    """Create a system from a name with overrides in Hydra's syntax, or from a plain config.

    Args:
        config_or_name: a system's name, or a mapping with ``encoders``, ``head`` and optionally ``processor``. Each encoder and the head
            is a mapping with ``name``, or the name of a row.
        overrides: for example ``["encoder@system.encoders.image=vig_nano", "system.head.embed_dim=32"]``.

    Raises:
        ConfigError: unknown names and keys, or parts that do not fit.
    """
    if isinstance(config_or_name, str):
        row = find_row(config_or_name, "system")
        config = compose_system(row.name, overrides) if overrides else plain_system(row)
    else:
        if overrides:
            raise ConfigError("overrides: they work only with the name of a system; change the mapping itself instead")
        config = expand_names(config_or_name)
    system = build_system(config)
    return cast(System, finish(system, weights, system.name, None, None, weights_parts))


def plain_system(row: Row) -> dict[str, Any]:
    """Return the config of a system's row, equal to that which Hydra composes for its name."""
    config = expand_names(row.arguments)
    first = {key: config.pop(key) for key in ("encoders", "head")}
    return {**first, "name": row.name, **config}


def compose_system(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Compose a system with overrides in Hydra's syntax."""
    from zoo.assembly.compose import compose  # Hydra, which a plain name does not need

    return compose("system", [f"system={name}", *overrides])["system"]


def expand_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the names of rows in a system's mapping by their configs."""

    def expand(kind: str, part: Any) -> Any:
        return _of_row(kind, part) if isinstance(part, str) else part

    config = dict(config.get("system", config))
    if isinstance(config.get("encoders"), Mapping):
        config["encoders"] = {m: expand("encoder", part) for m, part in config["encoders"].items()}
    head, language = expand("head", config.get("head")), config.pop("language", None)
    if isinstance(head, Mapping) and (language or isinstance(head.get("language"), str)):
        head = {**head, "language": expand("language", language or head["language"])}
    return {**config, "head": head}
