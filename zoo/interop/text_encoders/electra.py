"""transformers' ``ElectraModel`` <-> our ``electra``, with the heads of its two parts.

An ``ElectraForPreTraining`` (the discriminator) is our encoder with the head ``replaced_tokens`` and no generator; an
``ElectraForMaskedLM`` (the generator) is our encoder with the head ``bert``. Reference: transformers 5.17, ``modeling_electra.py``.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from zoo.interop.base import rules
from zoo.interop.base.rules import named, under
from zoo.interop.base.transformers_config import ACTIVATIONS, count, refuse_others
from zoo.interop.text_encoders import bert as transformers_bert
from zoo.interop.text_encoders.bert import family_arguments, family_config, family_head, new_names, refuse_kind

ORIGIN = "transformers"
FAMILY = "electra"
CLASSIFIER = ("discriminator_predictions", "generator_predictions", "generator_lm_head", "classifier", "qa_outputs")
POOLER = ("pooler",)
MODEL_TYPE = "electra"
PREFIX = "electra."
DEFAULTS = {  # of ElectraConfig
    **{key: value for key, value in transformers_bert.DEFAULTS.items() if key != "is_decoder"},
    **{"embedding_size": 128, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024},
}
MODEL = [
    *[rule for rule in transformers_bert.MODEL if not rule.theirs[0].startswith("pooler.")],
    *named({"embeddings_project.{w}": "widen.{w}"}),
]
DISCRIMINATOR = named({"discriminator_predictions.dense.{w}": "dense.{w}", "discriminator_predictions.dense_prediction.{w}": "score.{w}"})
GENERATOR = named(
    {
        "generator_predictions.dense.{w}": "dense.{w}",
        "generator_predictions.LayerNorm.{w}": "norm.{w}",
        "generator_lm_head.bias": "bias",
    }
)
WORDS = "electra.embeddings.word_embeddings.weight"
TIED = ("generator_lm_head.weight",)
BUFFERS = ("embeddings.position_ids", "electra.embeddings.position_ids")


def recognises(keys: Iterable[str]) -> bool:
    """Return True for keys with the prefix ``electra.``, or with a projection of the embedding; others are those of a ``BertModel``."""
    return bool({WORDS, "embeddings_project.weight"} & set(keys))


def has_head(keys: Collection[str]) -> bool:
    """Return True if there is the head of a discriminator or a generator."""
    return "discriminator_predictions.dense.bias" in keys or "generator_lm_head.bias" in keys


def to_zoo(tensors: Mapping[str, Tensor], *, drop: Collection[str] = ()) -> dict[str, Tensor]:
    """Convert the state dict, as it is in memory or in a file, to that of our ``electra``.

    Raises:
        WeightsError: a tensor has no place in ours.
    """
    return rules.to_zoo(new_names(tensors), [*MODEL, *under(PREFIX, "", MODEL)], origin=ORIGIN, drop=[*BUFFERS, *drop])


def from_zoo(tensors: Mapping[str, Tensor], *, prefix: str = "") -> dict[str, Tensor]:
    """Convert the state dict of our ``electra`` to that of ``ElectraModel``."""
    return rules.from_zoo(tensors, under(prefix, "", MODEL), origin=ORIGIN)


def classifier_to_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the head of a discriminator to our head ``replaced_tokens``, that of a generator to our head ``bert``.

    Raises:
        WeightsError: the decoder of a generator is not tied to the word table, or the head is another one.
    """
    return family_head(tensors, [*DISCRIMINATOR, *GENERATOR], words=WORDS, tied=TIED, parts=CLASSIFIER)


def classifier_from_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo ``classifier_to_zoo``; a generator inside our head ``replaced_tokens`` is left out, as in the published files."""
    if "score.weight" not in tensors:
        return rules.from_zoo(tensors, GENERATOR, origin=ORIGIN)
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(("dense.", "score."))}
    return rules.from_zoo(own, DISCRIMINATOR, origin=ORIGIN)


def arguments(config: Mapping[str, Any], keys: Collection[str] = (), pooling: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Convert a ``config.json`` of model type ``electra`` to keywords of our ``electra``.

    Args:
        pooling: sentence-transformers' ``1_Pooling/config.json``, if there is one; otherwise the first token is pooled.

    Raises:
        ConfigError: ours does not have something that the source has.
    """
    refuse_kind(config, MODEL_TYPE)
    whole = {**DEFAULTS, **config}
    found = family_arguments(whole, (), pooling)
    narrow = {"embedding_dim": count(whole, "embedding_size")}
    return {**found, **narrow, "pool": "cls" if pooling is None else found["pool"]}


def head_arguments(config: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """Return the name and keywords of the head; that of a generator always has GELU and an eps of 1e-12."""
    whole = {**DEFAULTS, **config}
    if "generator_lm_head.bias" in keys:
        return {"name": "bert", "activation": "gelu", "eps": float(whole["layer_norm_eps"])}
    return {"name": "replaced_tokens", "generator": None, "activation": ACTIVATIONS[whole["hidden_act"]]}


def config(arguments: Mapping[str, Any], head: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Convert all keywords of our ``electra``, and of its head to a ``config.json``.

    Raises:
        ConfigError: theirs does not have something that the source has.
    """
    architecture = "ElectraModel"
    target = f"transformers' {architecture}"
    if head is not None and head["name"] == "bert":
        architecture = "ElectraForMaskedLM"
        same = {"eps": (arguments["eps"],), "bias": (True,), "transform": (True,)}
        refuse_others(head, {"tied": (True,), "sequence": (None,), "activation": ("gelu",), **same}, f"transformers' {architecture}")
    elif head is not None:
        architecture = "ElectraForPreTraining"
        refuse_others(head, {"activation": (arguments["activation"],)}, f"transformers' {architecture}")
    width = arguments["embedding_dim"] or arguments["dim"]
    found = family_config({**arguments, "embedding_dim": None}, target)
    return {**found, "embedding_size": width, "model_type": MODEL_TYPE, "architectures": [architecture]}
