"""transformers' ``DebertaV2Model`` and ``DebertaV2ForMaskedLM`` <-> our ``deberta`` and the head ``bert``.

Reference: transformers 5.17, ``modeling_deberta_v2.py``, which serves versions 2 and 3. Microsoft's files name the head of masked-language
modelling ``lm_predictions.lm_head`` (``legacy: false`` in the config); transformers' default names it ``cls.predictions``. Both are read.
The latter is written, because transformers 5.17 cannot load a model with ``legacy: false`` (it looks for a decoder that is not there). The
files of version 3 hold the head of replaced-token detection as ``mask_predictions``, which is left out.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from zoo.errors import ConfigError, name_choices
from zoo.interop.base import rules
from zoo.interop.base.rules import joined, named, under
from zoo.interop.base.transformers_config import ACTIVATIONS, THEIR_ACTIVATIONS, count, refuse_others, their_activation
from zoo.interop.text_encoders.bert import family_head, poolings, refuse_head, refuse_kind
from zoo.layers.mlp import hidden_width

ORIGIN = "transformers"
FAMILY = "deberta"
CLASSIFIER = ("cls", "lm_predictions", "classifier", "qa_outputs")
POOLER = ("pooler",)
MODEL_TYPE = "deberta-v2"
PREFIX = "deberta."
DEFAULTS: dict[str, Any] = {  # of DebertaV2Config, and of the options that it takes without declaring them
    "vocab_size": 128100,
    "hidden_size": 1536,
    "num_hidden_layers": 24,
    "num_attention_heads": 24,
    "intermediate_size": 6144,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-7,
    "relative_attention": False,
    "max_relative_positions": -1,
    "position_buckets": -1,
    "position_biased_input": True,
    "pos_att_type": None,
    "share_att_key": False,
    "norm_rel_ebd": "none",
    "conv_kernel_size": 0,
    "conv_groups": 1,
    "conv_act": "tanh",
    "pad_token_id": 0,
}
POOLS = ("cls", "mean")
TERMS = {"c2p": "content_to_position", "p2c": "position_to_content"}
MODEL = [
    *named(
        {
            "embeddings.word_embeddings.weight": "embedding.weight",
            "embeddings.LayerNorm.{w}": "embedding_norm.{w}",
            "encoder.rel_embeddings.weight": "distances",
            "encoder.LayerNorm.{w}": "distances_norm.{w}",
            "encoder.conv.conv.{w}": "conv.conv.{w}",
            "encoder.conv.LayerNorm.{w}": "conv.norm.{w}",
        }
    ),
    *under(
        "encoder.layer.{i}.",
        "blocks.{i}.",
        [
            joined([f"attention.self.{word}_proj.{{w}}" for word in ("query", "key", "value")], "attention.qkv.{w}"),
            *named(
                {
                    "attention.self.pos_key_proj.{w}": "attention.position_key.{w}",
                    "attention.self.pos_query_proj.{w}": "attention.position_query.{w}",
                    "attention.output.dense.{w}": "attention.out.{w}",
                    "attention.output.LayerNorm.{w}": "norm1.{w}",
                    "intermediate.dense.{w}": "mlp.fc1.{w}",
                    "output.dense.{w}": "mlp.fc2.{w}",
                    "output.LayerNorm.{w}": "norm2.{w}",
                }
            ),
        ],
    ),
]
HEAD = named(
    {
        "cls.predictions.transform.dense.{w}": "dense.{w}",
        "cls.predictions.transform.LayerNorm.{w}": "norm.{w}",
        "cls.predictions.bias": "bias",
    }
)
MICROSOFT_HEAD = named(
    {
        "lm_predictions.lm_head.dense.{w}": "dense.{w}",
        "lm_predictions.lm_head.LayerNorm.{w}": "norm.{w}",
        "lm_predictions.lm_head.bias": "bias",
    }
)
WORDS = "deberta.embeddings.word_embeddings.weight"
TIED = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
LEFT = ("mask_predictions", "embeddings.position_ids", "deberta.embeddings.position_ids")


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the keys of a ``DebertaV2Model``, with or without the prefix ``deberta.``."""
    keys = set(keys)
    names = ("encoder.rel_embeddings.weight", "encoder.layer.0.attention.self.query_proj.weight")
    return any(all(prefix + name in keys for name in names) for prefix in ("", PREFIX))


def has_head(keys: Collection[str]) -> bool:
    """Return True if there is a head of masked-language modelling."""
    return "cls.predictions.bias" in keys or "lm_predictions.lm_head.bias" in keys


def to_zoo(tensors: Mapping[str, Tensor], *, drop: Collection[str] = ()) -> dict[str, Tensor]:
    """Convert the state dict, as it is in memory or in a file, to that of our ``deberta``.

    Raises:
        WeightsError: a tensor has no place in ours.
    """
    return rules.to_zoo(tensors, [*MODEL, *under(PREFIX, "", MODEL)], origin=ORIGIN, drop=[*LEFT, *drop])


def from_zoo(tensors: Mapping[str, Tensor], *, prefix: str = "") -> dict[str, Tensor]:
    """Convert the state dict of our ``deberta`` to that of ``DebertaV2Model``; with any prefix to that of a model with a head."""
    return rules.from_zoo(tensors, under(PREFIX if prefix else "", "", MODEL), origin=ORIGIN)


def classifier_to_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the head of a ``DebertaV2ForMaskedLM`` to our head ``bert``.

    Raises:
        WeightsError: the decoder is not tied to the word table, or the head is another one.
    """
    return family_head(tensors, [*HEAD, *MICROSOFT_HEAD], words=WORDS, tied=TIED, parts=CLASSIFIER)


def classifier_from_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert our head to transformers' names; the tied decoder is not written, because the library ties it when it reads."""
    return rules.from_zoo(tensors, HEAD, origin=ORIGIN)


def arguments(config: Mapping[str, Any], keys: Collection[str] = (), pooling: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Convert a ``config.json`` of model type ``deberta-v2`` to keywords of our ``deberta``.

    Args:
        pooling: sentence-transformers' ``1_Pooling/config.json``, if there is one; otherwise the first token is pooled.

    Raises:
        ConfigError: ours does not have something that the source has.
    """
    refuse_kind(config, MODEL_TYPE)
    whole = {**DEFAULTS, **config}
    legal = {"relative_attention": (True,), "position_biased_input": (False,), "type_vocab_size": (0,), "conv_groups": (1,)}
    refuse_others(whole, {**legal, "norm_rel_ebd": ("layer_norm", "none")}, "our deberta")
    refuse_others({"embedding_size": whole["hidden_size"], **whole}, {"embedding_size": (whole["hidden_size"],)}, "our deberta")
    chosen = ["cls"] if pooling is None else poolings(pooling)
    if len(chosen) != 1 or chosen[0] not in POOLS:
        raise ConfigError(f"1_Pooling/config.json: pools by {', '.join(chosen)}; our deberta pools by one of: {', '.join(POOLS)}")
    context_length, farthest = count(whole, "max_position_embeddings"), whole["max_relative_positions"]
    convolves = bool(whole["conv_kernel_size"])
    return {
        "vocab_size": count(whole, "vocab_size"),
        "context_length": context_length,
        "dim": count(whole, "hidden_size"),
        "depth": count(whole, "num_hidden_layers"),
        "num_heads": count(whole, "num_attention_heads"),
        "mlp_ratio": count(whole, "intermediate_size") / count(whole, "hidden_size"),
        "buckets": count(whole, "position_buckets") if whole["position_buckets"] > 0 else None,
        "max_distance": farthest if farthest > 0 else context_length,
        "share_positions": bool(whole["share_att_key"]),
        "norm_positions": whole["norm_rel_ebd"] == "layer_norm",
        **{ours: term in _terms(whole) for term, ours in TERMS.items()},
        "conv_kernel": count(whole, "conv_kernel_size") if convolves else 0,
        "conv_activation": _activation(whole, "conv_act") if convolves else "gelu",
        "activation": _activation(whole, "hidden_act"),
        "eps": float(whole["layer_norm_eps"]),
        "pool": chosen[0],
    }


def head_arguments(config: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """Return the keywords of our head ``bert``; activation and eps are those of the encoder."""
    whole = {**DEFAULTS, **config}
    return {"activation": _activation(whole, "hidden_act"), "eps": float(whole["layer_norm_eps"])}


def config(arguments: Mapping[str, Any], head: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Convert all keywords of our ``deberta``, and of its head to a ``config.json``.

    Raises:
        ConfigError: theirs does not have something that the source has.
    """
    first = not arguments["key_bias"]  # version 1, which ``deberta_v1`` completes
    target = f"transformers' Deberta{'' if first else 'V2'}{'Model' if head is None else 'ForMaskedLM'}"
    if head is not None:
        refuse_others(head, {"sequence": (None,)}, target)
        refuse_head(arguments, head, target)
    convolution = {} if not arguments["conv_kernel"] else _convolution(arguments, target)
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["DebertaV2Model" if head is None else "DebertaV2ForMaskedLM"],
        "vocab_size": arguments["vocab_size"],
        "max_position_embeddings": arguments["context_length"],
        "hidden_size": arguments["dim"],
        "num_hidden_layers": arguments["depth"],
        "num_attention_heads": arguments["num_heads"],
        "intermediate_size": hidden_width(arguments["dim"], arguments["mlp_ratio"]),
        "hidden_act": their_activation(arguments, target),
        "layer_norm_eps": arguments["eps"],
        "type_vocab_size": 0,
        "relative_attention": True,
        "position_biased_input": False,
        "max_relative_positions": arguments["max_distance"],
        "position_buckets": -1 if arguments["buckets"] is None else arguments["buckets"],
        "pos_att_type": [term for term, ours in TERMS.items() if arguments[ours]],
        "share_att_key": arguments["share_positions"],
        "norm_rel_ebd": "layer_norm" if arguments["norm_positions"] else "none",
        "pad_token_id": 0,
        "legacy": True,
        **convolution,
    }


def _convolution(arguments: Mapping[str, Any], target: str) -> dict[str, Any]:
    names = {**THEIR_ACTIVATIONS, "tanh": "tanh"}
    refuse_others(arguments, {"conv_activation": names}, target)
    return {"conv_kernel_size": arguments["conv_kernel"], "conv_act": names[arguments["conv_activation"]], "conv_groups": 1}


def _terms(config: Mapping[str, Any]) -> list[str]:
    """Return the kinds of scores with positions; files write "p2c|c2p" or a list.

    Raises:
        ConfigError: ours does not have one of them.
    """
    given = config["pos_att_type"] or []
    terms = [word.strip() for word in given.lower().split("|")] if isinstance(given, str) else list(given)
    for term in terms:
        if term not in TERMS:
            raise ConfigError(f"pos_att_type: our deberta has no {term!r}; {name_choices(str(term), TERMS)}")
    return terms


def _activation(config: Mapping[str, Any], key: str) -> str:
    known = {**ACTIVATIONS, "tanh": "tanh"}
    if config[key] not in known:
        raise ConfigError(f"{key}: our deberta has no {config[key]!r}; {name_choices(str(config[key]), known)}")
    return known[config[key]]
