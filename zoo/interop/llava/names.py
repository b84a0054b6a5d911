"""transformers' ``LlavaForConditionalGeneration`` <-> our system of a ``vit``, the head ``llava`` and a ``causal_lm``.

Image towers and language models that no part of ours is run in transformers itself (``hosted``); their names only change the prefix.

Reference: transformers 5.17, ``modeling_llava.py``. Files on the hub have the names of its releases before 4.52 (``language_model.model``,
``vision_tower.vision_model``), which it writes still; in memory the model is one level flatter. Both are read, the first are written.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from types import ModuleType
from typing import Any

from torch import Tensor

from zoo.errors import ConfigError, WeightsError
from zoo.interop.base import rules
from zoo.interop.base.rules import named
from zoo.interop.base.transformers_config import refuse_others
from zoo.interop.causal_lm import configs, transformers_causal_lm
from zoo.interop.clip import transformers_clip
from zoo.interop.llava.hosted import Hosted, hosted_encoder, hosted_language, refuse_scaled_scores
from zoo.interop.vit import transformers_dinov2, transformers_vit

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
TOWERS = {  # by model type: the module that knows its names and config; all others are hosted
    **dict.fromkeys((kind for kind in transformers_clip.DEFAULTS if kind != "siglip2_vision_model"), transformers_clip),
    **dict.fromkeys(("dinov2", "dinov2_with_registers"), transformers_dinov2),
    "vit": transformers_vit,
}
STRATEGIES = ("default", "full")  # leave out the first token, or nothing
LANGUAGES = tuple(configs.CLASSES)  # model types of our causal_lm; all others are hosted
VOCABULARY_STEP = 64  # the word table is lengthened to a multiple of it if the marker of images has no row


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the keys of the whole model, as it is in memory or in a file."""
    keys = set(keys)
    connector = [found["name"] for key in keys if (found := CONNECTOR.fullmatch(key))]
    mlp = bool(connector) and all(name.startswith(("linear_1.", "linear_2.")) for name in connector)
    return mlp and any(VISION.fullmatch(key) for key in keys)


def to_zoo(tensors: Mapping[str, Tensor], *, tied: bool = False, hosted: Hosted = Hosted()) -> dict[str, Tensor]:  # noqa: B008
    """Convert the state dict of either form to that of our system.

    Args:
        tied: the output projection of our language model is the word table.
        hosted: the parts that run in transformers.

    Raises:
        WeightsError: a tensor has no place in ours.
    """
    parts = split_parts(tensors)
    language = parts["language"]
    converted = {
        "vision": hosted.vision_to_zoo(parts["vision"]) if hosted.vision else _tower(parts["vision"]).to_zoo(parts["vision"]),
        "projector": rules.to_zoo(parts["projector"], PROJECTOR, origin=ORIGIN),
        "language": hosted.language_to_zoo(language) if hosted.language else transformers_causal_lm.to_zoo(language, tied=tied),
    }
    return in_system(converted)


def in_system(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the converted tensors of the parts in ``OURS`` under their names in our system."""
    return {OURS[part] + name: tensor for part, found in parts.items() for name, tensor in found.items()}


def of_system(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Undo ``in_system``."""
    return {part: {name.removeprefix(ours): t for name, t in tensors.items() if name.startswith(ours)} for part, ours in OURS.items()}


def split_parts(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of each part in ``OURS`` under the names that they have in the part.

    Raises:
        WeightsError: a tensor belongs to no part.
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
    return parts


def _tower(keys: Collection[str]) -> ModuleType:
    """Return the module that knows the names of an image tower."""
    return next((each for each in (transformers_dinov2, transformers_vit) if each.recognises(keys)), transformers_clip)


def _placed(name: str) -> tuple[str | None, str]:
    """Return the part that a tensor belongs to, and its name in that part."""
    if found := VISION.fullmatch(name):
        return "vision", found["name"]
    if found := CONNECTOR.fullmatch(name):
        return "projector", found["name"]
    if found := LANGUAGE.fullmatch(name):
        return "language", found["old"] or found["head"] or f"model.{found['new']}"
    return None, name


def from_zoo(tensors: Mapping[str, Tensor], language: Mapping[str, Any], hosted: Hosted = Hosted()) -> dict[str, Tensor]:  # noqa: B008
    """Convert the state dict of our system to theirs, under the names that files have.

    Args:
        language: keywords of our ``causal_lm``, all of them.
        hosted: the parts that run in transformers.

    Raises:
        WeightsError: a tensor has no place in their model.
    """
    parts = of_system(tensors)
    projector = rules.from_zoo(parts["projector"], PROJECTOR, origin=ORIGIN)
    if hosted.vision:
        vision = hosted.vision_from_zoo(parts["vision"], "vision_tower.")
    elif "blocks.0.scale1.scale" in parts["vision"]:  # layer scale: DINOv2
        vision = transformers_dinov2.from_zoo(parts["vision"], prefix="vision_tower.")
    else:
        vision = transformers_clip.from_zoo(parts["vision"], prefix="vision_tower.vision_model.")
    if hosted.language:
        words = hosted.language_from_zoo(parts["language"], "language_model.")
    else:
        words = transformers_causal_lm.from_zoo(parts["language"], language, prefix="language_model.")
    return {**vision, **{f"multi_modal_projector.{name}": tensor for name, tensor in projector.items()}, **words}


def system(config: Mapping[str, Any], keys: Collection[str] = ()) -> dict[str, Any]:
    """Convert a ``config.json`` of model type ``llava`` to encoder and head of our system.

    Args:
        keys: names of the weights, if they are known.

    Raises:
        ConfigError: our parts do not have something that the source has.
    """
    whole = {**DEFAULTS, **config}
    vision = {"model_type": "clip_vision_model", **(whole.get("vision_config") or {})}
    refuse_others(whole, {"projector_hidden_act": ("gelu",), "vision_feature_select_strategy": STRATEGIES}, "our llava")
    layer = whole["vision_feature_layer"]
    if not isinstance(layer, int) and not (isinstance(layer, list | tuple) and layer and all(isinstance(each, int) for each in layer)):
        raise ConfigError(f"vision_feature_layer: got {layer!r}; allowed is a whole number, or a list of them")
    image, prefix = _image(vision, [found["name"] for key in keys if (found := VISION.fullmatch(key))])
    connector = {"kind": "mlp"} if whole["multimodal_projector_bias"] else {"kind": "mlp", "bias": False}
    return {
        "encoders": {"image": image},
        "head": {
            "name": "llava",
            "language": _language(whole, keys),
            "connectors": {"image": connector},
            "feature_layer": layer if isinstance(layer, int) else list(layer),
            **({"class_token": True} if _keeps_class_token(whole["vision_feature_select_strategy"], vision["model_type"], prefix) else {}),
        },
    }


def _image(vision: Mapping[str, Any], names: Collection[str]) -> tuple[dict[str, Any], int]:
    """Return the image encoder of a ``vision_config``, and its number of prefix tokens."""
    kind = vision["model_type"]
    if kind not in TOWERS:
        return hosted_encoder(vision)
    arguments = TOWERS[kind].arguments(vision, names)
    # LLaVA reads hidden states, so that a pooler, which its files may lack, is of no use.
    pool = {"pool": "cls"} if arguments["pool"] == "cls_tanh" and not any(name.startswith("pooler.") for name in names) else {}
    return {"name": "vit", **arguments, **pool}, int(arguments["class_token"]) + arguments["num_registers"]


def _language(whole: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """Return the language model of a ``text_config``."""
    text = {"model_type": "llama", **(whole.get("text_config") or {})}
    tied = bool(whole["tie_word_embeddings"] or text.get("tie_word_embeddings", False))
    if keys:  # a tied projection is not written
        tied = not any(key.endswith("lm_head.weight") for key in keys)
    if text["model_type"] in LANGUAGES:
        words = configs.arguments({**text, "tie_word_embeddings": tied})
        refuse_scaled_scores({"model_type": text["model_type"], "final_logit_softcapping": words.get("logit_cap")})
        return {"name": "causal_lm", **words}
    return hosted_language({**text, "tie_word_embeddings": tied})


def _keeps_class_token(strategy: str, kind: str, prefix: int) -> bool:
    """Return True if the language model reads the class token too.

    Raises:
        ConfigError: transformers would leave out a patch, or read registers as if they were patches.
    """
    if prefix > 1:
        raise ConfigError(
            f"vision_config: a {kind} has {prefix} tokens before its patches, of which LLaVA's vision_feature_select_strategy leaves out "
            "one at most; the others would be read as patches, which zoo does not do. Choose a tower without registers"
        )
    if strategy == "default" and not prefix:
        raise ConfigError(
            f"vision_feature_select_strategy: got 'default', which leaves out the first patch of a {kind}, because it has no class token; "
            "allowed is 'full'"
        )
    return strategy == "full" and prefix == 1


def config(
    image: Mapping[str, Any], head: Mapping[str, Any], language: Mapping[str, Any], *, image_token_id: int, prefix: int, hosted: Hosted
) -> dict[str, Any]:
    """Convert all keywords of our parts to a ``config.json``.

    Args:
        prefix: number of tokens of the image encoder before its patches.

    Raises:
        ConfigError: their model does not have something that the source has; the message names the key of the system.
    """
    target = "transformers' LlavaForConditionalGeneration"
    word = head["connectors"].get("image", "mlp")
    options = {"kind": word} if isinstance(word, str) else dict(word)
    refuse_others({"depth": 2, **options}, {"kind": ("mlp",), "depth": (2,)}, target)
    if head["feature_layer"] is None:
        raise ConfigError(f"head.feature_layer: null, the last layer with its norm, is not what {target} reads; allowed is a number")
    strategy = "default" if prefix and not head["class_token"] else "full"
    _keeps_class_token(strategy, "tower like encoders.image", prefix)
    vision = image["config"] if hosted.vision else _their_tower(image)
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["LlavaForConditionalGeneration"],
        "vision_config": vision,
        "text_config": dict(language["config"]) if hosted.language else configs.config(language),
        "image_token_index": image_token_id,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": head["feature_layer"],
        "vision_feature_select_strategy": strategy,
        "multimodal_projector_bias": options.get("bias", True),
        "tie_word_embeddings": language["config"].get("tie_word_embeddings", False) if hosted.language else language["tied"],
    }


def _their_tower(image: Mapping[str, Any]) -> dict[str, Any]:
    return (transformers_clip if image["layer_scale"] is None else transformers_dinov2).config(image)
