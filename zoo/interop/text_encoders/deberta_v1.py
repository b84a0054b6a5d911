"""transformers' ``DebertaModel``, ``DebertaForMaskedLM`` (version 1) <-> our ``deberta`` with ``key_bias: false``, and the head ``bert``.

Reference: transformers 5.17, ``modeling_deberta.py``. Everything that the versions share is in ``zoo.interop.text_encoders.deberta``.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from zoo.interop.base import rules
from zoo.interop.base.rules import named, under
from zoo.interop.base.transformers_config import refuse_others
from zoo.interop.text_encoders import deberta as later
from zoo.interop.text_encoders.bert import refuse_kind

ORIGIN, FAMILY, PREFIX = later.ORIGIN, later.FAMILY, later.PREFIX
CLASSIFIER, POOLER = later.CLASSIFIER, later.POOLER
MODEL_TYPE = "deberta"
DEFAULTS: dict[str, Any] = {  # of DebertaConfig, where they differ from those of DebertaV2Config
    **later.DEFAULTS,
    **{"vocab_size": 50265, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "talking_head": False,
}
FIXED = {"share_positions": False, "norm_positions": False, "buckets": None, "key_bias": False, "conv_kernel": 0}
ONLY_LATER = ("position_buckets", "share_att_key", "norm_rel_ebd")  # keys of the config that version 1 does not have
PROJECTIONS = named(
    {
        "attention.self.in_proj.weight": "attention.qkv.heads.weight",
        "attention.self.q_bias": "attention.qkv.query_bias",
        "attention.self.v_bias": "attention.qkv.value_bias",
        "attention.self.pos_proj.weight": "attention.position_key.weight",
        "attention.self.pos_q_proj.{w}": "attention.position_query.{w}",
    }
)
MODEL = [
    *(
        rule
        for rule in later.MODEL
        if not any(word in rule.theirs[0] for word in (".attention.self.", "encoder.conv", "encoder.LayerNorm"))
    ),
    *under("encoder.layer.{i}.", "blocks.{i}.", PROJECTIONS),
]
has_head, head_arguments = later.has_head, later.head_arguments
classifier_to_zoo, classifier_from_zoo = later.classifier_to_zoo, later.classifier_from_zoo


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the keys of a ``DebertaModel``, with or without the prefix ``deberta.``."""
    keys = set(keys)
    names = ("encoder.rel_embeddings.weight", "encoder.layer.0.attention.self.in_proj.weight")
    return any(all(prefix + name in keys for name in names) for prefix in ("", PREFIX))


def to_zoo(tensors: Mapping[str, Tensor], *, drop: Collection[str] = ()) -> dict[str, Tensor]:
    """Convert the state dict, as it is in memory or in a file, to that of our ``deberta``.

    Raises:
        WeightsError: a tensor has no place in ours.
    """
    return rules.to_zoo(tensors, [*MODEL, *under(PREFIX, "", MODEL)], origin=ORIGIN, drop=[*later.LEFT, *drop])


def from_zoo(tensors: Mapping[str, Tensor], *, prefix: str = "") -> dict[str, Tensor]:
    """Convert the state dict of our ``deberta`` to that of ``DebertaModel``; with any prefix to that of a model with a head."""
    return rules.from_zoo(tensors, under(PREFIX if prefix else "", "", MODEL), origin=ORIGIN)


def arguments(config: Mapping[str, Any], keys: Collection[str] = (), pooling: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Convert a ``config.json`` of model type ``deberta`` to keywords of our ``deberta``.

    Args:
        pooling: sentence-transformers' ``1_Pooling/config.json``, if there is one; otherwise the first token is pooled.

    Raises:
        ConfigError: ours does not have something that the source has.
    """
    refuse_kind(config, MODEL_TYPE)
    whole = {**DEFAULTS, **config}
    refuse_others(whole, {"talking_head": (False,)}, "our deberta")
    return {**later.arguments({**whole, "model_type": later.MODEL_TYPE}, keys, pooling), **FIXED}


def config(arguments: Mapping[str, Any], head: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Convert all keywords of our ``deberta``, and of its head to a ``config.json``.

    Raises:
        ConfigError: theirs does not have something that the source has.
    """
    refuse_others(arguments, {name: (value,) for name, value in FIXED.items()}, "transformers' DebertaModel")
    found = {key: value for key, value in later.config(arguments, head).items() if key not in ONLY_LATER}
    return found | {"model_type": MODEL_TYPE, "architectures": ["DebertaModel" if head is None else "DebertaForMaskedLM"]}
