"""transformers' ``T5EncoderModel``, and the encoder of a ``T5ForConditionalGeneration`` <-> our ``t5``.

Reference: transformers 5.17, ``modeling_t5.py``. The decoder is left out: ours has none.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from zoo.errors import ConfigError, name_choices
from zoo.interop.base import rules
from zoo.interop.base.rules import Rule, joined, named, under
from zoo.interop.base.transformers_config import ACTIVATIONS, THEIR_ACTIVATIONS, count, refuse_others
from zoo.interop.text_encoders.bert import poolings, refuse_kind

ORIGIN = "transformers"
FAMILY = "t5"
CLASSIFIER = ("classification_head", "classifier", "qa_outputs")
POOLER: tuple[str, ...] = ()
DECODER = ("decoder", "lm_head")
MODEL_TYPE = "t5"
DEFAULTS = {  # of T5Config
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "relu",
}
CONTEXT_LENGTH = 512  # of pre-training; nothing in the config says it, and nothing in the model depends on it
GATED = "gated-"
BLOCK = [
    joined([f"layer.0.SelfAttention.{word}.weight" for word in "qkv"], "attention.qkv.weight"),
    *named(
        {
            "layer.0.SelfAttention.o.weight": "attention.out.weight",
            "layer.0.layer_norm.weight": "norm1.weight",
            "layer.1.layer_norm.weight": "norm2.weight",
            "layer.1.DenseReluDense.wo.weight": "mlp.fc2.weight",
        }
    ),
]
PLAIN = named({"layer.1.DenseReluDense.wi.weight": "mlp.fc1.weight"})
GATES = [joined(["layer.1.DenseReluDense.wi_0.weight", "layer.1.DenseReluDense.wi_1.weight"], "mlp.fc1.weight")]
OUTSIDE = named(
    {
        "shared.weight": "embedding.weight",
        "encoder.final_layer_norm.weight": "norm.weight",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": "distances",
    }
)


def _rules(gated: bool) -> list[Rule]:
    return [*OUTSIDE, *under("encoder.block.{i}.", "blocks.{i}.", [*BLOCK, *(GATES if gated else PLAIN)])]


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the keys of a T5 with an encoder."""
    return {"shared.weight", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"} <= set(keys)


def has_head(keys: Collection[str]) -> bool:
    """Return False: no head of ours belongs to a T5."""
    return False


def to_zoo(tensors: Mapping[str, Tensor], *, drop: Collection[str] = ()) -> dict[str, Tensor]:
    """Convert the state dict, as it is in memory or in a file, to that of our ``t5``; a decoder is left out.

    Raises:
        WeightsError: a tensor has no place in ours.
    """
    gated = any(".wi_0." in name for name in tensors)
    return rules.to_zoo(tensors, _rules(gated), origin=ORIGIN, drop=["encoder.embed_tokens", *DECODER, *drop])


def from_zoo(tensors: Mapping[str, Tensor], *, prefix: str = "") -> dict[str, Tensor]:
    """Convert the state dict of our ``t5`` to that of ``T5EncoderModel``."""
    wide, narrow = tensors["blocks.0.mlp.fc1.weight"].shape[0], tensors["blocks.0.mlp.fc2.weight"].shape[1]
    return rules.from_zoo(tensors, under(prefix, "", _rules(wide == 2 * narrow)), origin=ORIGIN)


def classifier_to_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return nothing: no head of ours belongs to a T5."""
    return {}


def arguments(config: Mapping[str, Any], keys: Collection[str] = (), pooling: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Convert a ``config.json`` of model type ``t5`` to keywords of our ``t5``.

    Args:
        pooling: sentence-transformers' ``1_Pooling/config.json``, if there is one (Sentence-T5).

    Raises:
        ConfigError: ours does not have something that the source has.
    """
    refuse_kind(config, MODEL_TYPE)
    whole = {**DEFAULTS, **config}
    if pooling is not None and poolings(pooling) != ["mean"]:
        raise ConfigError(f"1_Pooling/config.json: pools by {', '.join(poolings(pooling))}; our t5 pools by the mean alone")
    words = str(whole["feed_forward_proj"])
    gated, name = words.startswith(GATED), words.removeprefix(GATED)
    if name not in ACTIVATIONS:
        raise ConfigError(
            f"feed_forward_proj: our t5 has no {words!r}; {name_choices(name, ACTIVATIONS)}, perhaps with {GATED!r} before it"
        )
    return {
        "vocab_size": count(whole, "vocab_size"),
        "context_length": CONTEXT_LENGTH,
        "dim": count(whole, "d_model"),
        "depth": count(whole, "num_layers"),
        "num_heads": count(whole, "num_heads"),
        "head_dim": count(whole, "d_kv"),
        "hidden_dim": count(whole, "d_ff"),
        # "gated-gelu" is the tanh form there, whatever "gelu" alone means
        "activation": "gelu_tanh" if gated and name == "gelu" else ACTIVATIONS[name],
        "gated": gated,
        "num_buckets": count(whole, "relative_attention_num_buckets"),
        "max_distance": count(whole, "relative_attention_max_distance"),
        "eps": float(whole["layer_norm_epsilon"]),
        "pool": "mean",
    }


def config(arguments: Mapping[str, Any], head: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Convert all keywords of our ``t5`` to a ``config.json`` of a ``T5EncoderModel``.

    Raises:
        ConfigError: theirs does not have something that the source has.
    """
    target = "transformers' T5EncoderModel"
    if head is not None:
        raise ConfigError(f"head: {target} has none that ours could become; export the encoder alone")
    refuse_others(arguments, {"activation": THEIR_ACTIVATIONS, "num_experts": (None,)}, target)
    if arguments["gated"] and arguments["activation"] == "gelu":
        raise ConfigError(f"activation: got 'gelu', which {target} does not have with a gate; allowed is 'gelu_tanh'")
    words = "gelu" if arguments["gated"] and arguments["activation"] == "gelu_tanh" else THEIR_ACTIVATIONS[arguments["activation"]]
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["T5EncoderModel"],
        "vocab_size": arguments["vocab_size"],
        "d_model": arguments["dim"],
        "num_layers": arguments["depth"],
        "num_heads": arguments["num_heads"],
        "d_kv": arguments["head_dim"],
        "d_ff": arguments["hidden_dim"],
        "feed_forward_proj": (GATED if arguments["gated"] else "") + words,
        "relative_attention_num_buckets": arguments["num_buckets"],
        "relative_attention_max_distance": arguments["max_distance"],
        "layer_norm_epsilon": arguments["eps"],
        "is_encoder_decoder": False,
        "use_cache": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }
