"""transformers' ``SwitchTransformersForConditionalGeneration`` <-> our encoder ``t5`` and head ``seq2seq`` with experts.

Reference: transformers 5.17, ``modeling_switch_transformers.py``. The model is a T5 1.0 in which some feed-forward parts are experts; files
hold the two matrices of each expert (``experts.expert_3.wi``, ``experts.expert_3.wo``), ours one tensor for all of them. The tensors tell
which layers have experts.

``expert_capacity`` of a config is a number of tokens, which release 5.17 does not enforce; ours is a share, in training only. So it is
named, and not taken. Exported configs have the longest text as their number, so that no release drops a token.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ConfigError, name_choices
from zoo.interop.base import rules
from zoo.interop.base.rules import Rule, named, under
from zoo.interop.base.transformers_config import ACTIVATIONS, count, refuse_others, their_activation
from zoo.interop.seq2seq import t5
from zoo.interop.seq2seq.bart import DECODER, ENCODER, drop_copies
from zoo.interop.text_encoders import t5 as encoder_t5
from zoo.layers.experts import SparseSettings

ORIGIN = "transformers"
MODEL_TYPE = "switch_transformers"
TARGET = "transformers' SwitchTransformersForConditionalGeneration"
DEFAULTS = {  # of SwitchTransformersConfig
    **{"vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_decoder_layers": 12, "num_heads": 12},
    **{"num_experts": 8, "expert_capacity": 64, "router_jitter_noise": 0.01, "router_z_loss_coef": 0.001, "router_aux_loss_coef": 0.001},
    **{"layer_norm_epsilon": 1e-6, "dense_act_fn": "relu", "tie_word_embeddings": True},
    **{"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128},
}
USUAL: dict[str, tuple[Any, ...]] = {  # keys with one possible value, the first; the last four are of older releases
    **{"router_bias": (False,), "router_dtype": ("float32",), "add_router_probs": (False,), "router_type": ("tokens_masked",)},
    **{"num_selected_experts": (1,), "batch_prioritized_routing": (False,), "feed_forward_proj": ("relu",), "is_gated_act": (False,)},
}
COPIES = ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # of the word table, in files
SPARSE = re.compile(r"(encoder|decoder)\.block\.(\d+)\.layer\.\d\.mlp\.router\.classifier\.weight")
EXPERT = re.compile(r".*\.mlp\.experts\.expert_(\d+)\.wi\.weight")
OURS = re.compile(r".*\.mlp\.fc1")  # of experts: a parameter of its own, no weight of a linear layer


def _stacked(layer: str, theirs: str, ours: str, num_experts: int) -> Rule:
    """Return the rule that stacks a matrix of all experts into one tensor."""
    names = tuple(f"{layer}.mlp.experts.expert_{expert}.{theirs}.weight" for expert in range(num_experts))
    return Rule(names, (ours,), lambda t: [torch.stack(list(t))], lambda t: [expert.contiguous() for expert in t[0]])


def _feed_forward(layer: str, num_experts: int) -> list[Rule]:
    """Return the rules of a feed-forward part, and of experts in its place."""
    dense = named({f"{layer}.mlp.wi.weight": "mlp.fc1.weight", f"{layer}.mlp.wo.weight": "mlp.fc2.weight"})
    if not num_experts:
        return dense
    router = named({f"{layer}.mlp.router.classifier.weight": "mlp.router.weight"})
    return [*dense, *router, _stacked(layer, "wi", "mlp.fc1", num_experts), _stacked(layer, "wo", "mlp.fc2", num_experts)]


def _without_mlp(block: Iterable[Rule]) -> list[Rule]:
    return [rule for rule in block if "DenseReluDense" not in rule.theirs[0]]


def _table(num_experts: int) -> list[Rule]:
    encoder = [*_without_mlp(encoder_t5.BLOCK), *_feed_forward("layer.1", num_experts)]
    decoder = [*_without_mlp(t5.BLOCK), *_feed_forward("layer.2", num_experts)]
    return [
        *under("", ENCODER, [*encoder_t5.OUTSIDE, *under("encoder.block.{i}.", "blocks.{i}.", encoder)]),
        *under("", DECODER, [*t5.OUTSIDE, *under("decoder.block.{i}.", "blocks.{i}.", decoder)]),
    ]


def recognises(keys: Collection[str]) -> bool:
    """Return True for the names of a Switch Transformer with its decoder."""
    return t5.recognises(keys) and "encoder.block.0.layer.1.DenseReluDense.wo.weight" not in keys


def to_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert their state dict to that of our system.

    Args:
        tensors: with any of the copies of the shared word table that files hold.

    Raises:
        WeightsError: a tensor has no place in ours; also a word table of one stack that differs from the shared one.
    """
    experts = [int(match[1]) for match in map(EXPERT.fullmatch, tensors) if match]
    left = drop_copies(tensors, "shared.weight", COPIES)
    return rules.to_zoo(left, _table(max(experts, default=-1) + 1), origin=ORIGIN, drop=t5.UNUSED)


def from_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the state dict of our system to theirs.

    With an output matrix of its own, the file also holds the word table under the names of both stacks, which theirs does not tie then.
    """
    num_experts = max((len(tensor) for name, tensor in tensors.items() if OURS.fullmatch(name)), default=0)
    found = rules.from_zoo(tensors, _table(num_experts), origin=ORIGIN)
    return found | ({name: found["shared.weight"].clone() for name in COPIES[1:]} if COPIES[0] in found else {})


def arguments(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Convert a ``config.json``, and the layers and the output matrix that the tensors have, to the keywords of our encoder and head.

    Raises:
        ConfigError: ours does not have something that the source has.
    """
    whole = {**DEFAULTS, **{key: values[0] for key, values in USUAL.items()}, **config}
    refuse_others(whole, USUAL, "our t5 with experts")
    activation = str(whole["dense_act_fn"])
    if activation not in ACTIVATIONS:
        raise ConfigError(f"dense_act_fn: our t5 with experts has no {activation!r}; {name_choices(activation, ACTIVATIONS)}")
    if whole["num_decoder_layers"] is None:
        whole["num_decoder_layers"] = whole["num_layers"]
    like_t5 = {**whole, "model_type": t5.MODEL_TYPES[0], "feed_forward_proj": activation, "scale_decoder_outputs": None}
    encoder, head = t5.arguments(like_t5, tensors)
    head["scale_output"] = bool(whole["tie_word_embeddings"])
    return {**encoder, **_sparse(whole, tensors, "encoder")}, {**head, **_sparse(whole, tensors, "decoder")}


def _sparse(config: Mapping[str, Any], keys: Iterable[str], stack: str) -> dict[str, Any]:
    """Return the keywords of the experts of a stack; none if no layer has any.

    Raises:
        ConfigError: the layers with experts are not evenly spread.
    """
    found = {int(match[2]) for match in map(SPARSE.fullmatch, keys) if match and match[1] == stack}
    if not found:
        return {}
    depth = count(config, "num_layers" if stack == "encoder" else "num_decoder_layers")
    possible = [step for step in range(1, depth + 1) if found == _layers(step, depth)]
    if not possible:
        raise ConfigError(
            f"{stack}_sparse_step: the layers {sorted(found)} of {depth} have experts; allowed are all, or every n-th one from layer 1 on"
        )
    told = config.get(f"{stack}_sparse_step")
    return {
        "num_experts": count(config, "num_experts"),
        "expert_step": told if told in possible else possible[0],
        "router_jitter": float(config["router_jitter_noise"]),
        "balance_weight": float(config["router_aux_loss_coef"]),
        "router_z_weight": float(config["router_z_loss_coef"]),
    }


def _layers(step: int, depth: int) -> set[int]:
    settings = SparseSettings(1, step)
    return {layer for layer in range(depth) if settings.is_sparse(layer)}


def left_out(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return in words what is read from a config and not used."""
    capacity = config.get("expert_capacity", DEFAULTS["expert_capacity"])
    return (
        f"expert_capacity {capacity}: a number of tokens, where ours is a share of the batch; no token is dropped. For training with a "
        "limit set expert_capacity, 1.25 in the paper",
    )


def config(encoder: Mapping[str, Any], head: Mapping[str, Any]) -> dict[str, Any]:
    """Convert all keywords of our encoder and head to a ``config.json``.

    Raises:
        ConfigError: theirs does not have something that the source has.
    """
    refuse_others(encoder, {"gated": (False,)}, TARGET)
    if head["tied"]:
        refuse_others(head, {"scale_output": (True,)}, f"{TARGET} with a tied output")
    without = {"num_experts": None}
    theirs = t5.config({**encoder, **without}, {**head, **without, "scale_output": False})
    for key in ("feed_forward_proj", "scale_decoder_outputs"):
        del theirs[key]
    sparse = [part for part in (encoder, head) if part["num_experts"] is not None]
    for key in ("num_experts", "router_jitter", "balance_weight", "router_z_weight"):
        if len({part[key] for part in sparse}) > 1:
            raise ConfigError(f"head.{key}: {head[key]!r}, but encoders.text.{key} is {encoder[key]!r}; {TARGET} has one value for both")
    return {
        **theirs,
        "model_type": MODEL_TYPE,
        "architectures": ["SwitchTransformersForConditionalGeneration"],
        "dense_act_fn": their_activation(encoder, TARGET),
        "num_experts": sparse[0]["num_experts"],
        "expert_capacity": max(encoder["context_length"], head["context_length"]),
        "router_jitter_noise": sparse[0]["router_jitter"],
        "router_aux_loss_coef": sparse[0]["balance_weight"],
        "router_z_loss_coef": sparse[0]["router_z_weight"],
        "tie_word_embeddings": head["scale_output"],
        **_their_layers("encoder", encoder),
        **_their_layers("decoder", head),
    }


def _their_layers(stack: str, words: Mapping[str, Any]) -> dict[str, int]:
    """Return distance and number of layers with experts; a distance of 0 means none."""
    step = 0 if words["num_experts"] is None else words["expert_step"]
    return {f"{stack}_sparse_step": step, f"num_sparse_{stack}_layers": len(_layers(step, words["depth"])) if step else 0}
