"""transformers' ``AlbertModel``, ``AlbertForMaskedLM`` and ``AlbertForPreTraining`` <-> our ``albert`` and the head ``bert``.

Reference: transformers 5.17, ``modeling_albert.py``. Its groups of layers are one group of one layer, as in all published models.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from zoo.interop.base import rules
from zoo.interop.base.rules import joined, named, under
from zoo.interop.base.transformers_config import ACTIVATIONS, count, refuse_others
from zoo.interop.text_encoders.bert import family_arguments, family_config, family_head, new_names, refuse_head, refuse_kind

ORIGIN = "transformers"
FAMILY = "albert"
CLASSIFIER = ("predictions", "sop_classifier", "classifier", "qa_outputs")
POOLER = ("pooler", "albert.pooler")
MODEL_TYPE = "albert"
DEFAULTS = {  # of AlbertConfig
    "vocab_size": 30000,
    "embedding_size": 128,
    "hidden_size": 4096,
    "num_hidden_layers": 12,
    "num_hidden_groups": 1,
    "num_attention_heads": 64,
    "intermediate_size": 16384,
    "inner_group_num": 1,
    "hidden_act": "gelu_new",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
LAYER = "encoder.albert_layer_groups.0.albert_layers.0."
MODEL = [
    *named(
        {
            "embeddings.word_embeddings.weight": "embedding.weight",
            "embeddings.position_embeddings.weight": "positions",
            "embeddings.token_type_embeddings.weight": "types",
            "embeddings.LayerNorm.{w}": "norm.{w}",
            "encoder.embedding_hidden_mapping_in.{w}": "widen.{w}",
            "pooler.{w}": "pooler.{w}",
            LAYER + "attention.dense.{w}": "block.attention.out.{w}",
            LAYER + "attention.LayerNorm.{w}": "block.norm1.{w}",
            LAYER + "ffn.{w}": "block.mlp.fc1.{w}",
            LAYER + "ffn_output.{w}": "block.mlp.fc2.{w}",
            LAYER + "full_layer_layer_norm.{w}": "block.norm2.{w}",
        }
    ),
    joined([LAYER + f"attention.{word}.{{w}}" for word in ("query", "key", "value")], "block.attention.qkv.{w}"),
]
HEAD = named(
    {
        "predictions.dense.{w}": "dense.{w}",
        "predictions.LayerNorm.{w}": "norm.{w}",
        "predictions.bias": "bias",
        "sop_classifier.classifier.{w}": "sequence.{w}",
    }
)
TIED = ("predictions.decoder.weight", "predictions.decoder.bias")
WORDS = "albert.embeddings.word_embeddings.weight"


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the keys of an ``AlbertModel``, with or without the prefix ``albert.``."""
    return bool({f"{prefix}encoder.embedding_hidden_mapping_in.weight" for prefix in ("", "albert.")} & set(keys))


def has_head(keys: Collection[str]) -> bool:
    """Return True if there is a head of masked-language modelling."""
    return "predictions.bias" in keys


def to_zoo(tensors: Mapping[str, Tensor], *, drop: Collection[str] = ()) -> dict[str, Tensor]:
    """Convert the state dict, as it is in memory or in a file, to that of our ``albert``.

    Raises:
        WeightsError: a tensor has no place in ours.
    """
    table = [*MODEL, *under("albert.", "", MODEL)]
    return rules.to_zoo(new_names(tensors), table, origin=ORIGIN, drop=["embeddings.position_ids", "albert.embeddings.position_ids", *drop])


def from_zoo(tensors: Mapping[str, Tensor], *, prefix: str = "") -> dict[str, Tensor]:
    """Convert the state dict of our ``albert`` to that of ``AlbertModel``."""
    return rules.from_zoo(tensors, under(prefix, "", MODEL), origin=ORIGIN)


def classifier_to_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the heads of pre-training to our head ``bert``.

    Raises:
        WeightsError: the decoder is not tied to the word table, or the head is another one.
    """
    return family_head(tensors, HEAD, words=WORDS, tied=TIED, parts=CLASSIFIER)


def classifier_from_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo ``classifier_to_zoo``; the tied decoder is not written, because the library ties it when it reads."""
    return rules.from_zoo(tensors, HEAD, origin=ORIGIN)


def arguments(config: Mapping[str, Any], keys: Collection[str] = (), pooling: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Convert a ``config.json`` of model type ``albert`` to keywords of our ``albert``; see ``transformers_bert.arguments``.

    Raises:
        ConfigError: ours does not have something that the source has.
    """
    refuse_kind(config, MODEL_TYPE)
    whole = {**DEFAULTS, **config}
    refuse_others(whole, {"num_hidden_groups": (1,), "inner_group_num": (1,)}, "our albert")
    return {**family_arguments(whole, keys, pooling), "embedding_dim": count(whole, "embedding_size")}


def head_arguments(config: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """Return the keywords of our head ``bert``; its eps is the encoder's."""
    whole = {**DEFAULTS, **config}
    sequence = "order" if "sop_classifier.classifier.bias" in keys else None
    return {"sequence": sequence, "activation": ACTIVATIONS[whole["hidden_act"]], "eps": float(whole["layer_norm_eps"])}


def config(arguments: Mapping[str, Any], head: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Convert all keywords of our ``albert``, and of its head to a ``config.json``.

    Raises:
        ConfigError: theirs does not have something that the source has.
    """
    target, architecture = "transformers' AlbertModel", "AlbertModel"
    if head is not None:
        architecture = "AlbertForMaskedLM" if head["sequence"] is None else "AlbertForPreTraining"
        refuse_others(head, {"sequence": (None, "order")}, f"transformers' {architecture}")
        refuse_head(arguments, head, f"transformers' {architecture}")
    found = family_config({**arguments, "embedding_dim": None}, target)
    groups = {"embedding_size": arguments["embedding_dim"], "num_hidden_groups": 1, "inner_group_num": 1}
    return {**found, **groups, "model_type": MODEL_TYPE, "architectures": [architecture]}
