"""transformers' ``XLNetModel`` and ``XLNetLMHeadModel`` <-> our ``xlnet`` and the head ``bert``.

Reference: transformers 5.17, ``modeling_xlnet.py``. Its projections have separate axes for heads and their channels, and are multiplied
from the other side. The memory settings of a config (``mem_len``, ``reuse_len``) change no weights: a caller of ours passes the memory
(``XLNet.with_memory``). Models with a classifier or a head for questions are refused by name.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ConfigError, name_choices
from zoo.interop.base import rules
from zoo.interop.base.rules import Rule, named, under
from zoo.interop.base.transformers_config import ACTIVATIONS, count, refuse_others, their_activation
from zoo.interop.text_encoders.bert import family_head, poolings, refuse_kind
from zoo.layers.mlp import hidden_width
from zoo.processors.tokenizers.piece_tokenizer import AnyTokenizer

ORIGIN = "transformers"
FAMILY = "xlnet"
CLASSIFIER = ("lm_loss",)
POOLER: tuple[str, ...] = ()
MODEL_TYPE = "xlnet"
PREFIX = "transformer."
OTHER_HEADS = ("sequence_summary", "logits_proj", "classifier", "qa_outputs", "start_logits", "end_logits", "answer_class")
DEFAULTS = {  # of XLNetConfig
    **{"vocab_size": 32000, "d_model": 1024, "n_layer": 24, "n_head": 16, "d_inner": 4096, "ff_activation": "gelu"},
    **{"layer_norm_eps": 1e-12, "attn_type": "bi", "bi_data": False, "clamp_len": -1, "same_length": False},
}
CONTEXT_LENGTH = 512  # of pre-training; nothing in the config says it, and nothing in the model depends on it
POOLS = {"lasttoken": "last", "mean": "mean"}  # sentence-transformers': ours
SYMBOLS = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<cls>", "sep_token": "<sep>"}  # of the published tokenizer
SEPARATOR = SYMBOLS["sep_token"]
WORDS = "transformer.word_embedding.weight"
TIED = ("lm_loss.weight",)
HEAD = named({"lm_loss.bias": "bias"})
OUTSIDE = [
    *named({"word_embedding.weight": "embedding.weight"}),
    Rule(("mask_emb",), ("mask_vector",), lambda t: [t[0].reshape(t[0].shape[-1:])], lambda t: [t[0][None, None]]),
]
BLOCK = named(
    {
        "rel_attn.r_w_bias": "attention.content_bias",
        "rel_attn.r_r_bias": "attention.position_bias",
        "rel_attn.r_s_bias": "attention.segment_bias",
        "rel_attn.seg_embed": "attention.segments",
        "rel_attn.layer_norm.{w}": "norm1.{w}",
        "ff.layer_1.{w}": "mlp.fc1.{w}",
        "ff.layer_2.{w}": "mlp.fc2.{w}",
        "ff.layer_norm.{w}": "norm2.{w}",
    }
)


def _rules(num_heads: int) -> list[Rule]:
    """Return the rules of a model; only the way back needs the number of heads, which a matrix does not show."""

    def rows(tensors: Sequence[Tensor]) -> list[Tensor]:
        return [torch.cat([tensor.flatten(1).T for tensor in tensors]).contiguous()]  # of [dim, heads, head_dim]

    def apart(number: int) -> rules.Turn:
        return lambda tensors: [part.T.unflatten(1, (num_heads, -1)).contiguous() for part in tensors[0].chunk(number)]

    attention = [
        Rule(("rel_attn.q",), ("attention.query.weight",), rows, apart(1)),
        Rule(("rel_attn.k", "rel_attn.v"), ("attention.key_value.weight",), rows, apart(2)),
        Rule(("rel_attn.r",), ("attention.position.weight",), rows, apart(1)),
        Rule(
            ("rel_attn.o",),
            ("attention.out.weight",),
            lambda t: [t[0].flatten(1)],
            lambda t: [t[0].unflatten(1, (num_heads, -1))],
        ),
    ]
    return [*OUTSIDE, *under("layer.{i}.", "blocks.{i}.", [*attention, *BLOCK])]


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the keys of an ``XLNetModel``, with or without the prefix ``transformer.``."""
    keys = set(keys)
    return any({f"{prefix}mask_emb", f"{prefix}layer.0.rel_attn.seg_embed"} <= keys for prefix in ("", PREFIX))


def has_head(keys: Collection[str]) -> bool:
    """Return True if there is a head of language modelling."""
    return "lm_loss.bias" in keys


def to_zoo(tensors: Mapping[str, Tensor], *, drop: Collection[str] = ()) -> dict[str, Tensor]:
    """Convert the state dict, as it is in memory or in a file, to that of our ``xlnet``.

    Raises:
        WeightsError: a tensor has no place in ours.
    """
    table = _rules(1)
    return rules.to_zoo(tensors, [*table, *under(PREFIX, "", table)], origin=ORIGIN, drop=drop)


def from_zoo(tensors: Mapping[str, Tensor], *, prefix: str = "") -> dict[str, Tensor]:
    """Convert the state dict of our ``xlnet`` to that of ``XLNetModel``; with any prefix to that of a model with a head."""
    num_heads = len(tensors["blocks.0.attention.content_bias"])
    return rules.from_zoo(tensors, under(PREFIX if prefix else "", "", _rules(num_heads)), origin=ORIGIN)


def classifier_to_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the head of an ``XLNetLMHeadModel`` to our head ``bert``.

    Raises:
        WeightsError: the decoder is not tied to the word table, or the head is another one.
    """
    return family_head(tensors, HEAD, words=WORDS, tied=TIED, parts=CLASSIFIER)


def classifier_from_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo ``classifier_to_zoo``; the tied decoder is not written, because the library ties it when it reads."""
    return rules.from_zoo(tensors, HEAD, origin=ORIGIN)


def arguments(config: Mapping[str, Any], keys: Collection[str] = (), pooling: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Convert a ``config.json`` of model type ``xlnet`` to keywords of our ``xlnet``.

    Args:
        keys: names of the weights, if they are known.
        pooling: sentence-transformers' ``1_Pooling/config.json``, if there is one; otherwise the last token is pooled.

    Raises:
        ConfigError: ours does not have something that the source has.
    """
    refuse_kind(config, MODEL_TYPE)
    given = {"vocab_size": config["n_token"], **config} if "n_token" in config else config  # of the first releases
    whole = {**DEFAULTS, **given}
    refuse_others(whole, {"attn_type": ("bi",), "bi_data": (False,), "same_length": (False,)}, "our xlnet")
    if whole["clamp_len"] is not None and whole["clamp_len"] > 0:
        raise ConfigError(f"clamp_len: got {whole['clamp_len']}, which our xlnet does not have; allowed is -1: distances without a limit")
    width, heads = count(whole, "d_model"), count(whole, "n_head")
    refuse_others({"d_head": None, **whole}, {"d_head": (width // heads, None)}, f"our xlnet of d_model {width} and n_head {heads}")
    other = sorted({key.split(".")[0] for key in keys} & set(OTHER_HEADS))
    if other:
        raise ConfigError(
            f"{', '.join(other)}: belong to a classifier or a head for questions, which our xlnet does not have; allowed are XLNetModel "
            "and XLNetLMHeadModel: save the encoder of this model alone (model.transformer.save_pretrained)"
        )
    chosen = ["lasttoken"] if pooling is None else poolings(pooling)
    if len(chosen) != 1 or chosen[0] not in POOLS:
        raise ConfigError(f"1_Pooling/config.json: pools by {', '.join(chosen)}; our xlnet pools by one of: {', '.join(POOLS)}")
    return {
        "vocab_size": count(whole, "vocab_size"),
        "context_length": CONTEXT_LENGTH,
        "dim": width,
        "depth": count(whole, "n_layer"),
        "num_heads": heads,
        "mlp_ratio": count(whole, "d_inner") / width,
        "activation": _activation(whole),
        "eps": float(whole["layer_norm_eps"]),
        "pool": POOLS[chosen[0]],
    }


def head_arguments(config: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """Return the keywords of our head ``bert``."""
    return {"transform": False, "permutation": True}


def tokenizer_settings(tokenizer: AnyTokenizer) -> dict[str, Any]:
    """Return what ``tokenizer_config.json`` says of the published tokenizer, ``a <sep> b <sep> <cls>``; nothing for another one."""
    if tokenizer.token_to_id(SEPARATOR) is None:
        return {}
    return {"padding_side": "left", **{name: word for name, word in SYMBOLS.items() if tokenizer.token_to_id(word) is not None}}


def _activation(whole: Mapping[str, Any]) -> str:
    name = whole["ff_activation"]
    if name not in ACTIVATIONS:
        raise ConfigError(f"ff_activation: our xlnet has no {name!r}; {name_choices(str(name), ACTIVATIONS)}")
    return ACTIVATIONS[name]


def config(arguments: Mapping[str, Any], head: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Convert all keywords of our ``xlnet``, and of its head to a ``config.json``.

    Raises:
        ConfigError: theirs does not have something that the source has.
    """
    target = f"transformers' {'XLNetModel' if head is None else 'XLNetLMHeadModel'}"
    if head is not None:
        refuse_others(head, {"tied": (True,), "sequence": (None,), "transform": (False,), "permutation": (True,)}, target)
    return {
        "model_type": MODEL_TYPE,
        "architectures": [target.removeprefix("transformers' ")],
        "vocab_size": arguments["vocab_size"],
        "d_model": arguments["dim"],
        "n_layer": arguments["depth"],
        "n_head": arguments["num_heads"],
        "d_head": arguments["dim"] // arguments["num_heads"],
        "d_inner": hidden_width(arguments["dim"], arguments["mlp_ratio"]),
        "ff_activation": their_activation(arguments, target),
        "layer_norm_eps": arguments["eps"],
        "attn_type": "bi",
        "bi_data": False,
        "clamp_len": -1,
        "same_length": False,
        "mem_len": None,
    }
