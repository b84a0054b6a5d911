"""transformers' ``LlavaForConditionalGeneration`` <-> our system of a ``vit``, the head ``llava`` and a ``causal_lm``.

Reference: transformers 5.17, ``modeling_llava.py``. Files on the hub have the names of its releases before 4.52 (``language_model.model``,
``vision_tower.vision_model``), which it writes still; in memory the model is one level flatter. Both are read, the first are written.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from zoo.errors import ConfigError, WeightsError
from zoo.interop.base import rules
from zoo.interop.base.rules import named
from zoo.interop.base.transformers_config import refuse_others
from zoo.interop.causal_lm import transformers_causal_lm
from zoo.interop.clip import transformers_clip

ORIGIN = "transformers"
MODEL_TYPE = "llava"
PROJECTOR = named({"linear_1.{w}": "layers.0.{w}", "linear_2.{w}": "layers.1.{w}"})
OURS = {"vision": "encoders.image.", "projector": "head.connectors.image.", "language": "head.language."}
# Prefixes of the names of each part, in files and in memory.
VISION = re.compile(r"(model\.)?vision_tower\.(vision_model\.)?(?P<name>.*)")
CONNECTOR = re.compile(r"(model\.)?multi_modal_projector\.(?P<name>.*)")
LANGUAGE = re.compile(r"(language_model\.(?P<old>(model|lm_head)\..*)|model\.language_model\.(?P<new>.*)|(?P<head>lm_head\..*))")
DEFAULTS = {
    "projector_hidden_act": "gelu",
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "multimodal_projector_bias": True,
    "tie_word_embeddings": False,
}
TOWERS = {"clip_vision_model": "default", "siglip_vision_model": "full"}  # by model type: leaves out the class token alone
VOCABULARY_STEP = 64  # the word table is lengthened to a multiple of it if the marker of images has no row


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the keys of the whole model, as it is in memory or in a file."""
    keys = set(keys)
    return any(CONNECTOR.fullmatch(key) for key in keys) and any(VISION.fullmatch(key) for key in keys)


def to_zoo(tensors: Mapping[str, Tensor], *, tied: bool = False) -> dict[str, Tensor]:
    """Convert the state dict of either form to that of our system.

    Args:
        tied: the output projection of our language model is the word table.

    Raises:
        WeightsError: a tensor has no place in ours.
    """
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in OURS}
    unknown = []
    for name, tensor in tensors.items():
        part, inner = _placed(name)
        if part is None:
            unknown.append(name)
        else:
            parts[part][inner] = tensor
    if unknown:
        raise WeightsError(f"{ORIGIN} -> zoo: the weights do not fit: {len(unknown)} unknown ({', '.join(sorted(unknown)[:3])})")
    converted = {
        "vision": transformers_clip.to_zoo(parts["vision"]),
        "projector": rules.to_zoo(parts["projector"], PROJECTOR, origin=ORIGIN),
        "language": transformers_causal_lm.to_zoo(parts["language"], tied=tied),
    }
    return {OURS[part] + name: tensor for part, found in converted.items() for name, tensor in found.items()}


def _placed(name: str) -> tuple[str | None, str]:
    """Return the part that a tensor belongs to, and its name in that part."""
    if found := VISION.fullmatch(name):
        return "vision", found["name"]
    if found := CONNECTOR.fullmatch(name):
        return "projector", found["name"]
    if found := LANGUAGE.fullmatch(name):
        return "language", found["old"] or found["head"] or f"model.{found['new']}"
    return None, name


def from_zoo(tensors: Mapping[str, Tensor], language: Mapping[str, Any]) -> dict[str, Tensor]:
    """Convert the state dict of our system to theirs, under the names that files have.

    Args:
        language: keywords of our ``causal_lm``, all of them.

    Raises:
        WeightsError: a tensor has no place in their model.
    """
    parts = {part: {name.removeprefix(ours): t for name, t in tensors.items() if name.startswith(ours)} for part, ours in OURS.items()}
    vision = transformers_clip.from_zoo(parts["vision"], prefix="vision_tower.vision_model.")
    projector = rules.from_zoo(parts["projector"], PROJECTOR, origin=ORIGIN)
    return {
        **vision,
        **{f"multi_modal_projector.{name}": tensor for name, tensor in projector.items()},
        **transformers_causal_lm.from_zoo(parts["language"], language, prefix="language_model."),
    }


def system(config: Mapping[str, Any], keys: Collection[str] = ()) -> dict[str, Any]:
    """Convert a ``config.json`` of model type ``llava`` to encoder and head of our system.

    Args:
        keys: names of the weights, if they are known.

    Raises:
        ConfigError: our parts do not have something that the source has.
    """
    whole = {**DEFAULTS, **config}
    vision = {"model_type": "clip_vision_model", **(whole.get("vision_config") or {})}
    text = {"model_type": "llama", **(whole.get("text_config") or {})}
    kind = vision["model_type"]
    if kind not in TOWERS:
        raise ConfigError(f"vision_config.model_type: got {kind!r}; allowed are {', '.join(TOWERS)}")
    legal = {"projector_hidden_act": ("gelu",), "vision_feature_select_strategy": (TOWERS[kind],)}
    refuse_others(whole, legal, f"our llava with a {kind}")
    if not isinstance(whole["vision_feature_layer"], int):
        raise ConfigError(
            f"vision_feature_layer: got {whole['vision_feature_layer']!r}; allowed is one whole number: our llava reads one layer"
        )
    names = [found["name"] for key in keys if (found := VISION.fullmatch(key))]
    tied = bool(whole["tie_word_embeddings"] or text.get("tie_word_embeddings", False))
    arguments = transformers_causal_lm.arguments({**text, "tie_word_embeddings": tied})
    connector = {"kind": "mlp"} if whole["multimodal_projector_bias"] else {"kind": "mlp", "bias": False}
    return {
        "encoders": {"image": {"name": "vit", **transformers_clip.arguments(vision, names)}},
        "head": {
            "name": "llava",
            "language": {"name": "causal_lm", **arguments},
            "connectors": {"image": connector},
            "feature_layer": whole["vision_feature_layer"],
        },
    }


def config(image: Mapping[str, Any], head: Mapping[str, Any], language: Mapping[str, Any], *, image_token_id: int) -> dict[str, Any]:
    """Convert all keywords of our parts to a ``config.json``.

    Raises:
        ConfigError: their model does not have something that the source has; the message names the key of the system.
    """
    target = "transformers' LlavaForConditionalGeneration"
    word = head["connectors"].get("image", "mlp")
    options = {"kind": word} if isinstance(word, str) else dict(word)
    refuse_others({"depth": 2, **options}, {"kind": ("mlp",), "depth": (2,)}, target)
    if head["feature_layer"] is None:
        raise ConfigError(f"head.feature_layer: null, the last layer with its norm, is not what {target} reads; allowed is a number")
    vision, text = transformers_clip.config(image), transformers_causal_lm.config(language)
    patches = (image["image_size"] // image["patch_size"]) ** 2
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["LlavaForConditionalGeneration"],
        "vision_config": vision,
        "text_config": text,
        "image_token_index": image_token_id,
        "image_seq_length": patches,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": head["feature_layer"],
        "vision_feature_select_strategy": TOWERS[vision["model_type"]],
        "multimodal_projector_bias": options.get("bias", True),
        "tie_word_embeddings": language["tied"],
    }
