"""Settings of transformers' causal language models: ``config.json`` <-> keywords of our ``causal_lm``.

Reference: transformers 5.17, ``configuration_*.py`` of the model types in ``CLASSES``. Dropout and initialisation are left out, because
they change training only.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from zoo.errors import ConfigError, name_choices
from zoo.interop.base.transformers_config import ACTIVATIONS, count, refuse_others, their_activation
from zoo.interop.causal_lm.rotary import context_length, rotary, their_rotary

GPT1, GPT2, GPT_NEO, LLAMA, MISTRAL, QWEN2, QWEN3 = "openai-gpt", "gpt2", "gpt_neo", "llama", "mistral", "qwen2", "qwen3"
GEMMA, GEMMA2, GEMMA3, PHI3, MIXTRAL = "gemma", "gemma2", "gemma3_text", "phi3", "mixtral"
CLASSES = {
    GPT1: "OpenAIGPTLMHeadModel", GPT2: "GPT2LMHeadModel", GPT_NEO: "GPTNeoForCausalLM",
    LLAMA: "LlamaForCausalLM", MISTRAL: "MistralForCausalLM",
    QWEN2: "Qwen2ForCausalLM", QWEN3: "Qwen3ForCausalLM", GEMMA: "GemmaForCausalLM", GEMMA2: "Gemma2ForCausalLM",
    GEMMA3: "Gemma3ForCausalLM", PHI3: "Phi3ForCausalLM", MIXTRAL: "MixtralForCausalLM",
}  # fmt: skip
GPTS = (GPT1, GPT2, GPT_NEO)
GEMMAS, FOUR_NORMS = (GEMMA, GEMMA2, GEMMA3), (GEMMA2, GEMMA3)
OTHERS = "other models can be used as they are: transformers/DIRECTORY"
SLIDING, FULL = "sliding_attention", "full_attention"
_LLAMA: dict[str, Any] = {
    "vocab_size": 32000, "max_position_embeddings": 2048, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": None, "head_dim": None, "intermediate_size": 11008, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False, "sliding_window": None, "layer_types": None,
}  # fmt: skip
_QWEN: dict[str, Any] = {
    **_LLAMA, "vocab_size": 151936, "max_position_embeddings": 32768, "intermediate_size": 22016, "num_key_value_heads": 32,
    "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28,
}  # fmt: skip
_GEMMA: dict[str, Any] = {
    **_LLAMA, "vocab_size": 256000, "max_position_embeddings": 8192, "hidden_size": 3072, "intermediate_size": 24576,
    "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
    "tie_word_embeddings": True, "use_bidirectional_attention": None,
}  # fmt: skip
_GEMMA2: dict[str, Any] = {
    **_GEMMA, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4,
    "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256, "sliding_window": 4096, "sliding_window_pattern": 2,
    "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
}  # fmt: skip
_GPT: dict[str, Any] = {
    "vocab_size": 50257, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True,
}  # fmt: skip
DEFAULTS: dict[str, dict[str, Any]] = {
    GPT1: {**_GPT, "vocab_size": 40478, "n_positions": 512, "n_embd": 768, "n_layer": 12, "n_head": 12, "afn": "gelu"},
    GPT2: {
        **_GPT, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": None, "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False,
    },
    GPT_NEO: {
        **_GPT, "max_position_embeddings": 2048, "hidden_size": 2048, "num_layers": 24, "num_heads": 16, "intermediate_size": None,
        "window_size": 256, "attention_types": None,
    },
    LLAMA: _LLAMA,
    MISTRAL: {**_LLAMA, "max_position_embeddings": 131072, "num_key_value_heads": 8, "intermediate_size": 14336, "sliding_window": 4096},
    QWEN2: _QWEN,
    QWEN3: {**_QWEN, "head_dim": 128},
    GEMMA: _GEMMA,
    GEMMA2: _GEMMA2,
    GEMMA3: {
        **_GEMMA2, "vocab_size": 262208, "max_position_embeddings": 131072, "sliding_window_pattern": 6, "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    },
    PHI3: {
        **_LLAMA, "vocab_size": 32064, "max_position_embeddings": 4096, "hidden_size": 3072, "intermediate_size": 8192,
        "rms_norm_eps": 1e-5,
        "original_max_position_embeddings": 4096,
    },
    MIXTRAL: {
        **_LLAMA, "max_position_embeddings": 131072, "num_key_value_heads": 8, "intermediate_size": 14336, "rms_norm_eps": 1e-5,
        "rope_theta": 1e6, "num_local_experts": 8, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.001,
    },
}  # fmt: skip
# What each model type has in common with all of its sizes, by our keywords. The first type that allows a model is the one it is written as.
_PLAIN: dict[str, Collection[Any]] = {
    "norm": ("rms",), "norm_place": ("before",), "post_norms": (False,), "qk_norm": (False,), "positions": ("rotary",),
    "activation": ("swiglu",), "bias": (False,),
    "qkv_bias": (None, False), "rotary_share": (1.0,), "window_rope_theta": (None,), "attention_scale": (None,), "attention_cap": (None,),
    "logit_cap": (None,), "embed_scale": (1.0,), "num_experts": (None,), "rope_sections": (None,), "rope_interleaved": (False,),
    "deepstack": (0,), "renormalise_experts": (True,),
}  # fmt: skip


class _Anything(tuple):
    """Collection that contains every value."""

    def __contains__(self, value: object) -> bool:
        return True


class _Numbers(tuple):
    """Collection that contains every value but None."""

    def __contains__(self, value: object) -> bool:
        return value is not None


_ANY, _NUMBERS = _Anything(), _Numbers(("a number",))
_GPT_HAS: dict[str, Collection[Any]] = {
    **_PLAIN, "norm": ("layer",), "positions": ("learned",), "activation": tuple(ACTIVATIONS.values()), "bias": (True,),
}  # fmt: skip
_GEMMA_HAS: dict[str, Collection[Any]] = {**_PLAIN, "norm": ("rms_offset",), "activation": ("geglu_tanh",), "embed_scale": _ANY}
_GPT1_ACTIVATIONS = {"gelu_tanh": "gelu", "relu": "relu", "silu": "silu"}  # ours: theirs, whose "gelu" is the approximation with tanh
HAS: dict[str, dict[str, Collection[Any]]] = {
    GPT1: {**_GPT_HAS, "norm_place": ("after",), "activation": tuple(_GPT1_ACTIVATIONS)},
    GPT2: _GPT_HAS,
    GPT_NEO: {**_GPT_HAS, "qkv_bias": (False,), "attention_scale": (1.0,)},
    LLAMA: {**_PLAIN, "bias": (False, True), "window": (None,)},
    MISTRAL: _PLAIN,
    QWEN2: {**_PLAIN, "qkv_bias": (True,)},
    QWEN3: {**_PLAIN, "qk_norm": (True,)},
    GEMMA: _GEMMA_HAS,
    GEMMA2: {**_GEMMA_HAS, "post_norms": (True,), "attention_scale": _ANY, "attention_cap": _ANY, "logit_cap": _ANY},
    GEMMA3: {
        **_GEMMA_HAS, "post_norms": (True,), "qk_norm": (True,), "attention_scale": _ANY, "attention_cap": _ANY, "logit_cap": _ANY,
        "window_rope_theta": _ANY,
    },
    PHI3: {**_PLAIN, "rotary_share": _ANY},
    MIXTRAL: {**_PLAIN, "num_experts": _NUMBERS},
}  # fmt: skip


def arguments(config: Mapping[str, Any], keys: Collection[str] = ()) -> dict[str, Any]:
    """Convert a ``config.json`` of a model type in ``CLASSES`` to keywords of our ``causal_lm``.

    Raises:
        ConfigError: ours does not have something that the source has.
    """
    kind = str(config.get("model_type"))
    if kind not in DEFAULTS:
        raise ConfigError(f"model_type: got {kind!r}; {name_choices(kind, DEFAULTS)}; {OTHERS}")
    whole = {**DEFAULTS[kind], **config}
    return _gpt_arguments(whole, kind) if kind in GPTS else _llama_arguments(whole, kind)


def _gpt_arguments(whole: Mapping[str, Any], kind: str) -> dict[str, Any]:
    activations, key = ACTIVATIONS, "activation_function"
    if kind in (GPT1, GPT2):
        names = {"context_length": "n_positions", "dim": "n_embd", "depth": "n_layer", "num_heads": "n_head"}
        hidden, further = whole.get("n_inner"), {}
    if kind == GPT1:
        theirs = {name: ours for ours, name in _GPT1_ACTIVATIONS.items()}
        activations, key, hidden, further = {**theirs, "swish": "silu"}, "afn", None, {"norm_place": "after"}
    elif kind == GPT2:
        plain = {"scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,), "add_cross_attention": (False,)}
        refuse_others(whole, plain, "our causal_lm")
    else:
        names = {"context_length": "max_position_embeddings", "dim": "hidden_size", "depth": "num_layers", "num_heads": "num_heads"}
        hidden, further = whole["intermediate_size"], {"qkv_bias": False, "attention_scale": 1.0, "window": _neo_windows(whole)}
    name = str(whole[key])
    if name not in activations:
        raise ConfigError(f"{key}: our causal_lm has no {name!r}; {name_choices(name, activations)}")
    numbers = {ours: count(whole, theirs) for ours, theirs in names.items()}
    return {
        "vocab_size": count(whole, "vocab_size"),
        **numbers,
        "hidden_dim": 4 * numbers["dim"] if hidden is None else count({"hidden": hidden}, "hidden"),
        "norm": "layer",
        "eps": float(whole["layer_norm_epsilon"]),
        "positions": "learned",
        "activation": activations[name],
        "bias": True,
        "tied": bool(whole["tie_word_embeddings"]),
        **further,
    }


def _neo_windows(whole: Mapping[str, Any]) -> int | list[int | None] | None:
    """Return the windows of ``attention_types``: ``[[["global", "local"], 12]]`` is 24 layers."""
    depth = count(whole, "num_layers")
    types = whole["attention_types"] or [[["global", "local"], depth // 2]]
    kinds = [kind for names, times in types for _ in range(times) for kind in names]
    return _pattern([count(whole, "window_size") if kind == "local" else None for kind in kinds[:depth]])


def _llama_arguments(whole: Mapping[str, Any], kind: str) -> dict[str, Any]:
    activation = whole.get("hidden_activation") or whole["hidden_act"] if kind in GEMMAS else whole["hidden_act"]
    legal = ("gelu_pytorch_tanh",) if kind in GEMMAS else ("silu", "swish")
    refuse_others({"hidden_act": activation}, {"hidden_act": legal}, "our causal_lm")
    biases = (bool(whole["attention_bias"]),) if kind == LLAMA else (False,)
    refuse_others(whole, {"mlp_bias": biases} if kind == LLAMA else {"attention_bias": biases}, "our causal_lm")
    refuse_others(
        {"use_bidirectional_attention": whole.get("use_bidirectional_attention") or False},
        {"use_bidirectional_attention": (False,)},
        "our causal_lm",
    )
    heads, dim = count(whole, "num_attention_heads"), count(whole, "hidden_size")
    head_dim = dim // heads if whole["head_dim"] is None else count(whole, "head_dim")
    turns, window_theta = rotary(whole, by_layers=kind == GEMMA3)
    return {
        "vocab_size": count(whole, "vocab_size"),
        "context_length": context_length(whole, turns["rope_scaling"]),
        "dim": dim,
        "depth": count(whole, "num_hidden_layers"),
        "num_heads": heads,
        "num_kv_heads": heads if whole["num_key_value_heads"] is None else count(whole, "num_key_value_heads"),
        "head_dim": head_dim,
        "hidden_dim": count(whole, "intermediate_size"),
        "norm": "rms_offset" if kind in GEMMAS else "rms",
        "eps": float(whole["rms_norm_eps"]),
        "positions": "rotary",
        **turns,
        "activation": "geglu_tanh" if kind in GEMMAS else "swiglu",
        "bias": biases[0],
        "window": _windows(whole, kind),
        "tied": bool(whole["tie_word_embeddings"]),
        **_further(whole, kind, head_dim, window_theta),
    }


def _further(whole: Mapping[str, Any], kind: str, head_dim: int, window_theta: float | None) -> dict[str, Any]:
    """Return the keywords that only some model types set."""
    further: dict[str, Any] = {QWEN2: {"qkv_bias": True}, QWEN3: {"qk_norm": True}}.get(kind, {})
    if kind == MIXTRAL:
        numbers = {"num_experts": count(whole, "num_local_experts"), "experts_per_token": count(whole, "num_experts_per_tok")}
        further = {**numbers, "balance_weight": float(whole["router_aux_loss_coef"])}
    if kind in GEMMAS:
        further = {"embed_scale": count(whole, "hidden_size") ** 0.5}
    if kind in FOUR_NORMS:
        scalar = float(whole["query_pre_attn_scalar"])
        further |= {"post_norms": True, "qk_norm": kind == GEMMA3, "window_rope_theta": window_theta}
        further |= {"attention_scale": None if scalar == head_dim else scalar**-0.5}
        further |= {"attention_cap": whole["attn_logit_softcapping"], "logit_cap": whole["final_logit_softcapping"]}
    return further


def _windows(whole: Mapping[str, Any], kind: str) -> int | list[int | None] | None:
    """Return the windows of the layers; ``layer_types`` says which layers have one."""
    if kind in (LLAMA, GEMMA):
        return None
    size, depth = whole["sliding_window"], count(whole, "num_hidden_layers")
    if kind in (QWEN2, QWEN3) and not whole["use_sliding_window"]:
        size = None
    if size is None:
        return None
    types = whole["layer_types"]
    if types is None:
        slides = _sliding(whole, kind, depth)
    elif not isinstance(types, Sequence) or len(types) != depth or set(types) - {SLIDING, FULL}:
        raise ConfigError(f"layer_types: got {str(types)[:60]}; allowed is a list of {depth} words, {SLIDING} or {FULL}")
    else:
        slides = [name == SLIDING for name in types]
    return _pattern([count(whole, "sliding_window") if slide else None for slide in slides])


def _sliding(whole: Mapping[str, Any], kind: str, depth: int) -> list[bool]:
    """Return which layers have a window if a config does not list them, as older ones."""
    if kind in (QWEN2, QWEN3):
        return [layer >= whole["max_window_layers"] for layer in range(depth)]
    if kind in FOUR_NORMS:
        return [(layer + 1) % whole["sliding_window_pattern"] != 0 for layer in range(depth)]
    return [True] * depth


def _pattern(windows: list[int | None]) -> int | list[int | None] | None:
    """Return the shortest list that gives these windows when it is repeated, or its only element."""
    for size in range(1, len(windows) + 1):
        if windows == [windows[layer % size] for layer in range(len(windows))]:
            return windows[0] if size == 1 else windows[:size]
    return None


def model_type(arguments: Mapping[str, Any]) -> str:
    """Return the model type that has the form of our keywords.

    Raises:
        ConfigError: none has; the message names the first keyword that the nearest one does not have.
    """
    scaling = (arguments["rope_scaling"] or {}).get("kind")
    kinds = [PHI3] if scaling == "longrope" else list(HAS)
    for kind in kinds:
        if _fits(arguments, kind):
            return kind
    near = min(kinds, key=lambda kind: sum(arguments[key] not in values for key, values in HAS[kind].items()))
    target = f"transformers' {CLASSES[near]}"
    refuse_others(arguments, HAS[near], target)
    raise ConfigError(f"{target} has no window, key-value heads, width of heads or rope_scaling of this form: {dict(arguments)}")


def _fits(arguments: Mapping[str, Any], kind: str) -> bool:
    if any(arguments[key] not in values for key, values in HAS[kind].items()):
        return False
    if kind in GPTS:
        shared = (None, arguments["num_heads"]), (None, arguments["dim"] / arguments["num_heads"])
        plain = arguments["num_kv_heads"] in shared[0] and arguments["head_dim"] in shared[1] and arguments["rope_scaling"] is None
        plain &= kind != GPT1 or arguments["hidden_dim"] in (None, 4 * arguments["dim"])
        return plain and (kind == GPT_NEO or arguments["window"] is None)
    if kind in (MISTRAL, PHI3, MIXTRAL):
        return isinstance(arguments["window"], int | None)
    return kind != GEMMA or arguments["window"] is None


def config(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Convert all keywords of our ``causal_lm`` to a ``config.json`` of transformers.

    Raises:
        ConfigError: none of their models has this form.
    """
    kind = model_type(arguments)
    shared = {
        "model_type": kind,
        "architectures": [CLASSES[kind]],
        "vocab_size": arguments["vocab_size"],
        "tie_word_embeddings": arguments["tied"],
        "use_cache": True,
    }
    return {**shared, **(_their_gpt(arguments, kind) if kind in GPTS else _their_llama(arguments, kind))}


def _their_gpt(arguments: Mapping[str, Any], kind: str) -> dict[str, Any]:
    dim, heads, depth = arguments["dim"], arguments["num_heads"], arguments["depth"]
    hidden = arguments["hidden_dim"] or 4 * dim
    if kind == GPT1:
        sizes = {"n_positions": arguments["context_length"], "n_embd": dim, "n_layer": depth, "n_head": heads}
        sizes |= {"layer_norm_epsilon": arguments["eps"], "afn": _GPT1_ACTIVATIONS[arguments["activation"]]}
        return {**sizes, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    activation = their_activation(arguments, f"transformers' {CLASSES[kind]}")
    shared = {
        "layer_norm_epsilon": arguments["eps"],
        "activation_function": {"gelu_pytorch_tanh": "gelu_new"}.get(activation, activation),  # the name that GPT-2's own files have
    }
    if kind == GPT2:
        sizes = {"n_positions": arguments["context_length"], "n_embd": dim, "n_layer": depth, "n_head": heads, "n_inner": hidden}
        return {**shared, **sizes, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    windows = _each_window(arguments)
    return {
        **shared,
        **{"max_position_embeddings": arguments["context_length"], "hidden_size": dim, "num_layers": depth, "num_heads": heads},
        **{"intermediate_size": hidden, "window_size": max((size for size in windows if size), default=256)},
        "attention_types": [[["global" if size is None else "local" for size in windows], 1]],
        **{"resid_dropout": 0.0, "embed_dropout": 0.0, "attention_dropout": 0.0},
    }


def _their_llama(arguments: Mapping[str, Any], kind: str) -> dict[str, Any]:
    dim, heads = arguments["dim"], arguments["num_heads"]
    head_dim, windows = arguments["head_dim"] or dim // heads, _each_window(arguments)
    size = next((size for size in windows if size is not None), None)
    found = {
        **{"hidden_size": dim, "num_hidden_layers": arguments["depth"], "num_attention_heads": heads},
        **{"num_key_value_heads": arguments["num_kv_heads"] or heads, "head_dim": head_dim},
        **{"intermediate_size": arguments["hidden_dim"] or 4 * dim, "rms_norm_eps": arguments["eps"]},
        **their_rotary(arguments, by_layers=kind == GEMMA3),
    }
    found |= {"hidden_activation" if kind in FOUR_NORMS else "hidden_act": "gelu_pytorch_tanh" if kind in GEMMAS else "silu"}
    if kind == LLAMA:
        return found | {"attention_bias": arguments["bias"], "mlp_bias": arguments["bias"]}
    if kind in (MISTRAL, PHI3):
        return found | {"sliding_window": size}
    if kind == MIXTRAL:
        numbers = {"num_local_experts": arguments["num_experts"], "num_experts_per_tok": arguments["experts_per_token"]}
        return found | {"sliding_window": size, **numbers, "router_aux_loss_coef": arguments["balance_weight"]}
    if kind in (QWEN2, QWEN3):
        found |= {"use_sliding_window": size is not None, "sliding_window": size}
    if kind in FOUR_NORMS:
        scalar = head_dim if arguments["attention_scale"] is None else arguments["attention_scale"] ** -2
        found |= {"sliding_window": size, "query_pre_attn_scalar": round(scalar) if abs(scalar - round(scalar)) < 1e-6 * scalar else scalar}
        found |= {"attn_logit_softcapping": arguments["attention_cap"], "final_logit_softcapping": arguments["logit_cap"]}
    return found | ({} if kind == GEMMA else {"layer_types": [FULL if each is None else SLIDING for each in windows]})


def _each_window(arguments: Mapping[str, Any]) -> list[int | None]:
    pattern = arguments["window"]
    pattern = list(pattern) if isinstance(pattern, Sequence) else [pattern]
    return [pattern[layer % len(pattern)] for layer in range(arguments["depth"])]
