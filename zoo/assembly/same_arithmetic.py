"""Refuse weights whose model computes something else with them than ours would."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from zoo.assembly.system import System
from zoo.errors import ConfigError
from zoo.interop.base.format import Description
from zoo.interop.base.library_files import OPEN_CLIP_CONFIG
from zoo.interop.causal_lm.describe import PART, whole_keywords
from zoo.interop.formats import log
from zoo.registry import find_part
from zoo.types import Encoder, config_of

UNSEEN = ("num_heads", "activation", "causal")  # keywords of encoders that change what weights compute, but none of their shapes
UNSEEN_IN_SYSTEMS = (*UNSEEN, "eps", "pool", "eot_token_id")  # an encoder alone may well be pooled in another way


def refuse_other_arithmetic(module: nn.Module, part: str, description: Description, origin: str) -> None:
    """Raise ConfigError where an encoder would compute something else with these weights than the model they come from.

    Where they do not tell their activation, the log says which one they get.
    """
    theirs = description.config
    language = theirs["system"]["head"].get("language") if "system" in theirs else None
    key, ours = language_config(module, part)
    if language is not None and ours is not None:
        refuse_other_language(ours, language, key, origin)
    head = theirs["system"]["head"] if "system" in theirs else {}
    refuse_other_layer(module, part, head, origin)
    refuse_other_heads(module, part, head, origin)
    refuse_other_latents(module, part, head, origin)
    encoders = theirs["system"]["encoders"] if "system" in theirs else {None: theirs["encoder"]}
    words = UNSEEN_IN_SYSTEMS if isinstance(module, System) and not part else UNSEEN
    for modality, config in encoders.items():
        key, ours = _encoder_config(module, part, modality)
        if ours is None or ours.get("name") != config["name"]:
            continue
        if not description.certain:
            _say_activation(origin, key, ours)
        defaults = {word: p.default for word, p in inspect.signature(find_part("encoder", ours["name"])).parameters.items()}
        for word in words:
            known = word in config and (word != "activation" or description.certain)
            if known and not _same(word, {**defaults, **ours}, config):
                raise ConfigError(
                    f"{key}.{word}: {ours.get(word, defaults[word])!r}, but {origin} was trained with {config[word]!r}, which no "
                    f"shape shows; set {key}.{word} to it, or let zoo.load build the model. Nothing was loaded."
                )


def _encoder_config(module: nn.Module, part: str, modality: str | None) -> tuple[str, Mapping[str, Any] | None]:
    """The key and the config of our encoder that a source's encoder of this modality goes into; None where there is none."""
    if not isinstance(module, System):
        fits = modality in (None, module.modality if isinstance(module, Encoder) else None)
        return "encoder", config_of(module).get("encoder") if fits else None
    for name, config in module.config.get("encoders", {}).items():
        if part in ("", "encoders", f"encoders.{name}") and modality in (None, name):
            return f"system.encoders.{name}", config
    return "system", None


def _same(word: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether a keyword means the same: the largest id of a text is its end symbol where that is the last of the vocabulary."""
    if word == "eps":
        return math.isclose(ours[word], theirs[word], rel_tol=1e-3)
    if word == "eot_token_id" and "eot" not in (ours["pool"], theirs["pool"]):
        return True
    if word in ("pool", "eot_token_id") and {ours["pool"], theirs["pool"]} == {"eot", "argmax"}:
        end = ours if ours["pool"] == "eot" else theirs
        return end["eot_token_id"] == theirs["vocab_size"] - 1
    return ours[word] == theirs[word]


def _say_activation(origin: str, key: str, ours: Mapping[str, Any]) -> None:
    log.warning(
        "%s does not tell the activation that its weights were trained with; %s.activation=%s is used. Of OpenAI's weights and of "
        'those whose name says so it is quick_gelu, else gelu; write {"model_cfg": {"quick_gelu": true}} (or false) into %s beside it',
        *(origin, key, ours.get("activation", "gelu"), OPEN_CLIP_CONFIG),
    )


def refuse_other_latents(module: nn.Module, part: str, head: Mapping[str, Any], origin: str) -> None:
    """Raise ConfigError where our connector would attend otherwise, or be shown other tokens, than the one that the weights come from."""
    if head.get("name") != "kosmos" or not isinstance(module, System) or part not in ("", "head"):
        return
    ours, theirs = module.head, {"normalise": True, **head["connectors"]["image"]}
    connector: Any = dict(ours.connectors).get("image")
    found = {"class_token": (ours.class_token, head["class_token"])}
    if hasattr(connector, "normalise"):  # it is Kosmos-2's
        found["connectors.image.num_heads"] = connector.attention.num_heads, theirs["num_heads"]
        found["connectors.image.normalise"] = connector.normalise, theirs["normalise"]
    for key, (mine, wanted) in found.items():
        if mine != wanted:
            raise ConfigError(
                f"system.head.{key}: {mine}, but {origin} was trained with {wanted}, which no shape shows; set system.head.{key} to it, or "
                "let zoo.load build the model. Nothing was loaded."
            )


def refuse_other_layer(module: nn.Module, part: str, head: Mapping[str, Any], origin: str) -> None:
    """Raise ConfigError where our head would read another layer of the encoder than the model that the weights come from."""
    if "feature_layer" not in head or not isinstance(module, System) or part not in ("", "head"):
        return
    ours = module.head.feature_layer
    if ours != head["feature_layer"]:
        raise ConfigError(
            f"system.head.feature_layer: {ours}, but {origin} was trained with {head['feature_layer']}, which no shape shows; set "
            "system.head.feature_layer to it, or let zoo.load build the model. Nothing was loaded."
        )


def refuse_other_heads(module: nn.Module, part: str, theirs: Mapping[str, Any], origin: str) -> None:
    """Raise ConfigError where our decoder has another number of heads than the one whose weights it gets, which no shape shows."""
    if not isinstance(module, System) or part not in ("", "head") or theirs.get("name") != "whisper":
        return
    ours = getattr(getattr(module.head, "decoder", None), "num_heads", None)
    if ours not in (None, theirs["num_heads"]):
        raise ConfigError(
            f"system.head.num_heads: {ours}, but {origin} was trained with {theirs['num_heads']}, which no shape shows; set "
            "system.head.num_heads to it, or let zoo.load build the model. Nothing was loaded."
        )


UNSEEN_IN_LANGUAGE = (  # keywords that change what weights compute, but none of their shapes
    *("num_heads", "num_kv_heads", "head_dim", "eps", "rope_theta", "rope_scaling", "window", "activation", "positions", "norm"),
    *("xpos_scale", "embed_scale"),
)


def refuse_other_language(ours: Mapping[str, Any], theirs: Mapping[str, Any], key: str, origin: str) -> None:
    """Raise ConfigError where our language model would compute something else with weights than the model they come from."""
    if ours.get("name") != theirs["name"]:
        return
    defaults = {word: p.default for word, p in inspect.signature(find_part("language", ours["name"])).parameters.items()}
    mine = whole_keywords({**defaults, **ours})
    for word, value in whole_keywords({**defaults, **theirs}).items():
        same = math.isclose(mine[word], value, rel_tol=1e-3) if word in ("eps", "embed_scale") else mine[word] == value
        if word in UNSEEN_IN_LANGUAGE and (word in theirs or word in ("num_kv_heads", "head_dim")) and not same:
            raise ConfigError(
                f"{key}.{word}: {mine[word]!r}, but {origin} was trained with {value!r}, which no shape shows; set {key}.{word} to it, or "
                "let zoo.load build the model. Nothing was loaded."
            )


def language_config(module: nn.Module, part: str) -> tuple[str, Mapping[str, Any] | None]:
    """The key and the config of our language model that a source's goes into; None where there is none."""
    if not isinstance(module, System):
        return "language", config_of(module).get("language")
    head = module.config.get("head") or {}
    return f"system.{PART}", head.get("language") if part in ("", "head", PART) else None
