"""GPT-2 and BERT as decoders with cross-attention, of transformers' ``VisionEncoderDecoderModel`` <-> our head ``seq2seq``.

Reference: transformers 5.17, ``modeling_gpt2.py`` and ``modeling_bert.py`` with ``add_cross_attention``. GPT-2's ``Conv1D`` stores matrices
transposed. Its masks in old files are no weights. BERT's type 0, which all tokens of a decoder have, is added to the positions.

If encoder and decoder differ in width, theirs maps the encoder's tokens by ``enc_to_dec_proj`` before all cross-attentions. Ours multiplies
this matrix into each block's keys and values. Back, a narrower encoder gets the identity with rows of zeros as that matrix; a wider one
cannot be written.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import ConfigError, name_choices
from zoo.interop.base import rules
from zoo.interop.base.rules import Rule, joined, named, transposed, under
from zoo.interop.base.transformers_config import ACTIVATIONS, count, refuse_others, their_activation
from zoo.interop.seq2seq.bart import DECODER, drop_copies

ORIGIN = "transformers"
PROJECTION = "enc_to_dec_proj"
MASKS = re.compile(r"decoder\.transformer\.h\.\d+\.(attn|crossattention)\.(bias|masked_bias)|decoder\.bert\.embeddings\.position_ids")
DEFAULTS: dict[str, dict[str, Any]] = {  # of their config classes
    "gpt2": {
        **{"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": None},
        **{"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True, "scale_attn_weights": True},
        **{"scale_attn_by_inverse_layer_idx": False, "bos_token_id": 50256, "eos_token_id": 50256},
    },
    "bert": {
        **{"vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
        **{"hidden_act": "gelu", "max_position_embeddings": 512, "layer_norm_eps": 1e-12, "tie_word_embeddings": True, "pad_token_id": 0},
    },
}
NAMES = {  # of sizes, ours: theirs
    "gpt2": {"vocab_size": "vocab_size", "context_length": "n_positions", "dim": "n_embd", "depth": "n_layer", "num_heads": "n_head"},
    "bert": {
        **{"vocab_size": "vocab_size", "context_length": "max_position_embeddings", "dim": "hidden_size", "depth": "num_hidden_layers"},
        **{"num_heads": "num_attention_heads", "hidden_dim": "intermediate_size"},
    },
}
ACTIVATION = {"gpt2": "activation_function", "bert": "hidden_act"}
EPS = {"gpt2": "layer_norm_epsilon", "bert": "layer_norm_eps"}
USUAL = {  # further keywords of ours that the two have always
    **{"norm": "layer", "bias": True, "scaled": True, "positions": "learned", "position_offset": 0, "scale_embedding": False},
    **{"scale_output": False, "shared_words": False},
}
FORMS: dict[str, dict[str, Any]] = {
    "gpt2": {"norm_place": "before", "embedding_norm": False, "final_norm": True, "output_bias": False, "output_transform": False},
    "bert": {"norm_place": "after", "embedding_norm": True, "final_norm": False, "output_bias": True, "output_transform": True},
}


def _linear(theirs: str, ours: str) -> list[Rule]:
    return [transposed(f"{theirs}.weight", f"{ours}.weight"), *named({f"{theirs}.bias": f"{ours}.bias"})]


GPT2_BLOCK = [
    *named({f"{theirs}.{{w}}": f"residual{i}.norm.{{w}}" for i, theirs in enumerate(("ln_1", "ln_cross_attn", "ln_2"), 1)}),
    *_linear("attn.c_attn", "attention.qkv"),
    *_linear("attn.c_proj", "attention.out"),
    *_linear("crossattention.q_attn", "cross.query"),
    *_linear("crossattention.c_attn", "cross.key_value"),
    *_linear("crossattention.c_proj", "cross.out"),
    *_linear("mlp.c_fc", "mlp.fc1"),
    *_linear("mlp.c_proj", "mlp.fc2"),
]
BERT_BLOCK = [
    joined([f"attention.self.{word}.{{w}}" for word in ("query", "key", "value")], "attention.qkv.{w}"),
    joined([f"crossattention.self.{word}.{{w}}" for word in ("key", "value")], "cross.key_value.{w}"),
    *named(
        {
            "attention.output.dense.{w}": "attention.out.{w}",
            "attention.output.LayerNorm.{w}": "residual1.norm.{w}",
            "crossattention.self.query.{w}": "cross.query.{w}",
            "crossattention.output.dense.{w}": "cross.out.{w}",
            "crossattention.output.LayerNorm.{w}": "residual2.norm.{w}",
            "intermediate.dense.{w}": "mlp.fc1.{w}",
            "output.dense.{w}": "mlp.fc2.{w}",
            "output.LayerNorm.{w}": "residual3.norm.{w}",
        }
    ),
]
POSITIONS = Rule(
    ("embeddings.position_embeddings.weight", "embeddings.token_type_embeddings.weight"),
    ("positions.table",),
    lambda t: [t[0] + t[1][0]],
    lambda t: [t[0], torch.zeros_like(t[0][:1])],
)
TABLES = {
    "gpt2": [
        *under(
            "decoder.transformer.",
            DECODER,
            named({"wte.weight": "embedding.weight", "wpe.weight": "positions.table", "ln_f.{w}": "norm.{w}"}),
        ),
        *under("decoder.transformer.h.{i}.", f"{DECODER}blocks.{{i}}.", GPT2_BLOCK),
        *named({"decoder.lm_head.weight": f"{DECODER}output.weight"}),
    ],
    "bert": [
        *under(
            "decoder.bert.",
            DECODER,
            [
                *named({"embeddings.word_embeddings.weight": "embedding.weight", "embeddings.LayerNorm.{w}": "embedding_norm.{w}"}),
                POSITIONS,
            ],
        ),
        *under("decoder.bert.encoder.layer.{i}.", f"{DECODER}blocks.{{i}}.", BERT_BLOCK),
        *under(
            "decoder.cls.predictions.",
            DECODER,
            named(
                {
                    "transform.dense.{w}": "transform.dense.{w}",
                    "transform.LayerNorm.{w}": "transform.norm.{w}",
                    "bias": "output_bias",
                    "decoder.weight": "output.weight",
                }
            ),
        ),
    ],
}
WORDS = {"gpt2": "decoder.transformer.wte.weight", "bert": "decoder.bert.embeddings.word_embeddings.weight"}
OUTPUTS = {"gpt2": "decoder.lm_head.weight", "bert": "decoder.cls.predictions.decoder.weight"}
BIAS, BIAS_USED = "decoder.cls.predictions.bias", "decoder.cls.predictions.decoder.bias"


def kind_of(keys: Collection[str]) -> str | None:
    """Return the model type of the decoder by the names of its tensors; None for another one."""
    return next((kind for kind, words in WORDS.items() if words in keys), None)


def kind_of_ours(head: Mapping[str, Any]) -> str | None:
    """Return the model type that a head's keywords describe; None for another one."""
    final = head["norm_place"] == "before" if head["final_norm"] is None else head["final_norm"]
    form = {key: head[key] for key in FORMS["gpt2"]} | {"final_norm": final}
    return next((kind for kind, usual in FORMS.items() if form == usual), None)


def to_zoo(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Convert the state dict of a decoder, with the projection of the encoder's tokens if there is one.

    Raises:
        WeightsError: a tensor has no place in ours.
    """
    left = {name: tensor for name, tensor in tensors.items() if not MASKS.fullmatch(name)}
    left = drop_copies(left, WORDS[kind], [OUTPUTS[kind]])
    if BIAS_USED in left:  # the other one is a copy if words are tied, and without effect if they are not
        left[BIAS] = left.pop(BIAS_USED)
    weight, bias = left.pop(f"{PROJECTION}.weight", None), left.pop(f"{PROJECTION}.bias", None)
    found = rules.to_zoo(left, TABLES[kind], origin=ORIGIN)
    if weight is not None and bias is not None:
        for name in [name for name in found if name.endswith("cross.key_value.weight")]:
            matrix, offset = found[name], name.replace("weight", "bias")
            found[name], found[offset] = matrix @ weight, found[offset] + matrix @ bias
    return found


def from_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the state dict of our head to that of their decoder."""
    kind = "bert" if f"{DECODER}transform.dense.weight" in tensors else "gpt2"
    dim, further = tensors[f"{DECODER}embedding.weight"].shape[1], {}
    ours = dict(tensors)
    for name, matrix in tensors.items():
        if name.endswith("cross.key_value.weight") and matrix.shape[1] < dim:
            width = matrix.shape[1]
            ours[name] = F.pad(matrix, (0, dim - width))
            further = {f"{PROJECTION}.weight": torch.eye(dim, width).to(matrix), f"{PROJECTION}.bias": matrix.new_zeros(dim)}
    found = rules.from_zoo(ours, TABLES[kind], origin=ORIGIN) | further
    return found | ({BIAS_USED: found[BIAS].clone()} if BIAS in found else {})


def arguments(text: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Convert the decoder's part of a ``config.json`` to the keywords of our head.

    Args:
        text: completed with ``DEFAULTS``.

    Raises:
        ConfigError: a setting that ours does not have.
    """
    usual = {"scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,)} if kind == "gpt2" else {}
    refuse_others(text, {**usual, "tie_word_embeddings": (True, False)}, "our seq2seq")
    activation = str(text[ACTIVATION[kind]])
    if activation not in ACTIVATIONS:
        raise ConfigError(f"{ACTIVATION[kind]}: our seq2seq has no {activation!r}; {name_choices(activation, ACTIVATIONS)}")
    sizes = {ours: count(text, theirs) for ours, theirs in NAMES[kind].items()}
    if kind == "gpt2":
        sizes["hidden_dim"] = 4 * sizes["dim"] if text["n_inner"] is None else count(text, "n_inner")
    form = {**FORMS[kind], **{key: USUAL[key] for key in ("positions", "position_offset", "scale_embedding", "shared_words")}}
    words = {"activation": ACTIVATIONS[activation], "eps": float(text[EPS[kind]]), "tied": bool(text["tie_word_embeddings"])}
    return {"name": "seq2seq", **sizes, **form, **words}


def config(head: Mapping[str, Any], kind: str, *, width: int) -> dict[str, Any]:
    """Convert all keywords of our head to the decoder's part of a ``config.json``.

    Args:
        width: of the encoder's tokens.

    Raises:
        ConfigError: theirs does not have something that the source has.
    """
    target = f"transformers' {kind} as a decoder"
    dim = width if head["dim"] is None else head["dim"]
    refuse_others(head, {key: (value,) for key, value in USUAL.items()} | {"head_dim": (None, dim // head["num_heads"])}, target)
    if width > dim:
        raise ConfigError(f"encoders.image.dim: {width} is more than the {dim} of the head, which {target} does not read; allowed is less")
    sizes = {theirs: {**head, "dim": dim}[ours] for ours, theirs in NAMES[kind].items()}
    further = {"n_inner": head["hidden_dim"]} if kind == "gpt2" else {"type_vocab_size": 1}
    return {
        "model_type": kind,
        "is_decoder": True,
        "add_cross_attention": True,
        **sizes,
        **further,
        ACTIVATION[kind]: their_activation(head, target),
        EPS[kind]: head["eps"],
        "tie_word_embeddings": head["tied"],
    }
