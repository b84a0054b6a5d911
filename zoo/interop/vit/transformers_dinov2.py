"""transformers' ``Dinov2Model`` and ``Dinov2WithRegistersModel`` <-> our ``vit``.

References: transformers 5.17, ``modeling_dinov2.py`` and ``modeling_dinov2_with_registers.py``; Oquab et al. 2023 (arXiv
2304.07193), Darcet et al. 2023 (arXiv 2309.16588). Names in memory and in files are the same. The mask token replaces hidden
patches in pre-training; it is left out when weights are read, and written as zeros, as theirs is before training. Their
classifier reads the class token and the mean of the patches, twice our pooled width: it can only be dropped.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ConfigError, WeightsError
from zoo.interop.base import rules
from zoo.interop.base.rules import joined, named, under
from zoo.interop.base.transformers_config import count, feed_forward, filled, refuse_others, sizes, their_activation, their_sizes
from zoo.layers.mlp import hidden_width

ORIGIN = "transformers"
CLASSIFIER = ("classifier",)
PREFIXES = ("", "dinov2.", "dinov2_with_registers.")
SHARED = {
    "image_size": 224,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "layerscale_value": 1.0,
    "use_swiglu_ffn": False,
}
DEFAULTS = {  # of Dinov2Config and Dinov2WithRegistersConfig
    "dinov2": {**SHARED, "patch_size": 14, "num_register_tokens": 0},
    "dinov2_with_registers": {**SHARED, "patch_size": 16, "num_register_tokens": 4},
}

BLOCK = [
    joined(["attention.attention.query.{w}", "attention.attention.key.{w}", "attention.attention.value.{w}"], "attention.qkv.{w}"),
    *named(
        {
            "norm1.{w}": "norm1.{w}",
            "attention.output.dense.{w}": "attention.out.{w}",
            "layer_scale1.lambda1": "scale1.scale",
            "norm2.{w}": "norm2.{w}",
            "layer_scale2.lambda1": "scale2.scale",
        }
    ),
]
MLP = named({"mlp.fc1.{w}": "mlp.fc1.{w}", "mlp.fc2.{w}": "mlp.fc2.{w}"})
SWIGLU = named({"mlp.weights_in.{w}": "mlp.fc1.{w}", "mlp.weights_out.{w}": "mlp.fc2.{w}"})
REST = named(
    {
        "embeddings.cls_token": "class_token",
        "embeddings.register_tokens": "registers",
        "embeddings.position_embeddings": "positions",
        "embeddings.patch_embeddings.projection.{w}": "patch.project.{w}",
        "layernorm.{w}": "norm.{w}",
    }
)
BOTH = [*REST, *under("encoder.layer.{i}.", "blocks.{i}.", [*BLOCK, *MLP, *SWIGLU])]


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the keys of such a model, or of a model around one."""
    keys = set(keys)
    needed = ("embeddings.patch_embeddings.projection.weight", "encoder.layer.0.layer_scale1.lambda1")
    return any(all(prefix + name in keys for name in needed) for prefix in PREFIXES)


def to_zoo(tensors: Mapping[str, Tensor], *, drop: Collection[str] = ()) -> dict[str, Tensor]:
    """Convert the state dict of transformers to that of our ``vit``, without the mask token.

    Args:
        drop: names to leave out with all below them, for example ``classifier``.

    Raises:
        WeightsError: a tensor has no place in our encoder.
    """
    table = [rule for prefix in PREFIXES for rule in under(prefix, "", BOTH)]
    masks = [f"{prefix}embeddings.mask_token" for prefix in PREFIXES]
    return rules.to_zoo(tensors, table, origin=ORIGIN, drop=[*masks, *drop])


def from_zoo(tensors: Mapping[str, Tensor], *, prefix: str = "") -> dict[str, Tensor]:
    """Convert the state dict of our ``vit`` to that of transformers, with a mask token of zeros.

    Args:
        prefix: before each name: ``dinov2.`` or ``dinov2_with_registers.`` for a model with a head.

    Raises:
        WeightsError: a tensor has no place in their model.
    """
    found = rules.from_zoo(tensors, under(prefix, "", _table(tensors)), origin=ORIGIN)
    token = found.get(f"{prefix}embeddings.cls_token")
    if token is None:
        raise WeightsError(f"zoo -> {ORIGIN}: there is no class_token, which DINOv2 needs")
    return {**found, f"{prefix}embeddings.mask_token": torch.zeros_like(token[0])}  # [1, dim]


def classifier_to_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return nothing: no head of ours takes their classifier.

    Raises:
        WeightsError: there is a classifier.
    """
    if any(name.startswith("classifier.") for name in tensors):
        raise WeightsError(
            f"{ORIGIN} -> zoo: the classifier of DINOv2 reads class token and mean of the patches, which no pool of our vit gives "
            f"together; drop it (drop={CLASSIFIER}) and train one on the encoder's pooled vector"
        )
    return {}


def arguments(config: Mapping[str, Any], keys: Collection[str] = ()) -> dict[str, Any]:
    """Convert a ``config.json`` of model type ``dinov2`` or ``dinov2_with_registers`` to keywords of our ``vit``.

    Args:
        keys: not needed; the modules for other models ask for them.

    Raises:
        ConfigError: our ``vit`` does not have something that the source has.
    """
    whole = filled(config, DEFAULTS)
    with_registers = whole["model_type"] == "dinov2_with_registers"
    width = count(whole, "hidden_size")
    hidden = hidden_width(width, whole["mlp_ratio"])
    if whole["use_swiglu_ffn"]:
        mlp = {"mlp_ratio": _swiglu_width(hidden) / width, "activation": "swiglu"}
    else:
        mlp = feed_forward({**whole, "intermediate_size": hidden})
    return {
        **sizes(whole),
        **mlp,
        "class_token": True,
        "num_registers": count(whole, "num_register_tokens") if with_registers else 0,
        "patch_bias": True,
        "pre_norm": False,
        "layer_scale": float(whole["layerscale_value"]),
        "pool": "cls",
        "antialias": with_registers,
        "resampling": "bicubic",
    }


def config(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Convert all keywords of our ``vit`` to a ``config.json`` of either model.

    ``antialias`` is not carried over: theirs does with registers only, which changes nothing at the nominal size.

    Raises:
        ConfigError: their model does not have something that the source has.
    """
    target = "transformers' DINOv2"
    refuse_others(arguments, {"class_token": (True,), "patch_bias": (True,), "pre_norm": (False,), "pool": ("cls",)}, target)
    if arguments["layer_scale"] is None:
        raise ConfigError(f"layer_scale: got null; {target} scales every branch; allowed is a number")
    registers, gated = arguments["num_registers"], arguments["activation"] == "swiglu"
    kind = ("dinov2_with_registers", "Dinov2WithRegistersModel") if registers else ("dinov2", "Dinov2Model")
    return {
        "model_type": kind[0],
        "architectures": [kind[1]],
        **their_sizes(arguments),
        "mlp_ratio": _their_ratio(arguments["dim"], hidden_width(arguments["dim"], arguments["mlp_ratio"]), gated),
        "hidden_act": "gelu" if gated else their_activation(arguments, target),
        "use_swiglu_ffn": gated,
        "qkv_bias": True,
        "layerscale_value": arguments["layer_scale"],
        **({"num_register_tokens": registers} if registers else {"use_mask_token": True}),
    }


def _table(tensors: Mapping[str, Tensor]) -> list[rules.Rule]:
    """Return the rules for these weights; a gated feed-forward part has twice as many rows in the first matrix as columns in the second."""
    first, second = (tensors.get(f"blocks.0.mlp.fc{n}.weight") for n in (1, 2))
    gated = first is not None and second is not None and first.shape[0] == 2 * second.shape[1]
    return [*REST, *under("encoder.layer.{i}.", "blocks.{i}.", [*BLOCK, *(SWIGLU if gated else MLP)])]


def _swiglu_width(hidden: int) -> int:
    """Return two thirds of a plain width, rounded up to a multiple of 8 (``Dinov2SwiGLUFFN``): 6144 gives 4096."""
    return (int(hidden * 2 / 3) + 7) // 8 * 8


def _their_ratio(dim: int, hidden: int, gated: bool) -> int:
    """Return the whole ``mlp_ratio`` that gives this width in their model."""
    for ratio in range(1, hidden // dim + hidden // dim + 3):
        if (_swiglu_width(dim * ratio) if gated else dim * ratio) == hidden:
            return ratio
    raise ConfigError(
        f"mlp_ratio: {hidden} hidden channels of {dim}; transformers' DINOv2 takes whole ratios"
        + (", of which a gated one takes two thirds, rounded up to a multiple of 8" if gated else "")
    )
