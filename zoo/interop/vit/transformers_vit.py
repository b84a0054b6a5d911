"""transformers' ``ViTModel`` and ``ViTForImageClassification`` <-> our ``vit``.

Reference: transformers 5.17, ``modeling_vit.py`` and ``conversion_mapping.py``. In memory the blocks have other names than in
files (``save_pretrained`` turns them back): both are read, with and without the prefix ``vit.``, and those of files are written. An
encoder does not take a classifier: the caller drops it by name, ``drop=CLASSIFIER``, else it is an error.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from zoo.interop.base import rules
from zoo.interop.base.rules import joined, named, under
from zoo.interop.base.transformers_config import feed_forward, filled, refuse_others, sizes, their_activation, their_sizes
from zoo.layers.mlp import hidden_width

ORIGIN = "transformers"
CLASSIFIER = ("classifier",)
DEFAULTS = {  # of ViTConfig
    "vit": {
        "image_size": 224,
        "patch_size": 16,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "pooler_output_size": None,
        "pooler_act": "tanh",
    }
}

IN_FILES = [
    joined(["attention.attention.query.{w}", "attention.attention.key.{w}", "attention.attention.value.{w}"], "attention.qkv.{w}"),
    *named(
        {
            "attention.output.dense.{w}": "attention.out.{w}",
            "intermediate.dense.{w}": "mlp.fc1.{w}",
            "output.dense.{w}": "mlp.fc2.{w}",
        }
    ),
]
IN_MEMORY = [
    joined(["attention.q_proj.{w}", "attention.k_proj.{w}", "attention.v_proj.{w}"], "attention.qkv.{w}"),
    *named({"attention.o_proj.{w}": "attention.out.{w}", "mlp.fc1.{w}": "mlp.fc1.{w}", "mlp.fc2.{w}": "mlp.fc2.{w}"}),
]
NORMS = named({"layernorm_before.{w}": "norm1.{w}", "layernorm_after.{w}": "norm2.{w}"})
REST = named(
    {
        "embeddings.cls_token": "class_token",
        "embeddings.position_embeddings": "positions",
        "embeddings.patch_embeddings.projection.{w}": "patch.project.{w}",
        "layernorm.{w}": "norm.{w}",
        "pooler.dense.{w}": "pooler.{w}",
    }
)
FILE_BLOCKS = under("encoder.layer.{i}.", "blocks.{i}.", [*IN_FILES, *NORMS])
MEMORY_BLOCKS = under("layers.{i}.", "blocks.{i}.", [*IN_MEMORY, *NORMS])
BOTH = [*REST, *FILE_BLOCKS, *MEMORY_BLOCKS]
HEAD = named({"classifier.{w}": "linear.{w}"})


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the keys of a ``ViTModel``, or of a model around one."""
    keys = set(keys)
    first = ("encoder.layer.0.layernorm_before.weight", "layers.0.layernorm_before.weight")
    return any(
        f"{prefix}embeddings.patch_embeddings.projection.weight" in keys and any(prefix + name in keys for name in first)
        for prefix in ("", "vit.")
    )


def to_zoo(tensors: Mapping[str, Tensor], *, drop: Collection[str] = ()) -> dict[str, Tensor]:
    """Convert the state dict of transformers, as it is in memory or in a file, to that of our ``vit``.

    Args:
        drop: names to leave out with all below them, for example ``classifier`` or ``vit.pooler``.

    Raises:
        WeightsError: a tensor has no place in our encoder.
    """
    return rules.to_zoo(tensors, [*BOTH, *under("vit.", "", BOTH)], origin=ORIGIN, drop=drop)


def from_zoo(tensors: Mapping[str, Tensor], *, prefix: str = "", in_memory: bool = False) -> dict[str, Tensor]:
    """Convert the state dict of our ``vit`` to that of transformers, without classifier.

    Args:
        prefix: before each name: ``vit.`` for ``ViTForImageClassification``.
        in_memory: the names that ``model.state_dict()`` has, not those that files hold (``from_pretrained`` takes either).

    Raises:
        WeightsError: a tensor has no place in their model.
    """
    table = [*REST, *(MEMORY_BLOCKS if in_memory else FILE_BLOCKS)]
    return rules.from_zoo(tensors, under(prefix, "", table), origin=ORIGIN)


def classifier_to_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert ``classifier.*`` of a whole model's state dict to ``linear.*`` of our head; empty if there is none."""
    return rules.to_zoo({name: t for name, t in tensors.items() if name.startswith("classifier.")}, HEAD, origin=ORIGIN)


def classifier_from_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert ``linear.*`` of our head to ``classifier.*``."""
    return rules.from_zoo(tensors, HEAD, origin=ORIGIN)


def arguments(config: Mapping[str, Any], keys: Collection[str] = ()) -> dict[str, Any]:
    """Convert a ``config.json`` of model type ``vit`` to keywords of our ``vit``.

    Args:
        keys: names of the weights, if they are known: they tell if there is a pooler. Otherwise a
            ``ViTForImageClassification`` is taken to have none, and every other model to have one.

    Raises:
        ConfigError: our ``vit`` does not have something that the source has.
    """
    whole = filled(config, DEFAULTS)
    pooler = any("pooler.dense." in key for key in keys) if keys else "ViTForImageClassification" not in (config.get("architectures") or ())
    if pooler:
        refuse_others(whole, {"pooler_act": ("tanh",), "pooler_output_size": (None, whole["hidden_size"])}, "our vit")
    return {
        **sizes(whole),
        **feed_forward(whole),
        "class_token": True,
        "num_registers": 0,
        "patch_bias": True,
        "pre_norm": False,
        "layer_scale": None,
        "pool": "cls_tanh" if pooler else "cls",
        "antialias": False,
        "resampling": "bicubic",
    }


def config(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Convert all keywords of our ``vit`` to a ``config.json`` of a ``ViTModel``.

    ``antialias`` is not carried over: theirs never does, which changes nothing at the nominal size.

    Raises:
        ConfigError: their ``ViTModel`` does not have something that the source has.
    """
    legal = {"class_token": (True,), "num_registers": (0,), "patch_bias": (True,), "pre_norm": (False,), "layer_scale": (None,)}
    refuse_others(arguments, {**legal, "pool": ("cls", "cls_tanh")}, "transformers' ViTModel")
    return {
        "model_type": "vit",
        "architectures": ["ViTModel"],
        **their_sizes(arguments),
        "intermediate_size": hidden_width(arguments["dim"], arguments["mlp_ratio"]),
        "hidden_act": their_activation(arguments, "transformers' ViTModel"),
        "qkv_bias": True,
        "pooler_output_size": arguments["dim"],
        "pooler_act": "tanh",
    }
