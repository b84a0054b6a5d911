"""transformers' ``CLIPModel`` and its like <-> our system of ``vit``, ``text`` and ``clip``; their image towers <-> ``vit``.

``MetaClip2Model``, ``SiglipModel`` (also SigLIP 2 of a fixed size) and ``Siglip2Model`` (NaFlex) are of this form; in ``ChineseCLIPModel``
a ``bert`` reads the texts.

References: transformers 5.17, ``modeling_clip.py``, ``modeling_siglip.py`` and those of the others. The names in memory and in
saved files are the same. Files of older releases also hold the buffers ``position_ids``, which are no weights and are left out, and
put ``vision_model.`` before the names of a ``CLIPVisionModel`` or ``SiglipVisionModel``: with or without it, those become a lone
``vit``. Its tokens are normalised, where ``CLIPVisionModel`` gives ``last_hidden_state`` without ``post_layernorm``.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from zoo.errors import ConfigError
from zoo.interop.base import rules
from zoo.interop.base.rules import joined, lifted, named, scalar, split, under
from zoo.interop.base.transformers_config import (
    count,
    feed_forward,
    filled,
    refuse_others,
    sizes,
    text_sizes,
    their_activation,
    their_sizes,
    their_text_sizes,
)
from zoo.interop.clip import naflex
from zoo.interop.text_encoders import bert
from zoo.layers.mlp import hidden_width

ORIGIN = "transformers"
MODELS = {"clip": "CLIPModel", "metaclip_2": "MetaClip2Model", "chinese_clip": "ChineseCLIPModel", "siglip": "SiglipModel"}
MODELS[naflex.KIND] = "Siglip2Model"
SIGLIPS = ("siglip", naflex.KIND)
CLASSIFIER: tuple[str, ...] = ()
OLD_BUFFERS = tuple(f"{tower}embeddings.position_ids" for tower in ("text_model.", "vision_model.", ""))
SHARED = {"image_size": 224, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
DEFAULTS = {  # of CLIPVisionConfig, MetaClip2VisionConfig, ChineseCLIPVisionConfig and SiglipVisionConfig
    **dict.fromkeys(
        ("clip_vision_model", "metaclip_2_vision_model", "chinese_clip_vision_model"),
        {**SHARED, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    ),
    "siglip_vision_model": {
        **SHARED,
        "patch_size": 16,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "vision_use_head": True,
    },
}
DEFAULTS["siglip2_vision_model"] = {**DEFAULTS["siglip_vision_model"], "num_patches": 256}
TEXT_SHARED = {"num_hidden_layers": 12, "eos_token_id": 49407}
TEXT_DEFAULTS = {  # of CLIPTextConfig, MetaClip2TextConfig and SiglipTextConfig
    **dict.fromkeys(
        ("clip_text_model", "metaclip_2_text_model"),
        {
            **TEXT_SHARED,
            **{"vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8},
            **{"max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
        },
    ),
    "siglip_text_model": {
        **TEXT_SHARED,
        **{"vocab_size": 32000, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
        **{"max_position_embeddings": 64, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
    },
}
TEXT_DEFAULTS["siglip2_text_model"] = TEXT_DEFAULTS["siglip_text_model"]
OLD_EOS = 2  # what CLIP's configs of before July 2023 say whatever the tokenizer has; transformers then pools at the largest id
PROJECTION_DIM = 512  # of CLIPConfig
CHINESE_WORDS = "text_model.embeddings.word_embeddings.weight"

BLOCK = [
    joined(["self_attn.q_proj.{w}", "self_attn.k_proj.{w}", "self_attn.v_proj.{w}"], "attention.qkv.{w}"),
    *named(
        {
            "self_attn.out_proj.{w}": "attention.out.{w}",
            "layer_norm1.{w}": "norm1.{w}",
            "layer_norm2.{w}": "norm2.{w}",
            "mlp.fc1.{w}": "mlp.fc1.{w}",
            "mlp.fc2.{w}": "mlp.fc2.{w}",
        }
    ),
]
POOL = [  # of SigLIP's image tower; torch's MultiheadAttention packs q, k, v
    split("attention.in_proj_{w}", ["attention.query.{w}", "attention.key_value.{w}"], shares=[1, 2]),
    *named(
        {
            "probe": "probe",
            "attention.out_proj.{w}": "attention.out.{w}",
            "layernorm.{w}": "norm.{w}",
            "mlp.fc1.{w}": "mlp.fc1.{w}",
            "mlp.fc2.{w}": "mlp.fc2.{w}",
        }
    ),
]
VISION = [
    lifted("embeddings.class_embedding", "class_token", axes=2),
    lifted("embeddings.position_embedding.weight", "positions"),
    *named(
        {
            "embeddings.patch_embedding.{w}": "patch.project.{w}",
            "pre_layrnorm.{w}": "pre_norm.{w}",  # sic
            "post_layernorm.{w}": "norm.{w}",
        }
    ),
    *under("encoder.layers.{i}.", "blocks.{i}.", BLOCK),
    *under("head.", "attention_pool.", POOL),
]
TEXT = [
    *named(
        {
            "embeddings.token_embedding.weight": "embedding.weight",
            "embeddings.position_embedding.weight": "positions",
            "final_layer_norm.{w}": "norm.{w}",
        }
    ),
    *under("encoder.layers.{i}.", "blocks.{i}.", BLOCK),
]
IMAGES = under("vision_model.", "encoders.image.", VISION)
TEXTS = under("text_model.", "encoders.text.", TEXT)
HEAD = [
    *named({"visual_projection.weight": "head.projections.image.weight", "text_projection.weight": "head.projections.text.weight"}),
    scalar("logit_scale", "head.logit_scale"),
]
CLIP = [*IMAGES, *TEXTS, *HEAD]
CHINESE = [*IMAGES, *under("text_model.", "encoders.text.", bert.MODEL), *HEAD]
SIGLIP = [
    *IMAGES,
    *TEXTS,
    *named({"text_model.head.{w}": "head.projections.text.{w}"}),
    scalar("logit_scale", "head.logit_scale", their_shape=(1,)),
    scalar("logit_bias", "head.logit_bias", their_shape=(1,)),
]
NAFLEX = [*under("vision_model.", "encoders.image.", [naflex.PATCHES]), *SIGLIP]


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the keys of a ``CLIPModel`` or its like, or of the image tower of one."""
    keys = set(keys)
    text = bool({"text_model.embeddings.token_embedding.weight", CHINESE_WORDS} & keys)
    both = text and ("visual_projection.weight" in keys or "text_model.head.weight" in keys)
    return is_tower(keys) or (both and "vision_model.embeddings.patch_embedding.weight" in keys)


def is_tower(keys: Iterable[str]) -> bool:
    """Return True for the keys of a ``CLIPVisionModel`` or ``SiglipVisionModel``, which become an encoder and not a system."""
    keys = set(keys)
    image = ("embeddings.patch_embedding.weight", "encoder.layers.0.self_attn.q_proj.weight")
    alone = not any(key.startswith("text_model.") for key in keys)
    return alone and any(all(prefix + name in keys for name in image) for prefix in ("", "vision_model."))


def to_zoo(tensors: Mapping[str, Tensor], *, drop: Collection[str] = ()) -> dict[str, Tensor]:
    """Convert the state dict, as it is in memory or in a file, of either model to that of our system, or of a tower to that of our ``vit``.

    Args:
        drop: names to leave out with all below them. Without ``text_model``, ``text_projection``, ``visual_projection``,
            ``logit_scale`` and ``logit_bias``, a whole model is a tower.

    Raises:
        WeightsError: a tensor has no place in ours.
    """
    left = [name for name in tensors if not any(name == d or name.startswith(d + ".") for d in drop)]
    if is_tower(left):
        table = [naflex.PATCHES, *VISION] if naflex.is_naflex(tensors) else VISION
        table = [*table, *under("vision_model.", "", table)]
    elif naflex.is_naflex(tensors):
        table = NAFLEX
    else:
        table = SIGLIP if "logit_bias" in tensors else CHINESE if CHINESE_WORDS in tensors else CLIP
    return rules.to_zoo(tensors, table, origin=ORIGIN, drop=[*OLD_BUFFERS, *drop])


def from_zoo(tensors: Mapping[str, Tensor], *, prefix: str = "", any_size: bool = False) -> dict[str, Tensor]:
    """Convert the state dict of our system to that of ``SiglipModel`` if the head has a bias for the sigmoid loss, else a ``CLIPModel``.

    That of our ``vit`` alone becomes a ``CLIPVisionModel``'s or ``SiglipVisionModel``'s.

    Args:
        prefix: before each name of a lone tower: ``vision_model.`` for releases of transformers before 5.
        any_size: True makes a ``Siglip2Model`` or ``Siglip2VisionModel`` of a SigLIP, which takes lists of patches.

    Raises:
        WeightsError: a tensor has no place in their model.
    """
    if not any(name.startswith("encoders.") for name in tensors):
        return rules.from_zoo(tensors, under(prefix, "", [naflex.PATCHES, *VISION] if any_size else VISION), origin=ORIGIN)
    if any_size:
        return rules.from_zoo(tensors, NAFLEX, origin=ORIGIN)
    table = SIGLIP if "head.logit_bias" in tensors else CHINESE if "encoders.text.types" in tensors else CLIP
    return rules.from_zoo(tensors, table, origin=ORIGIN)


def arguments(config: Mapping[str, Any], keys: Collection[str] = ()) -> dict[str, Any]:
    """Convert a ``config.json`` of a type in ``DEFAULTS`` (``clip_vision_model``, ``siglip_vision_model``, ...) to keywords of our ``vit``.

    The ``vision_config`` inside a whole model's config is such a one too.

    Args:
        keys: names of the weights, if they are known: they tell if a SigLIP tower has a head.

    Raises:
        ConfigError: our ``vit`` does not have something that the source has.
    """
    whole = filled(config, DEFAULTS)
    is_clip = whole["model_type"] not in ("siglip_vision_model", "siglip2_vision_model")
    any_size = whole["model_type"] == "siglip2_vision_model"
    whole = naflex.with_image_size(whole) if any_size else whole
    head = any("head.probe" in key for key in keys) if keys else whole.get("vision_use_head")
    return {
        **sizes(whole),
        **feed_forward(whole),
        "class_token": is_clip,
        "num_registers": 0,
        "patch_bias": not is_clip,
        "pre_norm": is_clip,
        "layer_scale": None,
        "pool": "cls" if is_clip else "attention" if head else "none",
        "antialias": any_size,
        "resampling": "bilinear" if any_size else "bicubic",
    }


def config(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Convert all keywords of our ``vit`` to a ``config.json`` of a tower.

    With a class token it is a ``CLIPVisionModel``, without one a ``SiglipVisionModel``, or a ``Siglip2VisionModel`` if positions are
    resized as there (``takes_any_size``). Otherwise ``antialias`` is not carried over, which changes nothing at the nominal size.

    Raises:
        ConfigError: their tower does not have something that the source has.
    """
    if arguments["class_token"]:
        kind, legal = ("clip_vision_model", "CLIPVisionModel"), {"patch_bias": (False,), "pre_norm": (True,), "pool": ("cls",)}
    else:
        legal = {"patch_bias": (True,), "pre_norm": (False,), "pool": ("attention", "none")}
        kind = ("siglip_vision_model", "SiglipVisionModel")
        kind = ("siglip2_vision_model", "Siglip2VisionModel") if takes_any_size(arguments) else kind
    target = f"transformers' {kind[1]}"
    refuse_others(arguments, {"num_registers": (0,), "layer_scale": (None,), **legal}, target)
    their = their_sizes(arguments)
    return {
        "model_type": kind[0],
        "architectures": [kind[1]],
        **(naflex.their_patches(their) if takes_any_size(arguments) else their),
        "intermediate_size": hidden_width(arguments["dim"], arguments["mlp_ratio"]),
        "hidden_act": their_activation(arguments, target),
        **({} if arguments["class_token"] else {"vision_use_head": arguments["pool"] == "attention"}),
    }


def takes_any_size(arguments: Mapping[str, Any]) -> bool:
    """Return True if the keywords of our ``vit`` are those of SigLIP 2 NaFlex, which resizes positions by bilinear interpolation."""
    return not arguments["class_token"] and arguments.get("resampling") == "bilinear" and bool(arguments["antialias"])


def text_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a ``text_config`` with its ``model_type``, a key of ``TEXT_DEFAULTS``, to keywords of our ``text``.

    Raises:
        ConfigError: our ``text`` does not have something that the source has.
    """
    whole = filled(config, TEXT_DEFAULTS)
    is_clip = whole["model_type"] not in ("siglip_text_model", "siglip2_text_model")
    pool = _text_pool(whole) if is_clip else {"pool": "last"}
    return {**text_sizes(whole), **feed_forward(whole), "causal": is_clip, **pool}


def _text_pool(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pooling of ``CLIPTextTransformer``: at the first end symbol; an id outside the vocabulary gives position 0."""
    eos = config["eos_token_id"]
    if not isinstance(eos, int):
        raise ConfigError(f"eos_token_id: got {eos!r}; allowed is one whole number")
    if eos == OLD_EOS and config["model_type"] == "clip_text_model":  # MetaCLIP 2 has no old configs: its 2 is the end symbol
        return {"pool": "argmax"}
    return {"pool": "eot", "eot_token_id": eos} if 0 <= eos < config["vocab_size"] else {"pool": "cls"}


def system(config: Mapping[str, Any], keys: Collection[str] = ()) -> dict[str, Any]:
    """Convert a ``config.json`` of a model type in ``MODELS`` to encoders and head of our system.

    Args:
        keys: names of the weights, if they are known.

    Raises:
        ConfigError: our parts do not have something that the source has.
    """
    kind = config["model_type"]
    vision, text = ({**_tower(config, tower), "model_type": f"{kind}_{tower}_model"} for tower in ("vision", "text"))
    image = arguments(vision, [key for key in keys if key.startswith("vision_model.")])
    head = {"loss": "info_nce", "embed_dim": count({"projection_dim": PROJECTION_DIM, **config}, "projection_dim")}
    if kind in SIGLIPS:
        head = {
            "loss": "sigmoid",
            "embed_dim": image["dim"],
            "projections": {"image": "none", "text": "linear_bias"},
            "logit_scale_max": None,
        }
    if kind == "chinese_clip":
        words = {"name": "bert", **bert.arguments({**text, "model_type": bert.MODEL_TYPE}), "pool": "cls"}
    else:
        words = {"name": "text", **text_arguments(text)}
    encoders = {"image": {"name": "vit", **image}, "text": words}
    return {"encoders": encoders, "head": {"name": "clip", **head}}


def _tower(config: Mapping[str, Any], tower: str) -> dict[str, Any]:
    """Return a tower's config; files of the first releases have it, or changes to it, under a second name, which wins."""
    return {**(config.get(f"{tower}_config") or {}), **(config.get(f"{tower}_config_dict") or {})}


def system_config(image: Mapping[str, Any], text: Mapping[str, Any], head: Mapping[str, Any]) -> dict[str, Any]:
    """Convert all keywords of our parts to the ``config.json`` of a ``CLIPModel`` or its like.

    Raises:
        ConfigError: theirs do not have something that the source has; the message names the key of the system.
    """
    kind = _kind(image, text, head)
    sigmoid = kind in SIGLIPS
    words = {"image": "none", "text": "linear_bias"} if sigmoid else {"image": "linear", "text": "linear"}
    given = head["projections"]
    projections = dict.fromkeys(words, given) if isinstance(given, str) else {m: given.get(m, "linear") for m in words}
    target = f"transformers' {MODELS[kind]}"
    _named("head.projections.", lambda: refuse_others(projections, {m: (word,) for m, word in words.items()}, target))
    pools = {"class_token": (not sigmoid,), "pool": ("attention" if sigmoid else "cls",)}
    _named("encoders.image.", lambda: refuse_others(image, pools, target))
    vision = {**_named("encoders.image.", lambda: config(image)), "model_type": f"{kind}_vision_model"}
    texts = _named("encoders.text.", lambda: _their_text(text, kind, target))
    if sigmoid:
        texts["projection_size"] = head["embed_dim"]
    else:
        vision["projection_dim"] = texts["projection_dim"] = head["embed_dim"]
    whole = {"model_type": kind, "architectures": [MODELS[kind]], "text_config": {**texts, "model_type": f"{kind}_text_model"}}
    vision.pop("architectures")
    return {**whole, "vision_config": vision, **({} if sigmoid else {"projection_dim": head["embed_dim"]})}


def _kind(image: Mapping[str, Any], text: Mapping[str, Any], head: Mapping[str, Any]) -> str:
    """Return the model type of theirs that has such towers and loss."""
    if head["loss"] == "sigmoid":
        return naflex.KIND if takes_any_size(image) else "siglip"
    if "num_types" in text:  # a keyword of our encoder 'bert'
        return "chinese_clip"
    return "metaclip_2" if text["pool"] == "eot" and text["eot_token_id"] == OLD_EOS else "clip"


def _their_text(text: Mapping[str, Any], kind: str, target: str) -> dict[str, Any]:
    if kind == "chinese_clip":
        refuse_others({"padding_row": None, **text}, {"padding_row": (None,), "pool": ("cls",)}, target)
        return bert.family_config(text, target)
    legal = {"causal": (False,), "pool": ("last",)} if kind in SIGLIPS else {"causal": (True,), "pool": ("eot", "argmax")}
    refuse_others(text, legal, target)
    texts = their_text_sizes(text, target)
    if kind not in SIGLIPS:
        texts["eos_token_id"] = OLD_EOS if text["pool"] == "argmax" else text["eot_token_id"]
    return texts


def _named(prefix: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except ConfigError as error:
        raise ConfigError(f"{prefix}{error}") from error
