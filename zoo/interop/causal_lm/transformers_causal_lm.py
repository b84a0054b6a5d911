"""Weights of transformers' causal language models <-> our ``causal_lm``; ``configs.py`` has their settings.

Reference: transformers 5.17, ``modeling_{openai,gpt2,gpt_neo,llama,mistral,mixtral,qwen2,qwen3,gemma,gemma2,gemma3,phi3}.py``. The
``Conv1D`` of GPT-1 and -2 holds its matrices the other way round, and q, k, v of all in one, as ours; Phi-3 holds q, k, v and gate, value
in one, as ours. Gemma 2 and 3 call the norm before the feed-forward part ``pre_feedforward_layernorm``, and ``post_attention_layernorm``
is a norm after the branch. Files of Mixtral hold three matrices for each expert, which are one tensor for all experts in memory, as in
ours; both are read. Files of older releases hold buffers that are no weights (causal masks, ``inv_freq``); the first ones of GPT-2 have no
prefix ``transformer.``. Rows of q and k are in the order of halves, as ours.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from zoo.errors import WeightsError
from zoo.interop.base import rules
from zoo.interop.base.rules import Rule, named, transposed, under
from zoo.interop.causal_lm.configs import FOUR_NORMS, GPT1, GPT2, GPTS, MIXTRAL, PHI3, model_type

ORIGIN = "transformers"
OLD_BUFFERS = re.compile(r"(.*\.)?(h\.\d+\.attn\.(attention\.)?(bias|masked_bias)|rotary_emb\.inv_freq)")
EXPERT = re.compile(r".*\.block_sparse_moe\.experts\.(\d+)\.w1\.weight")
FOURTH_NORM = "pre_feedforward_layernorm"  # in the names of Gemma 2 and 3

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
NEO_BLOCK = [
    *named(
        {
            "ln_1.{w}": "norm1.{w}",
            "ln_2.{w}": "norm2.{w}",
            "attn.attention.out_proj.{w}": "attention.out.{w}",
            "mlp.c_fc.{w}": "mlp.fc1.{w}",
            "mlp.c_proj.{w}": "mlp.fc2.{w}",
        }
    ),
    rules.joined([f"attn.attention.{name}_proj.{{w}}" for name in "qkv"], "attention.qkv.{w}"),
]


OUTER = {"wte.weight": "embedding.weight", "wpe.weight": "positions", "ln_f.{w}": "norm.{w}"}
OUTER_GPT1 = {"tokens_embed.weight": "embedding.weight", "positions_embed.weight": "positions"}


def _gpt_model(block: list[Rule], outer: Mapping[str, str] = MappingProxyType(OUTER)) -> list[Rule]:
    return [*named(dict(outer)), *under("h.{i}.", "blocks.{i}.", block)]


HEAD = named({"lm_head.weight": "lm_head.weight"})


def stacked(theirs: Sequence[str], ours: str, shares: Sequence[int]) -> Rule:
    """Return the rule that concatenates tensors of theirs along rows into one of ours, in the proportion of ``shares``."""

    def back(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        unit = tensors[0].size(0) // sum(shares)
        return [part.contiguous() for part in tensors[0].split([unit * share for share in shares])]

    return Rule(tuple(theirs), (ours,), lambda t: [torch.cat(list(t))], back)


def expert_block(num_experts: int) -> list[Rule]:
    """Return the rules of the experts of one block, as files hold them: w1 is the gate, w3 the value, w2 the output."""
    every = range(num_experts)
    into = [f"block_sparse_moe.experts.{e}.{w}.weight" for e in every for w in ("w1", "w3")]
    out = [f"block_sparse_moe.experts.{e}.w2.weight" for e in every]
    fc1 = Rule(
        tuple(into),
        ("mlp.fc1",),
        lambda t: [torch.stack([torch.cat(list(t[2 * e : 2 * e + 2])) for e in every])],
        lambda t: [half.contiguous() for expert in t[0] for half in expert.chunk(2)],
    )
    fc2 = Rule(tuple(out), ("mlp.fc2",), lambda t: [torch.stack(list(t))], lambda t: [expert.contiguous() for expert in t[0]])
    return [fc1, fc2, *named({"block_sparse_moe.gate.weight": "mlp.router.weight"})]


EXPERTS_IN_MEMORY = named(
    {"mlp.gate.weight": "mlp.router.weight", "mlp.experts.gate_up_proj": "mlp.fc1", "mlp.experts.down_proj": "mlp.fc2"}
)


def llama_model(
    num_heads: int = 1, num_kv_heads: int = 1, *, four_norms: bool = False, fused: bool = False, num_experts: int = 0
) -> list[Rule]:
    """Return the rules of a ``LlamaModel`` or a relative.

    Args:
        num_heads: of the queries; with ``num_kv_heads`` it tells the rows of q, k and v on the way back.
        num_kv_heads: of keys and values.
        four_norms: the blocks have norms after their branches, and Gemma's names.
        fused: q, k and v are one matrix in theirs too, and so are gate and value (Phi-3).
        num_experts: number of experts in place of the feed-forward part (Mixtral); 0 for none.
    """
    projections = [f"self_attn.{name}_proj.{{w}}" for name in "qkv"]
    feed_forward = expert_block(num_experts) if num_experts else [stacked(["mlp.gate_proj.{w}", "mlp.up_proj.{w}"], "mlp.fc1.{w}", (1, 1))]
    apart = [stacked(projections, "attention.qkv.{w}", (num_heads, num_kv_heads, num_kv_heads)), *feed_forward]
    joined = named({"self_attn.qkv_proj.{w}": "attention.qkv.{w}", "mlp.gate_up_proj.{w}": "mlp.fc1.{w}"})
    norms = {"input_layernorm.weight": "norm1.weight", "post_attention_layernorm.weight": "norm2.weight"}
    if four_norms:
        norms |= {"post_attention_layernorm.weight": "post_norm1.weight", f"{FOURTH_NORM}.weight": "norm2.weight"}
        norms |= {"post_feedforward_layernorm.weight": "post_norm2.weight"}
    names = {"self_attn.o_proj.{w}": "attention.out.{w}", **norms, **({} if num_experts else {"mlp.down_proj.{w}": "mlp.fc2.{w}"})}
    names |= {f"self_attn.{name}_norm.weight": f"attention.{name}_norm.weight" for name in "qk"}
    outer = named({"embed_tokens.weight": "embedding.weight", "norm.weight": "norm.weight"})
    return [*outer, *under("layers.{i}.", "blocks.{i}.", [*(joined if fused else apart), *named(names)])]


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the keys of a model whose names are known here, with or without the prefix of the inner model."""
    keys = set(keys)
    gpt = [{"wte.weight", f"h.0.attn.{name}.weight"} for name in ("c_attn", "attention.q_proj")]
    gpt.append({"tokens_embed.weight", "h.0.attn.c_attn.weight"})
    apart = {"embed_tokens.weight", "layers.0.self_attn.q_proj.weight", "layers.0.mlp.gate_proj.weight"}
    fused = {"embed_tokens.weight", "layers.0.self_attn.qkv_proj.weight", "layers.0.mlp.gate_up_proj.weight"}
    routed = [
        {"embed_tokens.weight", "layers.0.self_attn.q_proj.weight", f"layers.0.{name}"}
        for name in ("block_sparse_moe.experts.0.w1.weight", "mlp.experts.gate_up_proj")
    ]
    known = (
        [("", each) for each in (*gpt, apart, fused, *routed)]
        + [("transformer.", each) for each in gpt]
        + [("model.", each) for each in (apart, fused, *routed)]
    )
    return any({prefix + name for name in names} <= keys for prefix, names in known)


def to_zoo(tensors: Mapping[str, Tensor], *, head_dim: int = 0, tied: bool = False) -> dict[str, Tensor]:
    """Convert the state dict, as it is in memory or in a file, to that of our ``causal_lm``.

    Args:
        head_dim: not used; files of other origins need it.
        tied: our output projection is the word table; a copy of it among the tensors is left out.

    Raises:
        WeightsError: a tensor has no place in ours.
    """
    left = {name: tensor for name, tensor in tensors.items() if not OLD_BUFFERS.fullmatch(name)}
    outer = OUTER_GPT1 if any(name.endswith("tokens_embed.weight") for name in left) else OUTER
    gpt = _gpt_model(NEO_BLOCK if any(".attn.attention." in name for name in left) else GPT2_BLOCK, outer)
    fused = any(".qkv_proj." in name for name in left)
    experts = {int(match[1]) for name in left if (match := EXPERT.fullmatch(name))}
    model = [
        *gpt,
        *llama_model(four_norms=any(FOURTH_NORM in name for name in left), fused=fused, num_experts=max(experts, default=-1) + 1),
        *under("layers.{i}.", "blocks.{i}.", EXPERTS_IN_MEMORY),
    ]
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
        ConfigError: none of their models has this form.
    """
    kind = model_type(arguments)
    if kind in GPTS:
        block, outer = GPT2_BLOCK if kind in (GPT1, GPT2) else NEO_BLOCK, OUTER_GPT1 if kind == GPT1 else OUTER
        table = under("transformer.", "", _gpt_model(block, outer))
    else:
        heads = (arguments["num_heads"], arguments["num_kv_heads"] or arguments["num_heads"])
        experts = arguments["num_experts"] if kind == MIXTRAL else 0
        table = under("model.", "", llama_model(*heads, four_norms=kind in FOUR_NORMS, fused=kind == PHI3, num_experts=experts))
    return rules.from_zoo(tensors, under(prefix, "", [*HEAD, *table]), origin=ORIGIN)
