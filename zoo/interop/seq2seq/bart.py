"""transformers' MarianMT, BART, mBART and Pegasus <-> our encoder and head ``seq2seq``.

Reference: transformers 5.17, ``modeling_marian.py``, ``modeling_bart.py``, ``modeling_mbart.py``, ``modeling_pegasus.py``. The four differ
in norms, positions and activation only. The tables of fixed positions in files are not read: ours are computed.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from zoo.errors import ConfigError, name_choices
from zoo.interop.base import rules
from zoo.interop.base.rules import Rule, joined, named, under
from zoo.interop.base.transformers_config import ACTIVATIONS, count, refuse_others, their_activation

ORIGIN = "transformers"
ENCODER, DECODER = "encoders.text.", "head.decoder."
OFFSET = 2  # rows before the first position in BART's and mBART's tables
_BART = {
    "vocab_size": 50265,
    "max_position_embeddings": 1024,
    "encoder_layers": 12,
    "encoder_ffn_dim": 4096,
    "encoder_attention_heads": 16,
    "decoder_layers": 12,
    "decoder_ffn_dim": 4096,
    "decoder_attention_heads": 16,
    "activation_function": "gelu",
    "d_model": 1024,
    "scale_embedding": False,
    "tie_word_embeddings": True,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}
_PEGASUS = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1, "decoder_start_token_id": 0, "forced_eos_token_id": 1}
_MARIAN = {"vocab_size": 58101, "pad_token_id": 58100, "bos_token_id": None, "eos_token_id": 0, "decoder_start_token_id": 58100}
DEFAULTS: dict[str, dict[str, Any]] = {  # by model type, of their config classes
    "bart": _BART,
    "mbart": {**_BART, "decoder_start_token_id": None},
    "pegasus": {**_BART, **_PEGASUS},
    "marian": {**_BART, **_MARIAN, "forced_eos_token_id": 0, "share_encoder_decoder_embeddings": True, "decoder_vocab_size": None},
}
# What a model type says about both stacks; a table of ours with the same values is written as that type.
FORMS: dict[str, dict[str, Any]] = {
    "bart": {"norm_place": "after", "embedding_norm": True, "final_norm": False, "positions": "learned", "position_offset": OFFSET},
    "mbart": {"norm_place": "before", "embedding_norm": True, "final_norm": True, "positions": "learned", "position_offset": OFFSET},
    "pegasus": {"norm_place": "before", "embedding_norm": False, "final_norm": True, "positions": "halves", "position_offset": 0},
    "marian": {"norm_place": "after", "embedding_norm": False, "final_norm": False, "positions": "halves", "position_offset": 0},
}
CLASSES = {"bart": "BartFor", "mbart": "MBartFor", "pegasus": "PegasusFor", "marian": "MarianMTModel"}


def _self_attention(theirs: str = "self_attn") -> list[Rule]:
    return [
        joined([f"{theirs}.{word}_proj.{{w}}" for word in "qkv"], "attention.qkv.{w}"),
        *named({f"{theirs}.out_proj.{{w}}": "attention.out.{w}", f"{theirs}_layer_norm.{{w}}": "residual1.norm.{w}"}),
    ]


def _mlp(last: int) -> list[Rule]:
    return named({"fc1.{w}": "mlp.fc1.{w}", "fc2.{w}": "mlp.fc2.{w}", "final_layer_norm.{w}": f"residual{last}.norm.{{w}}"})


ENCODER_BLOCK = [*_self_attention(), *_mlp(2)]
DECODER_BLOCK = [
    *_self_attention(),
    joined(["encoder_attn.k_proj.{w}", "encoder_attn.v_proj.{w}"], "cross.key_value.{w}"),
    *named(
        {
            "encoder_attn.q_proj.{w}": "cross.query.{w}",
            "encoder_attn.out_proj.{w}": "cross.out.{w}",
            "encoder_attn_layer_norm.{w}": "residual2.norm.{w}",
        }
    ),
    *_mlp(3),
]
STACK = named(
    {
        "embed_tokens.weight": "embedding.weight",
        "embed_positions.weight": "positions.table",
        "layernorm_embedding.{w}": "embedding_norm.{w}",
        "layer_norm.{w}": "norm.{w}",
    }
)
ENCODER_RULES = [*STACK, *under("layers.{i}.", "blocks.{i}.", ENCODER_BLOCK)]
DECODER_RULES = [*STACK, *under("layers.{i}.", "blocks.{i}.", DECODER_BLOCK)]
TABLE = [
    Rule(("model.shared.weight",), (f"{ENCODER}embedding.weight",)),
    *under("model.encoder.", ENCODER, ENCODER_RULES),
    *under("model.decoder.", DECODER, DECODER_RULES),
    Rule(("lm_head.weight",), (f"{DECODER}output.weight",)),
    Rule(("final_logits_bias",), (f"{DECODER}output_bias",), lambda t: [t[0].reshape(-1)], lambda t: [t[0][None]]),
]
FIXED = ("model.encoder.embed_positions", "model.decoder.embed_positions")  # tables of sinusoids in old files


def recognises(keys: Collection[str]) -> bool:
    """Return True for the names of a whole model with its decoder."""
    return {"model.encoder.layers.0.fc1.weight", "model.decoder.layers.0.encoder_attn.k_proj.weight"} <= set(keys)


def to_zoo(tensors: Mapping[str, Tensor], *, learned: bool) -> dict[str, Tensor]:
    """Convert their state dict to that of our system.

    Args:
        tensors: with any of the copies of the shared word table that files hold.
        learned: False drops the tables of positions, which are sinusoids.

    Raises:
        WeightsError: a tensor has no place in ours.
    """
    shared = "model.shared.weight" in tensors
    copies = ["model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"]
    first = "model.shared.weight" if shared else copies[1]
    left = drop_copies(tensors, first, [*(copies if shared else ()), "lm_head.weight"])
    return rules.to_zoo(left, TABLE, origin=ORIGIN, drop=() if learned else FIXED)


def drop_copies(tensors: Mapping[str, Tensor], table: str, copies: Iterable[str]) -> dict[str, Tensor]:
    """Leave out copies of a word table that a file holds under further names; a tensor that differs stays."""
    same = {name for name in copies if name in tensors and (tensors[name].is_meta or _equal(tensors[name], tensors.get(table)))}
    return {name: tensor for name, tensor in tensors.items() if name not in same}


def _equal(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.shape == other.shape and bool((one == other).all())


def from_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the state dict of our system to theirs.

    Raises:
        WeightsError: a tensor has no place in theirs.
    """
    own = f"{DECODER}embedding.weight" in tensors
    table = TABLE[1:] if own else [TABLE[0], *(rule for rule in TABLE[1:] if rule.ours != (f"{ENCODER}embedding.weight",))]
    return rules.from_zoo(tensors, table, origin=ORIGIN)


def arguments(config: Mapping[str, Any], keys: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Convert a ``config.json`` to the keywords of our encoder and head.

    Raises:
        ConfigError: ours does not have something that the source has.
    """
    kind = str(config.get("model_type"))
    whole = {**DEFAULTS[kind], **config}
    activation = whole["activation_function"]
    if activation not in ACTIVATIONS:
        raise ConfigError(f"activation_function: our seq2seq has no {activation!r}; {name_choices(str(activation), ACTIVATIONS)}")
    shared = bool(whole.get("share_encoder_decoder_embeddings", True))
    both = {**FORMS[kind], "activation": ACTIVATIONS[activation], "scale_embedding": bool(whole["scale_embedding"]), "eps": 1e-5}
    both["context_length"] = count(whole, "max_position_embeddings")
    vocab_size, dim = count(whole, "vocab_size"), count(whole, "d_model")
    encoder = {"name": "seq2seq", "vocab_size": vocab_size, "dim": dim, **both, **_sizes(whole, "encoder")}
    target_size = vocab_size if shared else whole["decoder_vocab_size"] or vocab_size
    head = {"name": "seq2seq", "vocab_size": target_size, "dim": dim, **both, **_sizes(whole, "decoder")}
    return encoder, {**head, "shared_words": shared, "tied": bool(whole["tie_word_embeddings"]), "output_bias": True}


def _sizes(config: Mapping[str, Any], stack: str) -> dict[str, Any]:
    return {
        "depth": count(config, f"{stack}_layers"),
        "num_heads": count(config, f"{stack}_attention_heads"),
        "hidden_dim": count(config, f"{stack}_ffn_dim"),
    }


def config(encoder: Mapping[str, Any], head: Mapping[str, Any]) -> dict[str, Any]:
    """Convert all keywords of our encoder and head to a ``config.json``.

    Raises:
        ConfigError: none of the four has something that the source has; the message names the key.
    """
    kind = _kind(encoder, head)
    target = f"transformers' {kind}"
    same = ("dim", "activation", "scale_embedding", "context_length")
    for key in same:
        theirs = head[key] if head[key] is not None else encoder[key]
        if theirs != encoder[key]:
            raise ConfigError(f"head.{key}: {head[key]!r}, but encoders.text.{key} is {encoder[key]!r}; {target} has one value for both")
    usual = {"norm": ("layer",), "bias": (True,), "scaled": (True,), "head_dim": (None, encoder["dim"] // head["num_heads"])}
    refuse_others(
        head,
        {**usual, "tied": (True,), "scale_output": (False,), "output_bias": (True,), "output_transform": (False,), "eps": (1e-5,)},
        target,
    )
    refuse_others(encoder, {"eps": (1e-5,)}, target)
    if not head["shared_words"] and kind != "marian":
        raise ConfigError(f"head.shared_words: False, which {target} does not have; allowed is True")
    vocabulary: dict[str, Any] = {"vocab_size": encoder["vocab_size"]}
    if kind == "marian":
        size = encoder["vocab_size"] if head["vocab_size"] is None else head["vocab_size"]
        vocabulary |= {"decoder_vocab_size": size, "share_encoder_decoder_embeddings": head["shared_words"]}
    return {
        "model_type": kind,
        "architectures": [CLASSES[kind] + ("" if kind == "marian" else "ConditionalGeneration")],
        "is_encoder_decoder": True,
        "activation_function": their_activation(encoder, target),
        "d_model": encoder["dim"],
        "max_position_embeddings": encoder["context_length"],
        "scale_embedding": encoder["scale_embedding"],
        "tie_word_embeddings": True,
        **vocabulary,
        **_their_sizes(encoder, "encoder"),
        **_their_sizes(head, "decoder"),
    }


def _their_sizes(words: Mapping[str, Any], stack: str) -> dict[str, Any]:
    return {
        f"{stack}_layers": words["depth"],
        f"{stack}_attention_heads": words["num_heads"],
        f"{stack}_ffn_dim": words["hidden_dim"],
    }


def _kind(encoder: Mapping[str, Any], head: Mapping[str, Any]) -> str:
    """Return the model type with the form of both stacks."""
    final = head["norm_place"] == "before" if head["final_norm"] is None else head["final_norm"]
    ours = [{key: each[key] for key in FORMS["bart"]} for each in (encoder, {**head, "final_norm": final})]
    found = next((kind for kind, form in FORMS.items() if ours == [form, form]), None)
    if found is None:
        key = next(iter(FORMS["bart"]))
        raise ConfigError(
            f"{key}: encoder {ours[0]} and head {ours[1]}; transformers has these forms only: "
            + ", ".join(f"{kind} {form}" for kind, form in FORMS.items())
        )
    return found
