"""transformers' ``ModernBertModel`` and ``ModernBertForMaskedLM`` <-> our ``modernbert`` and the head ``bert``.

Reference: transformers 5.17, ``modeling_modernbert.py``. The hub's older configs say ``global_attn_every_n_layers``, ``global_rope_theta``
and ``local_rope_theta``; newer ones list ``layer_types`` and nest the thetas in ``rope_parameters``. Both are read, and the newer form is
written.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from zoo.errors import ConfigError, name_choices
from zoo.interop.base import rules
from zoo.interop.base.rules import named, under
from zoo.interop.base.transformers_config import ACTIVATIONS, THEIR_ACTIVATIONS, count, refuse_others
from zoo.interop.text_encoders.bert import family_head, poolings, refuse_kind

ORIGIN = "transformers"
FAMILY = "modernbert"
CLASSIFIER = ("head", "decoder", "classifier")
POOLER: tuple[str, ...] = ()
MODEL_TYPE = "modernbert"
PREFIX = "model."  # of a model with a head
DEFAULTS: dict[str, Any] = {  # of ModernBertConfig
    "vocab_size": 50368,
    "hidden_size": 768,
    "intermediate_size": 1152,
    "num_hidden_layers": 22,
    "num_attention_heads": 12,
    "hidden_activation": "gelu",
    "max_position_embeddings": 8192,
    "norm_eps": 1e-5,
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "decoder_bias": True,
    "local_attention": 128,
    "classifier_pooling": "cls",
    "classifier_bias": False,
    "classifier_activation": "gelu",
}
GLOBAL, LOCAL = "full_attention", "sliding_attention"
GATES = {"gelu": "geglu", "gelu_tanh": "geglu_tanh", "silu": "swiglu"}  # activation of the gate: our name of the gated form
POOLS = ("cls", "mean")
MODEL = named(
    {
        "embeddings.tok_embeddings.weight": "embedding.weight",
        "embeddings.norm.{w}": "embedding_norm.{w}",
        "final_norm.{w}": "norm.{w}",
        "layers.{i}.attn_norm.{w}": "blocks.{i}.norm1.{w}",
        "layers.{i}.attn.Wqkv.{w}": "blocks.{i}.attention.qkv.{w}",
        "layers.{i}.attn.Wo.{w}": "blocks.{i}.attention.out.{w}",
        "layers.{i}.mlp_norm.{w}": "blocks.{i}.norm2.{w}",
        "layers.{i}.mlp.Wi.{w}": "blocks.{i}.mlp.fc1.{w}",
        "layers.{i}.mlp.Wo.{w}": "blocks.{i}.mlp.fc2.{w}",
    }
)
HEAD = named({"head.dense.{w}": "dense.{w}", "head.norm.{w}": "norm.{w}", "decoder.bias": "bias"})
WORDS = "model.embeddings.tok_embeddings.weight"
TIED = ("decoder.weight", "decoder.bias")


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the keys of a ``ModernBertModel``, with or without the prefix ``model.``."""
    keys = set(keys)
    return any({f"{prefix}embeddings.tok_embeddings.weight", f"{prefix}layers.0.attn.Wqkv.weight"} <= keys for prefix in ("", PREFIX))


def has_head(keys: Collection[str]) -> bool:
    """Return True if there is a head of masked-language modelling."""
    return "decoder.bias" in keys


def to_zoo(tensors: Mapping[str, Tensor], *, drop: Collection[str] = ()) -> dict[str, Tensor]:
    """Convert the state dict, as it is in memory or in a file, to that of our ``modernbert``.

    Raises:
        WeightsError: a tensor has no place in ours.
    """
    return rules.to_zoo(tensors, [*MODEL, *under(PREFIX, "", MODEL)], origin=ORIGIN, drop=drop)


def from_zoo(tensors: Mapping[str, Tensor], *, prefix: str = "") -> dict[str, Tensor]:
    """Convert the state dict of our ``modernbert`` to that of ``ModernBertModel``; with any prefix to that of a model with a head."""
    return rules.from_zoo(tensors, under(PREFIX if prefix else "", "", MODEL), origin=ORIGIN)


def classifier_to_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the head of a ``ModernBertForMaskedLM`` to our head ``bert``.

    Raises:
        WeightsError: the decoder is not tied to the word table, or the head is another one.
    """
    return family_head(tensors, HEAD, words=WORDS, tied=TIED[:1], parts=CLASSIFIER)


def classifier_from_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo ``classifier_to_zoo``; the tied decoder is not written, because the library ties it when it reads."""
    return rules.from_zoo(tensors, HEAD, origin=ORIGIN)


def arguments(config: Mapping[str, Any], keys: Collection[str] = (), pooling: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Convert a ``config.json`` of model type ``modernbert`` to keywords of our ``modernbert``.

    Args:
        pooling: sentence-transformers' ``1_Pooling/config.json``, if there is one; otherwise the pooling of the classifier is taken.

    Raises:
        ConfigError: ours does not have something that the source has.
    """
    refuse_kind(config, MODEL_TYPE)
    whole = {**DEFAULTS, **config}
    refuse_others(whole, {"mlp_bias": (whole["attention_bias"],), "decoder_bias": (True,)}, "our modernbert")
    chosen = [whole["classifier_pooling"]] if pooling is None else poolings(pooling)
    if len(chosen) != 1 or chosen[0] not in POOLS:
        raise ConfigError(f"1_Pooling/config.json: pools by {', '.join(chosen)}; our modernbert pools by one of: {', '.join(POOLS)}")
    depth = count(whole, "num_hidden_layers")
    return {
        "vocab_size": count(whole, "vocab_size"),
        "context_length": count(whole, "max_position_embeddings"),
        "dim": count(whole, "hidden_size"),
        "depth": depth,
        "num_heads": count(whole, "num_attention_heads"),
        "hidden_dim": count(whole, "intermediate_size"),
        "activation": GATES[_ours(whole, "hidden_activation", GATES)],
        "window": count(whole, "local_attention"),
        "global_every": _global_every(whole, depth),
        "rope_theta": _theta(whole, GLOBAL, "global_rope_theta", 160_000.0),
        "window_rope_theta": _theta(whole, LOCAL, "local_rope_theta", 10_000.0),
        "eps": float(whole["norm_eps"]),
        "bias": bool(whole["attention_bias"]),
        "norm_bias": bool(whole["norm_bias"]),
        "pool": chosen[0],
    }


def head_arguments(config: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """Return the keywords of our head ``bert``; its eps is the encoder's."""
    whole = {**DEFAULTS, **config}
    refuse_others(whole, {"norm_bias": (whole["classifier_bias"],)}, "our head bert")
    activation = _ours(whole, "classifier_activation", THEIR_ACTIVATIONS)
    return {"activation": activation, "eps": float(whole["norm_eps"]), "bias": bool(whole["classifier_bias"])}


def config(arguments: Mapping[str, Any], head: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Convert all keywords of our ``modernbert``, and of its head to a ``config.json``.

    Raises:
        ConfigError: theirs does not have something that the source has.
    """
    target = "transformers' ModernBertModel" if head is None else "transformers' ModernBertForMaskedLM"
    names = {ours: THEIR_ACTIVATIONS[name] for name, ours in GATES.items()}
    refuse_others(arguments, {"activation": names}, target)
    classifier: dict[str, Any] = {}
    if head is not None:
        same = {"eps": (arguments["eps"],), "bias": (arguments["norm_bias"],)}
        refuse_others(head, {"tied": (True,), "transform": (True,), "sequence": (None,), "activation": THEIR_ACTIVATIONS, **same}, target)
        classifier = {"classifier_activation": THEIR_ACTIVATIONS[head["activation"]], "classifier_bias": head["bias"]}
    thetas = {GLOBAL: arguments["rope_theta"], LOCAL: arguments["window_rope_theta"]}
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["ModernBertModel" if head is None else "ModernBertForMaskedLM"],
        "vocab_size": arguments["vocab_size"],
        "max_position_embeddings": arguments["context_length"],
        "hidden_size": arguments["dim"],
        "num_hidden_layers": arguments["depth"],
        "num_attention_heads": arguments["num_heads"],
        "intermediate_size": arguments["hidden_dim"],
        "hidden_activation": names[arguments["activation"]],
        "local_attention": arguments["window"],
        "layer_types": [LOCAL if layer % arguments["global_every"] else GLOBAL for layer in range(arguments["depth"])],
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()},
        "norm_eps": arguments["eps"],
        "attention_bias": arguments["bias"],
        "mlp_bias": arguments["bias"],
        "norm_bias": arguments["norm_bias"],
        "classifier_pooling": arguments["pool"] if arguments["pool"] in POOLS else "cls",
        "pad_token_id": 0,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), None),
        **classifier,
    }


def _ours(config: Mapping[str, Any], key: str, known: Collection[str]) -> str:
    """Return our name of an activation."""
    name = ACTIVATIONS.get(str(config[key]))
    if name is None or name not in known:
        theirs = [word for word, ours in ACTIVATIONS.items() if ours in known]
        raise ConfigError(f"{key}: our modernbert has no {config[key]!r}; {name_choices(str(config[key]), theirs)}")
    return name


def _global_every(config: Mapping[str, Any], depth: int) -> int:
    """Return every how many layers attention is global.

    Raises:
        ConfigError: the layers of global attention have no constant distance.
    """
    kinds = config.get("layer_types")
    if kinds is None:
        return count({"global_attn_every_n_layers": 3, **config}, "global_attn_every_n_layers")
    for every in range(1, depth + 1):
        if list(kinds) == [LOCAL if layer % every else GLOBAL for layer in range(depth)]:
            return every
    raise ConfigError(
        f"layer_types: got {str(kinds)[:60]}; our modernbert has {GLOBAL} in layer 0 and every n-th layer after it, and {LOCAL} in between"
    )


def _theta(config: Mapping[str, Any], kind: str, older: str, default: float) -> float:
    """Return the theta of the rotary positions of one kind of layers.

    Raises:
        ConfigError: the positions are scaled.
    """
    rope = (config.get("rope_parameters") or {}).get(kind) or {}
    if config.get("rope_scaling") or rope.get("rope_type", "default") != "default":
        raise ConfigError(f"rope_parameters.{kind}: got {dict(rope) or config.get('rope_scaling')}; our modernbert has rope_type 'default'")
    return float(rope.get("rope_theta", config.get(older, default)))
