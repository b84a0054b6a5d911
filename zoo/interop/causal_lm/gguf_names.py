"""Language models of GGUF files (llama.cpp) <-> our ``causal_lm``: architectures ``llama`` (also Mistral, SmolLM2) and ``gpt2``.

Reference: llama.cpp, ``convert_hf_to_gguf.py`` and the GGUF specification. Rows of q and k of the architecture ``llama`` are in the order
of adjacent pairs (as Meta's own files have them), and are put into that of halves.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ConfigError, name_choices
from zoo.interop.base import rules
from zoo.interop.base.rules import Rule, named, under
from zoo.interop.causal_lm.configs import CLASSES, GPT2, LLAMA, MISTRAL, model_type
from zoo.interop.causal_lm.transformers_causal_lm import stacked, without_copy
from zoo.layers.rope import Rotary

ORIGIN = "GGUF"
ARCHITECTURES = ("llama", "gpt2")
LLAMA3 = {"kind": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_context_length": 8192}  # of Llama 3.1 to 3.3
FACTORS = "rope_freqs.weight"  # by how much each frequency is divided

MODEL = named(
    {
        "token_embd.weight": "embedding.weight",
        "position_embd.weight": "positions",
        "output_norm.{w}": "norm.{w}",
        "output.weight": "lm_head.weight",
    }
)
BLOCK = named(
    {
        "attn_norm.{w}": "norm1.{w}",
        "ffn_norm.{w}": "norm2.{w}",
        "attn_output.{w}": "attention.out.{w}",
        "ffn_down.{w}": "mlp.fc2.{w}",
    }
)
GPT2_BLOCK = named({"attn_qkv.{w}": "attention.qkv.{w}", "ffn_up.{w}": "mlp.fc1.{w}"})


def halves(rows: Tensor, head_dim: int) -> Tensor:
    """Reorder the rows of each head from adjacent pairs ``[0 0' 1 1']`` to halves ``[0 1 0' 1']``."""
    return rows.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)


def pairs(rows: Tensor, head_dim: int) -> Tensor:
    """Reorder the rows of each head from halves to adjacent pairs; the inverse of ``halves``."""
    return rows.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)


def joined_pairs(names: tuple[str, str, str], head_dim: int, shares: Sequence[int] = (1, 1, 1)) -> Rule:
    """Return the rule that joins q and k, whose rows are in the order of pairs, and v; ``shares`` of the rows tell the way back."""

    def back(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        unit = tensors[0].size(0) // sum(shares)
        q, k, v = tensors[0].split([unit * share for share in shares])
        return [pairs(q, head_dim), pairs(k, head_dim), v.contiguous()]

    return Rule(names, ("attention.qkv.{w}",), lambda t: [torch.cat([halves(t[0], head_dim), halves(t[1], head_dim), t[2]])], back)


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the names of a GGUF file's tensors."""
    keys = set(keys)
    return "token_embd.weight" in keys and bool({"blk.0.attn_q.weight", "blk.0.attn_qkv.weight"} & keys)


def to_zoo(tensors: Mapping[str, Tensor], *, head_dim: int, tied: bool = False) -> dict[str, Tensor]:
    """Convert the dequantised tensors of a file to those of our ``causal_lm``.

    Raises:
        WeightsError: a tensor has no place in ours.
    """
    table = _table("blk.0.ffn_gate.weight" in tensors, head_dim)
    return without_copy(rules.to_zoo(tensors, table, origin=ORIGIN, drop=[FACTORS]), tied, ORIGIN)


def _table(llama: bool, head_dim: int, shares: Sequence[int] = (1, 1, 1)) -> list[Rule]:
    joined = joined_pairs(("attn_q.{w}", "attn_k.{w}", "attn_v.{w}"), head_dim, shares)
    block = [*BLOCK, joined, stacked(["ffn_gate.{w}", "ffn_up.{w}"], "mlp.fc1.{w}", (1, 1))] if llama else [*BLOCK, *GPT2_BLOCK]
    return [*MODEL, *under("blk.{i}.", "blocks.{i}.", block)]


def from_zoo(tensors: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Convert the state dict of our ``causal_lm`` to a file's tensors; a tied head is left out.

    Args:
        arguments: all keywords of ours, for which ``architecture`` returns a name.
    """
    heads, head_dim = arguments["num_heads"], arguments["head_dim"] or arguments["dim"] // arguments["num_heads"]
    kv_heads = arguments["num_kv_heads"] or heads
    table = _table(architecture(arguments) == "llama", head_dim, (heads, kv_heads, kv_heads))
    found = rules.from_zoo({name: tensor.float() for name, tensor in tensors.items()}, table, origin=ORIGIN)
    if (arguments["rope_scaling"] or {}).get("kind") == "llama3":
        plain, scaled = (
            Rotary(head_dim=head_dim, theta=arguments["rope_theta"], scaling=s).frequencies(torch.device("cpu"))
            for s in (None, arguments["rope_scaling"])
        )
        found[FACTORS] = plain / scaled
    return found


def architecture(arguments: Mapping[str, Any]) -> str:
    """Return llama.cpp's name of the architecture that has all keywords of our ``causal_lm``.

    Raises:
        ConfigError: it has none that this format writes.
    """
    kind = model_type(arguments)
    if kind not in (GPT2, LLAMA, MISTRAL):
        raise ConfigError(
            f"export: a model of the form of transformers' {CLASSES[kind]} is not written as GGUF; allowed are those of GPT-2 and LLaMA"
        )
    if arguments["window"] is not None:
        raise ConfigError(f"window: got {arguments['window']}, but llama.cpp's architecture 'llama' attends to everything; allowed is null")
    scaling = arguments["rope_scaling"] or {}
    if scaling and scaling["kind"] != "linear" and {**LLAMA3, **scaling} != {**scaling, **LLAMA3}:
        raise ConfigError(f"rope_scaling: got {scaling!r}; GGUF files have linear, or llama3 with {LLAMA3}")
    return "gpt2" if kind == GPT2 else "llama"


def arguments(metadata: Mapping[str, Any], keys: Collection[str], factors: Tensor | None = None) -> dict[str, Any]:
    """Convert a file's metadata to keywords of our ``causal_lm``.

    Args:
        keys: names of the tensors: they tell if the head is tied.
        factors: the tensor ``rope_freqs.weight``, if there is one.

    Raises:
        ConfigError: ours does not have the architecture or the scaling of positions.
    """
    kind = str(metadata.get("general.architecture"))
    if kind not in ARCHITECTURES:
        raise ConfigError(f"general.architecture: got {kind!r}; {name_choices(kind, ARCHITECTURES)}")

    def find(word: str, default: Any = None) -> Any:
        found = metadata.get(f"{kind}.{word}", default)
        if found is None:
            raise ConfigError(f"{kind}.{word}: the GGUF file does not say; it is damaged, or of another kind of model")
        return found

    if find("expert_count", 0):
        raise ConfigError(f"{kind}.expert_count: got {find('expert_count')}; our causal_lm has no mixture of experts: allowed is 0")
    dim, heads = find("embedding_length"), find("attention.head_count")
    if heads > dim:
        raise ConfigError(f"{kind}.attention.head_count: got {heads}; allowed is at most {kind}.embedding_length, {dim}")
    shared = {
        "vocab_size": metadata.get(f"{kind}.vocab_size") or len(metadata["tokenizer.ggml.tokens"]),
        "context_length": find("context_length"),
        "dim": dim,
        "depth": find("block_count"),
        "num_heads": heads,
        "hidden_dim": find("feed_forward_length"),
        "tied": "output.weight" not in keys,
    }
    if kind == "gpt2":
        own = {"norm": "layer", "positions": "learned", "activation": "gelu_tanh", "bias": True}
        return {**shared, **own, "eps": _rounded(find("attention.layer_norm_epsilon"))}
    head_dim, theta = find("rope.dimension_count", dim // heads), find("rope.freq_base", 10_000.0)
    return {
        **shared,
        "num_kv_heads": find("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "eps": _rounded(find("attention.layer_norm_rms_epsilon")),
        "rope_theta": theta,
        "rope_scaling": _scaling(find, head_dim, theta, factors),
        "bias": "blk.0.attn_q.bias" in keys,
    }


def _scaling(find: Any, head_dim: int, theta: float, factors: Tensor | None) -> dict[str, Any] | None:
    kind = find("rope.scaling.type", "none")
    if kind == "linear":
        return {"kind": "linear", "factor": find("rope.scaling.factor")}
    if kind != "none":
        raise ConfigError(f"rope.scaling.type: our causal_lm has no {kind!r}; allowed are none, linear")
    if factors is None:
        return None
    scaling = {**LLAMA3, "factor": float(factors.max())}
    device = factors.device
    plain, scaled = (Rotary(head_dim=head_dim, theta=theta, scaling=s).frequencies(device) for s in (None, scaling))
    if factors.shape != plain.shape or not torch.allclose(plain / factors, scaled, rtol=1e-4):
        raise ConfigError(f"{FACTORS}: is not the scaling of Llama 3.1 to 3.3, which is the only one of this form that our causal_lm has")
    return scaling


def _rounded(value: float) -> float:
    """Return the number with the fewest digits that float32 stores in the same way: 9.999999747378752e-06 gives 1e-05."""
    return float(f"{value:.6g}")
