"""transformers' ``XLMModel`` and ``XLMWithLMHeadModel`` <-> our ``bert`` with ``default_type: null``, and the head ``bert``.

Reference: transformers 5.17, ``modeling_xlm.py``. Its languages are our token types, which the caller passes (``langs`` there, ``types``
here). The causal form (``causal: true``) is an encoder here too. XLM's tokenizer (Moses and BPE) is no file of the ``tokenizers`` library.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from zoo.errors import ConfigError
from zoo.interop.base import rules
from zoo.interop.base.rules import joined, named, under
from zoo.interop.base.transformers_config import count, refuse_others
from zoo.interop.text_encoders.bert import OUR_POOLS, family_head, poolings, refuse_kind
from zoo.layers.mlp import hidden_width
from zoo.layers.post_norm import OVER_TOKENS

ORIGIN = "transformers"
FAMILY = "bert"
CLASSIFIER = ("pred_layer", "sequence_summary", "qa_outputs", "classifier")
POOLER = ()
MODEL_TYPE = "xlm"
PREFIX = "transformer."
DEFAULTS: dict[str, Any] = {  # of XLMConfig
    **{"vocab_size": 30145, "emb_dim": 2048, "n_layers": 12, "n_heads": 16, "max_position_embeddings": 512, "layer_norm_eps": 1e-12},
    **{"gelu_activation": True, "causal": False, "asm": False, "is_encoder": True, "n_langs": 1, "use_lang_emb": True},
}
WIDENING = 4  # of the feed-forward layers, in every model
MODEL = [
    *named(
        {
            "embeddings.weight": "embedding.weight",
            "position_embeddings.weight": "positions",
            "lang_embeddings.weight": "types",
            "layer_norm_emb.{w}": "norm.{w}",
            "attentions.{i}.out_lin.{w}": "blocks.{i}.attention.out.{w}",
            "layer_norm1.{i}.{w}": "blocks.{i}.norm1.{w}",
            "ffns.{i}.lin1.{w}": "blocks.{i}.mlp.fc1.{w}",
            "ffns.{i}.lin2.{w}": "blocks.{i}.mlp.fc2.{w}",
            "layer_norm2.{i}.{w}": "blocks.{i}.norm2.{w}",
        }
    ),
    joined([f"attentions.{{i}}.{word}_lin.{{w}}" for word in "qkv"], "blocks.{i}.attention.qkv.{w}"),
]
HEAD = named({"pred_layer.proj.bias": "bias"})
WORDS, TIED = "transformer.embeddings.weight", ("pred_layer.proj.weight",)
BUFFERS = ("position_ids", "transformer.position_ids")


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the keys of an ``XLMModel``, with or without the prefix ``transformer.``."""
    keys = set(keys)
    names = ("embeddings.weight", "layer_norm_emb.weight", "attentions.0.q_lin.weight")
    return any(all(prefix + name in keys for name in names) for prefix in ("", PREFIX))


def has_head(keys: Collection[str]) -> bool:
    """Return True if there is a head of language modelling."""
    return "pred_layer.proj.bias" in keys


def to_zoo(tensors: Mapping[str, Tensor], *, drop: Collection[str] = ()) -> dict[str, Tensor]:
    """Convert the state dict, as it is in memory or in a file, to that of our ``bert``.

    Raises:
        WeightsError: a tensor has no place in ours.
    """
    return rules.to_zoo(tensors, [*MODEL, *under(PREFIX, "", MODEL)], origin=ORIGIN, drop=[*BUFFERS, *drop])


def from_zoo(tensors: Mapping[str, Tensor], *, prefix: str = "") -> dict[str, Tensor]:
    """Convert the state dict of our ``bert`` to that of ``XLMModel``; with any prefix to that of a model with a head."""
    return rules.from_zoo(tensors, under(PREFIX if prefix else "", "", MODEL), origin=ORIGIN)


def classifier_to_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the head of an ``XLMWithLMHeadModel`` to our head ``bert``.

    Raises:
        WeightsError: the decoder is not tied to the word table, or the head is another one.
    """
    return family_head(tensors, HEAD, words=WORDS, tied=TIED, parts=CLASSIFIER)


def classifier_from_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo ``classifier_to_zoo``; the tied decoder is not written, because the library ties it when it reads."""
    return rules.from_zoo(tensors, HEAD, origin=ORIGIN)


def arguments(config: Mapping[str, Any], keys: Collection[str] = (), pooling: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Convert a ``config.json`` of model type ``xlm`` to keywords of our ``bert``.

    Args:
        pooling: sentence-transformers' ``1_Pooling/config.json``, if there is one; otherwise the first token is pooled.

    Raises:
        ConfigError: ours does not have something that the source has.
    """
    refuse_kind(config, MODEL_TYPE)
    given = {"vocab_size": config["n_words"], **config} if "n_words" in config else config  # of the first releases
    whole = {**DEFAULTS, **given}
    refuse_others(whole, {"asm": (False,), "is_encoder": (True,)}, "our bert")
    chosen = ["cls"] if pooling is None else poolings(pooling)
    if len(chosen) != 1 or chosen[0] not in OUR_POOLS:
        raise ConfigError(f"1_Pooling/config.json: pools by {', '.join(chosen)}; allowed is one of: {', '.join(OUR_POOLS)}")
    languages = count(whole, "n_langs")
    return {
        "vocab_size": count(whole, "vocab_size"),
        "context_length": count(whole, "max_position_embeddings"),
        "dim": count(whole, "emb_dim"),
        "depth": count(whole, "n_layers"),
        "num_heads": count(whole, "n_heads"),
        "mlp_ratio": float(WIDENING),
        "num_types": languages if languages > 1 and whole["use_lang_emb"] else 0,
        "default_type": None,
        "causal": bool(whole["causal"]),
        "activation": _activation(whole),
        "eps": float(whole["layer_norm_eps"]),
        "pool": OUR_POOLS[chosen[0]],
    }


def head_arguments(config: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """Return the keywords of our head ``bert``."""
    whole = {**DEFAULTS, **config}
    return {"transform": False, "activation": _activation(whole), "eps": float(whole["layer_norm_eps"])}


def _activation(whole: Mapping[str, Any]) -> str:
    return "gelu" if whole["gelu_activation"] else "relu"


def config(arguments: Mapping[str, Any], head: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Convert all keywords of our ``bert``, and of its head to a ``config.json``.

    Raises:
        ConfigError: theirs does not have something that the source has.
    """
    target = f"transformers' {'XLMModel' if head is None else 'XLMWithLMHeadModel'}"
    legal = {"pool": ("cls", *OVER_TOKENS, "none"), "padding_row": (None,), "restart_positions": (False,), "default_type": (None,)}
    refuse_others(arguments, {**legal, "activation": ("gelu", "relu"), "embedding_dim": (None, arguments["dim"])}, target)
    if arguments["num_types"] == 1:
        raise ConfigError(f"num_types: got 1, which {target} does not have; allowed is 0, or 2 and more")
    width = hidden_width(arguments["dim"], arguments["mlp_ratio"])
    if width != WIDENING * arguments["dim"]:
        raise ConfigError(f"mlp_ratio: got {arguments['mlp_ratio']}, which {target} does not have; allowed is {WIDENING}")
    if head is not None:
        refuse_others(head, {"tied": (True,), "sequence": (None,), "transform": (False,)}, target)
    return {
        "model_type": MODEL_TYPE,
        "architectures": [target.removeprefix("transformers' ")],
        "vocab_size": arguments["vocab_size"],
        "emb_dim": arguments["dim"],
        "n_layers": arguments["depth"],
        "n_heads": arguments["num_heads"],
        "n_langs": max(arguments["num_types"], 1),
        "use_lang_emb": True,
        "causal": arguments["causal"],
        "max_position_embeddings": arguments["context_length"],
        "layer_norm_eps": arguments["eps"],
        "gelu_activation": arguments["activation"] == "gelu",
        "sinusoidal_embeddings": False,
        "asm": False,
        "is_encoder": True,
    }
