"""transformers' ``T5ForConditionalGeneration`` and ``MT5ForConditionalGeneration`` <-> our encoder ``t5`` and head ``seq2seq``.

Reference: transformers 5.17, ``modeling_t5.py``. Version 1.0 divides the hidden states by the root of the width before the tied output;
version 1.1, FLAN-T5 and mT5 have an output matrix of their own. ``T5Config`` takes ``tie_word_embeddings: false`` as "no division", and
ties the output unless the file holds another matrix.
"""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from zoo.errors import ConfigError
from zoo.interop.base import rules
from zoo.interop.base.rules import Rule, joined, named, under
from zoo.interop.base.transformers_config import count, refuse_others
from zoo.interop.seq2seq.bart import DECODER, ENCODER, drop_copies
from zoo.interop.text_encoders import t5 as encoder_t5

ORIGIN = "transformers"
MODEL_TYPES = ("t5", "mt5")
GATED = {"gelu_tanh": "geglu_tanh", "silu": "swiglu"}  # activation of the encoder's gate: ours of a gated decoder
# Old files hold a table of the cross-attention's positions, which no release ever used.
UNUSED = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias",)
BLOCK = [
    joined([f"layer.0.SelfAttention.{word}.weight" for word in "qkv"], "attention.qkv.weight"),
    joined(["layer.1.EncDecAttention.k.weight", "layer.1.EncDecAttention.v.weight"], "cross.key_value.weight"),
    *named(
        {
            "layer.0.SelfAttention.o.weight": "attention.out.weight",
            "layer.0.layer_norm.weight": "residual1.norm.weight",
            "layer.1.EncDecAttention.q.weight": "cross.query.weight",
            "layer.1.EncDecAttention.o.weight": "cross.out.weight",
            "layer.1.layer_norm.weight": "residual2.norm.weight",
            "layer.2.layer_norm.weight": "residual3.norm.weight",
            "layer.2.DenseReluDense.wo.weight": "mlp.fc2.weight",
        }
    ),
]
PLAIN = named({"layer.2.DenseReluDense.wi.weight": "mlp.fc1.weight"})
GATES = [joined(["layer.2.DenseReluDense.wi_0.weight", "layer.2.DenseReluDense.wi_1.weight"], "mlp.fc1.weight")]


OUTSIDE = named(
    {
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": "distances",
        "decoder.final_layer_norm.weight": "norm.weight",
        "lm_head.weight": "output.weight",
    }
)


def _decoder_rules(gated: bool) -> list[Rule]:
    return [*OUTSIDE, *under("decoder.block.{i}.", "blocks.{i}.", [*BLOCK, *(GATES if gated else PLAIN)])]


def recognises(keys: Collection[str]) -> bool:
    """Return True for the names of a T5 with its decoder."""
    return {"shared.weight", "decoder.block.0.layer.1.EncDecAttention.k.weight"} <= set(keys)


def is_tied(tensors: Mapping[str, Tensor]) -> bool:
    """Return True if the output matrix is the word table."""
    return "lm_head.weight" not in drop_copies(tensors, "shared.weight", ["lm_head.weight"])


def to_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert their state dict to that of our system.

    Raises:
        WeightsError: a tensor has no place in ours.
    """
    gated = any(".wi_0." in name for name in tensors)
    left = drop_copies(tensors, "shared.weight", ["lm_head.weight"])
    decoder = {name: tensor for name, tensor in left.items() if name.startswith(("decoder.", "lm_head."))}
    table = under("", DECODER, _decoder_rules(gated))
    found = rules.to_zoo(decoder, table, origin=ORIGIN, drop=["decoder.embed_tokens", *UNUSED])
    return found | {f"{ENCODER}{name}": tensor for name, tensor in encoder_t5.to_zoo(tensors).items()}


def from_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the state dict of our system to theirs."""
    encoder = {name.removeprefix(ENCODER): tensor for name, tensor in tensors.items() if name.startswith(ENCODER)}
    decoder = {name: tensor for name, tensor in tensors.items() if not name.startswith(ENCODER)}
    wide, narrow = (decoder[f"{DECODER}blocks.0.mlp.{name}.weight"] for name in ("fc1", "fc2"))
    gated = wide.shape[0] == 2 * narrow.shape[1]
    return encoder_t5.from_zoo(encoder) | rules.from_zoo(decoder, under("", DECODER, _decoder_rules(gated)), origin=ORIGIN)


def arguments(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Convert a ``config.json``, and the question if the output is tied, to the keywords of our encoder and head.

    Raises:
        ConfigError: ours does not have something that the source has.
    """
    encoder = {**encoder_t5.arguments({**config, "model_type": "t5"}), "pool": "none"}
    activation = GATED.get(encoder["activation"]) if encoder["gated"] else encoder["activation"]
    if activation is None:
        raise ConfigError(f"feed_forward_proj: our decoder has no gated {encoder['activation']!r}; allowed are gated {', '.join(GATED)}")
    depth = config.get("num_decoder_layers")
    told = config.get("scale_decoder_outputs", config.get("tie_word_embeddings") is not False)
    head = {
        "name": "seq2seq",
        **{key: encoder[key] for key in ("context_length", "num_heads", "head_dim", "hidden_dim", "num_buckets", "max_distance", "eps")},
        "depth": encoder["depth"] if depth is None else count(config, "num_decoder_layers"),
        "activation": activation,
        **{"norm": "rms", "norm_place": "before", "bias": False, "scaled": False, "positions": "relative", "scale_embedding": False},
        "tied": is_tied(tensors),
        "scale_output": bool(told) and config["model_type"] == "t5",
    }
    return {"name": "t5", **encoder}, head


def config(encoder: Mapping[str, Any], head: Mapping[str, Any]) -> dict[str, Any]:
    """Convert all keywords of our encoder and head to a ``config.json``.

    Raises:
        ConfigError: theirs does not have something that the source has.
    """
    target = "transformers' T5ForConditionalGeneration"
    theirs = encoder_t5.config(encoder)
    usual = {"norm": ("rms",), "norm_place": ("before",), "bias": (False,), "scaled": (False,), "positions": ("relative",)}
    usual |= {"scale_embedding": (False,), "output_bias": (False,), "output_transform": (False,), "shared_words": (True,)}
    usual |= {"embedding_norm": (False,), "num_experts": (None,)}
    refuse_others(head, {**usual, "final_norm": (None, True), "scale_output": (True, False) if head["tied"] else (False,)}, target)
    activation = GATED.get(encoder["activation"]) if encoder["gated"] else encoder["activation"]
    same = {key: encoder[key] for key in ("num_heads", "head_dim", "hidden_dim", "num_buckets", "max_distance", "eps")}
    for key, value in {**same, "activation": activation}.items():
        if head[key] != value:
            raise ConfigError(f"head.{key}: {head[key]!r}; with this encoder {target} has {value!r} alone")
    return {
        **theirs,
        "architectures": ["T5ForConditionalGeneration"],
        "is_encoder_decoder": True,
        "use_cache": True,
        "num_decoder_layers": head["depth"],
        "tie_word_embeddings": head["scale_output"],
        "scale_decoder_outputs": head["scale_output"],
        "decoder_start_token_id": 0,
    }
