"""transformers' ``GPT2LMHeadModel``, ``LlamaForCausalLM`` and ``MistralForCausalLM`` <-> our ``causal_lm``.

Reference: transformers 5.17, ``modeling_gpt2.py``, ``modeling_llama.py``, ``modeling_mistral.py``. GPT-2's ``Conv1D`` holds its matrices
the other way round, and q, k, v of all in one, as ours. Files of older releases hold buffers that are no weights (causal masks,
``inv_freq``); the first ones of GPT-2 have no prefix ``transformer.``. Rows of q and k are in the order of halves, as ours.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ConfigError, WeightsError, name_choices
from zoo.interop.base import rules
from zoo.interop.base.rules import Rule, named, transposed, under
from zoo.interop.base.transformers_config import ACTIVATIONS, count, refuse_others, their_activation

ORIGIN = "transformers"
GPT2 = "gpt2"
LLAMA = ("llama", "mistral")
CLASSES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}
OLD_BUFFERS = re.compile(r"(.*\.)?(h\.\d+\.attn\.(bias|masked_bias)|rotary_emb\.inv_freq)")
OTHERS = "other models can be used as they are: transformers/DIRECTORY"

GPT2_BLOCK = [
    transposed("attn.c_attn.weight", "attention.qkv.weight"),
    transposed("attn.c_proj.weight", "attention.out.weight"),
    transposed("mlp.c_fc.weight", "mlp.fc1.weight"),
    transposed("mlp.c_proj.weight", "mlp.fc2.weight"),
    *named(
        {
            "ln_1.{w}": "norm1.{w}",
            "ln_2.{w}": "norm2.{w}",
            "attn.c_attn.bias": "attention.qkv.bias",
            "attn.c_proj.bias": "attention.out.bias",
            "mlp.c_fc.bias": "mlp.fc1.bias",
            "mlp.c_proj.bias": "mlp.fc2.bias",
        }
    ),
]
GPT2_MODEL = [
    *named({"wte.weight": "embedding.weight", "wpe.weight": "positions", "ln_f.{w}": "norm.{w}"}),
    *under("h.{i}.", "blocks.{i}.", GPT2_BLOCK),
]
HEAD = named({"lm_head.weight": "lm_head.weight"})
DEFAULTS = {
    "gpt2": {
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    },
    "llama": {
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "intermediate_size": 11008,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
    },
}
DEFAULTS["mistral"] = {
    **DEFAULTS["llama"],
    "max_position_embeddings": 131072,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "sliding_window": 4096,
}


def stacked(theirs: Sequence[str], ours: str, shares: Sequence[int]) -> Rule:
    """Return the rule that concatenates tensors of theirs along rows into one of ours, in the proportion of ``shares``."""

    def back(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        unit = tensors[0].size(0) // sum(shares)
        return [part.contiguous() for part in tensors[0].split([unit * share for share in shares])]

    return Rule(tuple(theirs), (ours,), lambda t: [torch.cat(list(t))], back)


def llama_model(num_heads: int = 1, num_kv_heads: int = 1) -> list[Rule]:
    """Return the rules of a ``LlamaModel``; the numbers of heads tell the rows of q, k and v on the way back."""
    projections = [f"self_attn.{name}_proj.{{w}}" for name in "qkv"]
    block = [
        stacked(projections, "attention.qkv.{w}", (num_heads, num_kv_heads, num_kv_heads)),
        stacked(["mlp.gate_proj.{w}", "mlp.up_proj.{w}"], "mlp.fc1.{w}", (1, 1)),
        *named(
            {
                "self_attn.o_proj.{w}": "attention.out.{w}",
                "mlp.down_proj.{w}": "mlp.fc2.{w}",
                "input_layernorm.weight": "norm1.weight",
                "post_attention_layernorm.weight": "norm2.weight",
            }
        ),
    ]
    names = named({"embed_tokens.weight": "embedding.weight", "norm.weight": "norm.weight"})
    return [*names, *under("layers.{i}.", "blocks.{i}.", block)]


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the keys of one of the three, with or without the prefix of the inner model."""
    keys = set(keys)
    gpt2 = any({f"{prefix}wte.weight", f"{prefix}h.0.attn.c_attn.weight"} <= keys for prefix in ("", "transformer."))
    names = ("embed_tokens.weight", "layers.0.self_attn.q_proj.weight", "layers.0.mlp.gate_proj.weight")
    return gpt2 or any({prefix + name for name in names} <= keys for prefix in ("", "model."))


def to_zoo(tensors: Mapping[str, Tensor], *, head_dim: int = 0, tied: bool = False) -> dict[str, Tensor]:
    """Convert the state dict, as it is in memory or in a file, to that of our ``causal_lm``.

    Args:
        head_dim: not used; files of other origins need it.
        tied: our output projection is the word table; a copy of it among the tensors is left out.

    Raises:
        WeightsError: a tensor has no place in ours.
    """
    left = {name: tensor for name, tensor in tensors.items() if not OLD_BUFFERS.fullmatch(name)}
    model = [*GPT2_MODEL, *llama_model()]
    table = [*HEAD, *under("transformer.", "", model), *under("model.", "", model), *model]
    return without_copy(rules.to_zoo(left, table, origin=ORIGIN), tied, ORIGIN)


def without_copy(converted: dict[str, Tensor], tied: bool, origin: str) -> dict[str, Tensor]:
    """Leave out an ``lm_head`` that repeats the word table, if ours is tied.

    Raises:
        WeightsError: ``lm_head`` is another matrix.
    """
    head, table = converted.get("lm_head.weight"), converted.get("embedding.weight")
    if not tied or head is None or table is None:
        return converted
    if head.shape != table.shape or not torch.equal(head, table):
        raise WeightsError(f"{origin} -> zoo: lm_head.weight is not the table of token vectors; set tied: false")
    return {name: tensor for name, tensor in converted.items() if name != "lm_head.weight"}


def from_zoo(tensors: Mapping[str, Tensor], arguments: Mapping[str, Any], *, prefix: str = "") -> dict[str, Tensor]:
    """Convert the state dict of our ``causal_lm`` to that of transformers, as files hold it: a tied head is left out.

    Args:
        arguments: all keywords of ours.
        prefix: before every name.

    Raises:
        ConfigError: none of the three models has this form.
    """
    kind = model_type(arguments)
    if kind == GPT2:
        table = under("transformer.", "", GPT2_MODEL)
    else:
        table = under("model.", "", llama_model(arguments["num_heads"], arguments["num_kv_heads"] or arguments["num_heads"]))
    return rules.from_zoo(tensors, under(prefix, "", [*HEAD, *table]), origin=ORIGIN)


def arguments(config: Mapping[str, Any], keys: Collection[str] = ()) -> dict[str, Any]:
    """Convert a ``config.json`` of model type ``gpt2``, ``llama`` or ``mistral`` to keywords of our ``causal_lm``.

    Raises:
        ConfigError: ours does not have something that the source has.
    """
    kind = str(config.get("model_type"))
    if kind not in DEFAULTS:
        raise ConfigError(f"model_type: got {kind!r}; {name_choices(kind, DEFAULTS)}; {OTHERS}")
    whole = {**DEFAULTS[kind], **config}
    return _gpt2_arguments(whole) if kind == GPT2 else _llama_arguments(whole)


def _gpt2_arguments(whole: Mapping[str, Any]) -> dict[str, Any]:
    plain = {"scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,), "add_cross_attention": (False,)}
    refuse_others(whole, plain, "our causal_lm")
    name = str(whole["activation_function"])
    if name not in ACTIVATIONS:
        raise ConfigError(f"activation_function: our causal_lm has no {name!r}; {name_choices(name, ACTIVATIONS)}")
    dim = count(whole, "n_embd")
    return {
        "vocab_size": count(whole, "vocab_size"),
        "context_length": count(whole, "n_positions"),
        "dim": dim,
        "depth": count(whole, "n_layer"),
        "num_heads": count(whole, "n_head"),
        "hidden_dim": 4 * dim if whole["n_inner"] is None else count(whole, "n_inner"),
        "norm": "layer",
        "eps": float(whole["layer_norm_epsilon"]),
        "positions": "learned",
        "activation": ACTIVATIONS[name],
        "bias": True,
        "tied": bool(whole["tie_word_embeddings"]),
    }


def _llama_arguments(whole: Mapping[str, Any]) -> dict[str, Any]:
    refuse_others(whole, {"hidden_act": ("silu", "swish"), "mlp_bias": (whole["attention_bias"],)}, "our causal_lm")
    heads, dim = count(whole, "num_attention_heads"), count(whole, "hidden_size")
    theta, scaling = _rotary(whole)
    return {
        "vocab_size": count(whole, "vocab_size"),
        "context_length": count(whole, "max_position_embeddings"),
        "dim": dim,
        "depth": count(whole, "num_hidden_layers"),
        "num_heads": heads,
        "num_kv_heads": heads if whole.get("num_key_value_heads") is None else count(whole, "num_key_value_heads"),
        "head_dim": dim // heads if whole.get("head_dim") is None else count(whole, "head_dim"),
        "hidden_dim": count(whole, "intermediate_size"),
        "norm": "rms",
        "eps": float(whole["rms_norm_eps"]),
        "positions": "rotary",
        "rope_theta": theta,
        "rope_scaling": scaling,
        "activation": "swiglu",
        "bias": bool(whole["attention_bias"]),
        "window": whole.get("sliding_window") if whole["model_type"] == "mistral" else None,
        "tied": bool(whole["tie_word_embeddings"]),
    }


def _rotary(config: Mapping[str, Any]) -> tuple[float, dict[str, Any] | None]:
    """Return theta and scaling, from ``rope_parameters`` or from ``rope_theta`` and ``rope_scaling`` of older files."""
    words = {"rope_theta": 10_000.0, **{k: config[k] for k in ("rope_theta",) if config.get(k) is not None}}
    words |= config.get("rope_scaling") or {}
    words |= config.get("rope_parameters") or {}
    kind, theta = words.get("rope_type", words.get("type", "default")), float(words["rope_theta"])
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, {"kind": "linear", "factor": float(words["factor"])}
    if kind == "llama3":
        numbers = {key: float(words[key]) for key in ("factor", "low_freq_factor", "high_freq_factor")}
        return theta, {"kind": "llama3", **numbers, "original_context_length": int(words["original_max_position_embeddings"])}
    raise ConfigError(f"rope_parameters.rope_type: our causal_lm has no {kind!r}; allowed are default, linear, llama3; {OTHERS}")


def model_type(arguments: Mapping[str, Any]) -> str:
    """Return the model type that has the form of our keywords.

    Raises:
        ConfigError: none has.
    """
    gpt2 = {"norm": ("layer",), "positions": ("learned",), "bias": (True,), "window": (None,), "rope_scaling": (None,)}
    gpt2 |= {"num_kv_heads": (None, arguments["num_heads"]), "head_dim": (None, arguments["dim"] / arguments["num_heads"])}
    llama = {"norm": ("rms",), "positions": ("rotary",), "activation": ("swiglu",)}
    if arguments["positions"] == "learned":
        refuse_others(arguments, gpt2, "transformers' GPT2LMHeadModel")
        their_activation(arguments, "transformers' GPT2LMHeadModel")
        return GPT2
    refuse_others(arguments, llama, "transformers' LlamaForCausalLM")
    if arguments["window"] is not None:
        refuse_others(arguments, {"bias": (False,)}, "transformers' MistralForCausalLM")
        return "mistral"
    return "llama"


def config(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Convert all keywords of our ``causal_lm`` to a ``config.json`` of transformers.

    Raises:
        ConfigError: none of the three models has this form.
    """
    kind = model_type(arguments)
    dim, heads = arguments["dim"], arguments["num_heads"]
    hidden = arguments["hidden_dim"] or 4 * dim
    shared = {
        "model_type": kind,
        "architectures": [CLASSES[kind]],
        "vocab_size": arguments["vocab_size"],
        "tie_word_embeddings": arguments["tied"],
        "use_cache": True,
    }
    if kind == GPT2:
        activation = their_activation(arguments, "transformers' GPT2LMHeadModel")
        return {
            **shared,
            **{"n_positions": arguments["context_length"], "n_embd": dim, "n_layer": arguments["depth"], "n_head": heads},
            **{"n_inner": hidden, "layer_norm_epsilon": arguments["eps"]},
            "activation_function": {"gelu_pytorch_tanh": "gelu_new"}.get(activation, activation),  # the name that GPT-2's own files have
            **{"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
        }
    return {
        **shared,
        "max_position_embeddings": arguments["context_length"],
        "hidden_size": dim,
        "num_hidden_layers": arguments["depth"],
        "num_attention_heads": heads,
        "num_key_value_heads": arguments["num_kv_heads"] or heads,
        "head_dim": arguments["head_dim"] or dim // heads,
        "intermediate_size": hidden,
        "hidden_act": "silu",
        "rms_norm_eps": arguments["eps"],
        "rope_parameters": _their_rotary(arguments),
        **({"sliding_window": arguments["window"]} if kind == "mistral" else {}),
        **({"attention_bias": arguments["bias"], "mlp_bias": arguments["bias"]} if kind == "llama" else {}),
    }


def _their_rotary(arguments: Mapping[str, Any]) -> dict[str, Any]:
    scaling = dict(arguments["rope_scaling"] or {"kind": "default"})
    words = {"rope_type": scaling.pop("kind"), "rope_theta": arguments["rope_theta"], **scaling}
    if "original_context_length" in words:
        words["original_max_position_embeddings"] = words.pop("original_context_length")
    return words
