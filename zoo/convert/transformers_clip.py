"""transformers' ``CLIPModel`` and ``SiglipModel`` <-> our system of ``vit``, ``text`` and ``clip``; their image towers <-> ``vit``.

References: transformers 5.17, ``modeling_clip.py`` and ``modeling_siglip.py``. The names in memory and in saved files are the
same. Files of older releases also hold the buffers ``position_ids``, which are no weights and are left out, and put
``vision_model.`` before the names of a ``CLIPVisionModel`` or ``SiglipVisionModel``: with or without it, those become a lone
``vit``. Its tokens are normalised, where ``CLIPVisionModel`` gives ``last_hidden_state`` without ``post_layernorm``.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from zoo.convert import rules
from zoo.convert.rules import joined, lifted, named, scalar, split, under
from zoo.convert.transformers_vision import feed_forward, filled, refuse_others, sizes, their_activation, their_sizes
from zoo.layers.mlp import hidden_width

ORIGIN = "transformers"
CLASSIFIER: tuple[str, ...] = ()
OLD_BUFFERS = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids", "embeddings.position_ids")
SHARED = {"image_size": 224, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
DEFAULTS = {  # of CLIPVisionConfig and SiglipVisionConfig
    "clip_vision_model": {**SHARED, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "siglip_vision_model": {
        **SHARED,
        "patch_size": 16,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "vision_use_head": True,
    },
}

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
TOWERS = [*under("vision_model.", "encoders.image.", VISION), *under("text_model.", "encoders.text.", TEXT)]
CLIP = [
    *TOWERS,
    *named({"visual_projection.weight": "head.projections.image.weight", "text_projection.weight": "head.projections.text.weight"}),
    scalar("logit_scale", "head.logit_scale"),
]
SIGLIP = [
    *TOWERS,
    *named({"text_model.head.{w}": "head.projections.text.{w}"}),
    scalar("logit_scale", "head.logit_scale", their_shape=(1,)),
    scalar("logit_bias", "head.logit_bias", their_shape=(1,)),
]


def recognises(keys: Iterable[str]) -> bool:
    """Whether these are the keys of a ``CLIPModel`` or ``SiglipModel``, or of the image tower of one."""
    keys = set(keys)
    text = "text_model.embeddings.token_embedding.weight" in keys
    both = text and ("visual_projection.weight" in keys or "text_model.head.weight" in keys)
    return is_tower(keys) or (both and "vision_model.embeddings.patch_embedding.weight" in keys)


def is_tower(keys: Iterable[str]) -> bool:
    """Whether these are the keys of a ``CLIPVisionModel`` or ``SiglipVisionModel``, which become an encoder and not a system."""
    keys = set(keys)
    image = ("embeddings.patch_embedding.weight", "encoder.layers.0.self_attn.q_proj.weight")
    alone = not any(key.startswith("text_model.") for key in keys)
    return alone and any(all(prefix + name in keys for name in image) for prefix in ("", "vision_model."))


def to_zoo(tensors: Mapping[str, Tensor], *, drop: Collection[str] = ()) -> dict[str, Tensor]:
    """State dict, as it is in memory or in a file, of either model to that of our system, or of a tower to that of our ``vit``.

    Args:
        drop: names to leave out with all below them. Without ``text_model``, ``text_projection``, ``visual_projection``,
            ``logit_scale`` and ``logit_bias``, a whole model is a tower.

    Raises:
        WeightsError: tensors that ours has no place for.
    """
    left = [name for name in tensors if not any(name == d or name.startswith(d + ".") for d in drop)]
    if is_tower(left):
        table = [*VISION, *under("vision_model.", "", VISION)]
    else:
        table = SIGLIP if "logit_bias" in tensors else CLIP
    return rules.to_zoo(tensors, table, origin=ORIGIN, drop=[*OLD_BUFFERS, *drop])


def from_zoo(tensors: Mapping[str, Tensor], *, prefix: str = "") -> dict[str, Tensor]:
    """State dict of our system to that of ``SiglipModel`` where the head has a bias for the sigmoid loss, else ``CLIPModel``.

    That of our ``vit`` alone becomes a ``CLIPVisionModel``'s or ``SiglipVisionModel``'s.

    Args:
        prefix: before each name of a lone tower: ``vision_model.`` for releases of transformers before 5.

    Raises:
        WeightsError: tensors that their model has no place for.
    """
    if not any(name.startswith("encoders.") for name in tensors):
        return rules.from_zoo(tensors, under(prefix, "", VISION), origin=ORIGIN)
    return rules.from_zoo(tensors, SIGLIP if "head.logit_bias" in tensors else CLIP, origin=ORIGIN)


def arguments(config: Mapping[str, Any], keys: Collection[str] = ()) -> dict[str, Any]:
    """A ``config.json`` of model type ``clip_vision_model`` or ``siglip_vision_model`` as keywords of our ``vit``.

    The ``vision_config`` inside a whole model's config is such a one too.

    Args:
        keys: names of the weights, where they are at hand: they tell whether a SigLIP tower has a head.

    Raises:
        ConfigError: what our ``vit`` does not have.
    """
    whole = filled(config, DEFAULTS)
    is_clip = whole["model_type"] == "clip_vision_model"
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
        "antialias": False,
    }


def config(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of our ``vit``, those with default values included, as a ``config.json`` of a tower.

    With a class token it is a ``CLIPVisionModel``, without one a ``SiglipVisionModel``. ``antialias`` is not carried over:
    theirs never does, which changes nothing at the nominal size.

    Raises:
        ConfigError: what their tower does not have.
    """
    if arguments["class_token"]:
        kind, legal = ("clip_vision_model", "CLIPVisionModel"), {"patch_bias": (False,), "pre_norm": (True,), "pool": ("cls",)}
    else:
        legal = {"patch_bias": (True,), "pre_norm": (False,), "pool": ("attention", "none")}
        kind = ("siglip_vision_model", "SiglipVisionModel")
    target = f"transformers' {kind[1]}"
    refuse_others(arguments, {"num_registers": (0,), "layer_scale": (None,), **legal}, target)
    return {
        "model_type": kind[0],
        "architectures": [kind[1]],
        **their_sizes(arguments),
        "intermediate_size": hidden_width(arguments["dim"], arguments["mlp_ratio"]),
        "hidden_act": their_activation(arguments, target),
        **({} if arguments["class_token"] else {"vision_use_head": arguments["pool"] == "attention"}),
    }
