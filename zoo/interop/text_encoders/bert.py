"""transformers' ``BertModel``, ``BertForMaskedLM`` and ``BertForPreTraining`` <-> our ``bert`` and its head.

Reference: transformers 5.17, ``modeling_bert.py``. Files of older releases hold the buffer ``position_ids``, which is no weight,
and those of a model with a head put ``bert.`` before the names; the first releases call a norm's weight and bias ``gamma`` and
``beta``. An encoder does not take heads: the caller drops them by name, ``drop=CLASSIFIER``, and BERT's pooler too if ours pools in
another way. The decoder of masked-language modelling is the word table and is held once; files may hold it twice.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ConfigError, WeightsError, name_choices
from zoo.interop.base import rules
from zoo.interop.base.rules import Rule, joined, named, under
from zoo.interop.base.transformers_config import ACTIVATIONS, count, refuse_others, their_activation
from zoo.layers.mlp import hidden_width

ORIGIN = "transformers"
FAMILY = "bert"
CLASSIFIER = ("cls", "classifier", "qa_outputs")
POOLER = ("pooler", "bert.pooler")
MODEL_TYPE = "bert"
DEFAULTS = {  # of BertConfig
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "is_decoder": False,
}
# Keys of sentence-transformers before 5.2, each with true or false; later files have one key, "pooling_mode": "mean".
POOLINGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
OUR_POOLS = {  # sentence-transformers': ours
    **{"mean": "mean", "cls": "cls", "max": "max", "weightedmean": "weighted_mean", "lasttoken": "last"},
    "mean_sqrt_len_tokens": "root_mean",
}

BLOCK = [
    joined(["attention.self.query.{w}", "attention.self.key.{w}", "attention.self.value.{w}"], "attention.qkv.{w}"),
    *named(
        {
            "attention.output.dense.{w}": "attention.out.{w}",
            "attention.output.LayerNorm.{w}": "norm1.{w}",
            "intermediate.dense.{w}": "mlp.fc1.{w}",
            "output.dense.{w}": "mlp.fc2.{w}",
            "output.LayerNorm.{w}": "norm2.{w}",
        }
    ),
]
MODEL = [
    *named(
        {
            "embeddings.word_embeddings.weight": "embedding.weight",
            "embeddings.position_embeddings.weight": "positions",
            "embeddings.token_type_embeddings.weight": "types",
            "embeddings.LayerNorm.{w}": "norm.{w}",
            "pooler.dense.{w}": "pooler.{w}",
        }
    ),
    *under("encoder.layer.{i}.", "blocks.{i}.", BLOCK),
]
HEAD = named(
    {
        "cls.predictions.transform.dense.{w}": "dense.{w}",
        "cls.predictions.transform.LayerNorm.{w}": "norm.{w}",
        "cls.predictions.bias": "bias",
        "cls.seq_relationship.{w}": "sequence.{w}",
    }
)
TIED = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
WORDS = "bert.embeddings.word_embeddings.weight"
OLD_NORMS = {"gamma": "weight", "beta": "bias"}
OLD_BUFFERS = ("embeddings.position_ids", "bert.embeddings.position_ids")


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the keys of a ``BertModel``, with or without the prefix ``bert.``."""
    keys = set(keys)
    names = ("embeddings.word_embeddings.weight", "embeddings.token_type_embeddings.weight", "encoder.layer.0.attention.self.query.weight")
    return any(all(prefix + name in keys for name in names) for prefix in ("", "bert."))


def has_head(keys: Collection[str]) -> bool:
    """Return True if there is a head of masked-language modelling."""
    return "cls.predictions.bias" in keys


def to_zoo(tensors: Mapping[str, Tensor], *, drop: Collection[str] = ()) -> dict[str, Tensor]:
    """Convert the state dict, as it is in memory or in a file, to that of our ``bert``.

    Raises:
        WeightsError: a tensor has no place in ours.
    """
    table = [*MODEL, *under("bert.", "", MODEL)]
    return rules.to_zoo(new_names(tensors), table, origin=ORIGIN, drop=[*OLD_BUFFERS, *drop])


def from_zoo(tensors: Mapping[str, Tensor], *, prefix: str = "") -> dict[str, Tensor]:
    """Convert the state dict of our ``bert`` to that of ``BertModel``.

    Raises:
        WeightsError: a tensor has no place in theirs (of a narrow embedding).
    """
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


def new_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the norms of BERT's first releases, whose weight and bias are ``gamma`` and ``beta``."""
    return {_new_name(name): tensor for name, tensor in tensors.items()}


def _new_name(name: str) -> str:
    before, _, last = name.rpartition(".")
    return f"{before}.{OLD_NORMS[last]}" if before.endswith("LayerNorm") and last in OLD_NORMS else name


def family_head(
    tensors: Mapping[str, Tensor], table: Sequence[Rule], *, words: str, tied: Sequence[str], parts: Collection[str]
) -> dict[str, Tensor]:
    """Convert the heads of a model of BERT's family to our head ``bert``.

    Args:
        words: key of the word table.
        tied: weight of the decoder, which a file may repeat, and a second name of its bias, if there is one.
        parts: first words of the keys of heads.

    Raises:
        WeightsError: the decoder is not tied to the word table, or the head is another one.
    """
    _refuse_untied(tensors, words, tied)
    head = {name: tensor for name, tensor in new_names(tensors).items() if name.split(".")[0] in parts}
    return rules.to_zoo(head, table, origin=ORIGIN, drop=tied)


def refuse_kind(config: Mapping[str, Any], kind: str) -> None:
    """Raise ConfigError for a config of another model type."""
    given = str(config.get("model_type"))
    if given != kind:
        raise ConfigError(f"model_type: got {given!r}; {name_choices(given, [kind])}")


def _refuse_untied(tensors: Mapping[str, Tensor], words: str, tied: Sequence[str]) -> None:
    """Raise WeightsError for a decoder in a file that is not the table of words, or has another bias than the head."""
    for copy, original in zip(tied, (words, *(bias.replace(".decoder", "") for bias in tied[1:])), strict=True):
        if copy in tensors and original in tensors and not torch.equal(tensors[copy], tensors[original]):
            raise WeightsError(f"{copy}: is not {original}, to which the decoder of our head bert is tied; untied decoders are not read")


def arguments(config: Mapping[str, Any], keys: Collection[str] = (), pooling: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Convert a ``config.json`` of model type ``bert`` to keywords of our ``bert``.

    Args:
        keys: names of the weights, if they are known: they tell if there is a pooler.
        pooling: sentence-transformers' ``1_Pooling/config.json``, if there is one; its pools do not use BERT's pooler.

    Raises:
        ConfigError: ours does not have something that the source has.
    """
    refuse_kind(config, MODEL_TYPE)
    return family_arguments({**DEFAULTS, **config}, keys, pooling)


def family_arguments(whole: Mapping[str, Any], keys: Collection[str], pooling: Mapping[str, Any] | None) -> dict[str, Any]:
    """Convert the keys that the configs of BERT, RoBERTa and ALBERT share.

    Raises:
        ConfigError: ours does not have something that the source has.
    """
    whole = {"position_embedding_type": "absolute", "is_decoder": False, **whole}
    refuse_others(whole, {"is_decoder": (False,), "position_embedding_type": ("absolute", None)}, "our bert")
    if whole["hidden_act"] not in ACTIVATIONS:
        raise ConfigError(f"hidden_act: our bert has no {whole['hidden_act']!r}; {name_choices(str(whole['hidden_act']), ACTIVATIONS)}")
    return {
        "vocab_size": count(whole, "vocab_size"),
        "context_length": count(whole, "max_position_embeddings"),
        "dim": count(whole, "hidden_size"),
        "depth": count(whole, "num_hidden_layers"),
        "num_heads": count(whole, "num_attention_heads"),
        "mlp_ratio": count(whole, "intermediate_size") / count(whole, "hidden_size"),
        "num_types": count(whole, "type_vocab_size"),
        "activation": ACTIVATIONS[whole["hidden_act"]],
        "eps": float(whole["layer_norm_eps"]),
        "pool": _pool(pooling, keys),
    }


def head_arguments(config: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """Return the keywords of our head ``bert``; the activation and eps are those of the encoder."""
    whole = {**DEFAULTS, **config}
    sequence = "next" if "cls.seq_relationship.bias" in keys else None
    return {"sequence": sequence, "activation": ACTIVATIONS[whole["hidden_act"]], "eps": float(whole["layer_norm_eps"])}


def _pool(pooling: Mapping[str, Any] | None, keys: Collection[str]) -> str:
    if pooling is None:
        return "cls_tanh" if not keys or any("pooler." in key for key in keys) else "none"
    chosen = poolings(pooling)
    if len(chosen) != 1 or chosen[0] not in OUR_POOLS:
        raise ConfigError(f"1_Pooling/config.json: pools by {', '.join(chosen)}; allowed is one of: {', '.join(OUR_POOLS)}")
    return OUR_POOLS[chosen[0]]


def poolings(pooling: Mapping[str, Any]) -> list[str]:
    """Return the poolings that a config of sentence-transformers turns on, in either of its dialects; the mean if it turns on none."""
    if "pooling_mode" in pooling:
        modes = pooling["pooling_mode"]
        return [str(mode) for mode in (modes if isinstance(modes, list | tuple) else [modes])]
    return [POOLINGS.get(key, key) for key, value in pooling.items() if key.startswith("pooling_mode_") and value is True] or ["mean"]


def config(arguments: Mapping[str, Any], head: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Convert all keywords of our ``bert``, and of its head to a ``config.json``.

    Raises:
        ConfigError: theirs does not have something that the source has.
    """
    target = "transformers' BertModel"
    refuse_others({"padding_row": None, **arguments}, {"padding_row": (None,)}, target)
    architecture = "BertModel"
    if head is not None:
        architecture = "BertForMaskedLM" if head["sequence"] is None else "BertForPreTraining"
        refuse_others(head, {"sequence": (None, "next")}, f"transformers' {architecture}")
        refuse_head(arguments, head, f"transformers' {architecture}")
    return {**family_config(arguments, target), "model_type": MODEL_TYPE, "architectures": [architecture]}


def family_config(arguments: Mapping[str, Any], target: str) -> dict[str, Any]:
    """Undo ``family_arguments``.

    Raises:
        ConfigError: theirs does not have something that the source has.
    """
    if arguments.get("restart_positions"):
        raise ConfigError(f"restart_positions: true, which {target} does not have; allowed is false")
    refuse_others({"default_type": 0, "causal": False, **arguments}, {"default_type": (0,), "causal": (False,)}, target)
    refuse_others(arguments, {"embedding_dim": (None, arguments["dim"])}, target)
    return {
        "vocab_size": arguments["vocab_size"],
        "max_position_embeddings": arguments["context_length"],
        "hidden_size": arguments["dim"],
        "num_hidden_layers": arguments["depth"],
        "num_attention_heads": arguments["num_heads"],
        "intermediate_size": hidden_width(arguments["dim"], arguments["mlp_ratio"]),
        "type_vocab_size": arguments["num_types"],
        "hidden_act": their_activation(arguments, target),
        "layer_norm_eps": arguments["eps"],
    }


def refuse_head(arguments: Mapping[str, Any], head: Mapping[str, Any], target: str) -> None:
    """Raise ConfigError for a head that is not tied, or of another activation or eps than its encoder."""
    same = {"activation": (arguments["activation"],), "eps": (arguments["eps"],)}
    refuse_others(head, {"tied": (True,), "bias": (True,), "transform": (True,), **same}, target)
    if head["sequence"] is not None:
        refuse_others(arguments, {"pool": ("cls_tanh",)}, target)
