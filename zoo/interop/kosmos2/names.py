"""transformers' ``Kosmos2ForConditionalGeneration`` <-> our system of a ``vit``, the head ``kosmos`` and a ``magneto``.

Reference: transformers 5.17, ``modeling_kosmos2.py``. Its picture encoder is CLIP's, whose tables are used here too. ``final_layer_norm``
is the norm before a block's feed-forward part, not the last one. The names in memory and in saved files are the same; positions are
computed, and buffers of them in old files are left out. Settings of the training alone (``layerdrop``, ``activation_dropout``)
are not read.

Trap: with its default attention (sdpa) the reference masks the connector as if its latents were words, so that latent i sees i + 1 keys of
the picture alone (huggingface/transformers pull request 39037; 5.17 does it still). The released model was trained to see all of
them, and ours does: compare with ``attn_implementation="eager"``.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from zoo.errors import ConfigError
from zoo.interop.base import rules
from zoo.interop.base.rules import joined, named, under
from zoo.interop.base.transformers_config import count, refuse_others
from zoo.interop.causal_lm.transformers_causal_lm import without_copy
from zoo.interop.clip import transformers_clip
from zoo.layers.connector import default_heads

ORIGIN = "transformers"
MODEL_TYPE = "kosmos-2"
TARGET = "transformers' Kosmos2ForConditionalGeneration"
PADDING = 1  # the id that theirs counts no position for; the first position is the number behind it
OLD_BUFFERS = re.compile(r".*\.(position_ids|embed_positions\.weights)")
VISION_DEFAULTS = {
    "image_size": 224,
    "patch_size": 14,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
TEXT_DEFAULTS = {
    "vocab_size": 65037,
    "max_position_embeddings": 2048,
    "embed_dim": 2048,
    "layers": 24,
    "ffn_dim": 8192,
    "attention_heads": 32,
    "activation_function": "gelu",
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "layer_norm_eps": 1e-5,
    "scale_embedding": True,
    "pad_token_id": PADDING,
    "add_cross_attention": False,
}
BLOCK = [
    joined(["self_attn.q_proj.{w}", "self_attn.k_proj.{w}", "self_attn.v_proj.{w}"], "attention.qkv.{w}"),
    *named(
        {
            "self_attn.inner_attn_ln.{w}": "attention.norm.{w}",
            "self_attn.out_proj.{w}": "attention.out.{w}",
            "self_attn_layer_norm.{w}": "norm1.{w}",
            "final_layer_norm.{w}": "norm2.{w}",
            "ffn.fc1.{w}": "mlp.fc1.{w}",
            "ffn.ffn_layernorm.{w}": "mlp.norm.{w}",
            "ffn.fc2.{w}": "mlp.fc2.{w}",
        }
    ),
]
LANGUAGE = [
    *named({"model.embed_tokens.weight": "embedding.weight", "model.layer_norm.{w}": "norm.{w}", "lm_head.weight": "lm_head.weight"}),
    *under("model.layers.{i}.", "blocks.{i}.", BLOCK),
]
PROJECTION = [
    *named(
        {
            "latent_query": "latents",
            "dense.{w}": "dense.{w}",
            "x_attn.q_proj.{w}": "attention.query.{w}",
            "x_attn.out_proj.{w}": "attention.out.{w}",
        }
    ),
    joined(["x_attn.k_proj.{w}", "x_attn.v_proj.{w}"], "attention.key_value.{w}"),
]
WHOLE = [
    *under("vision_model.model.", "encoders.image.", transformers_clip.VISION),
    *under("image_to_text_projection.", "head.connectors.image.", PROJECTION),
    *under("text_model.", "head.language.", LANGUAGE),
]


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the keys of the whole model."""
    return {"image_to_text_projection.latent_query", "text_model.model.embed_tokens.weight"} <= set(keys)


def to_zoo(tensors: Mapping[str, Tensor], *, tied: bool = True) -> dict[str, Tensor]:
    """Convert the state dict, as it is in memory or in a file, to that of our system.

    Args:
        tied: our language model scores with its table of token vectors; a copy of it among the tensors is left out.

    Raises:
        WeightsError: a tensor has no place in ours.
    """
    left = {name: tensor for name, tensor in tensors.items() if not OLD_BUFFERS.fullmatch(name)}
    copy, table = left.get("text_model.lm_head.weight"), left.get("text_model.model.embed_tokens.weight")
    if tied and copy is not None and table is not None:
        without_copy({"lm_head.weight": copy, "embedding.weight": table}, tied, ORIGIN)
        del left["text_model.lm_head.weight"]
    return rules.to_zoo(left, WHOLE, origin=ORIGIN)


def from_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the state dict of our system to theirs, as files hold it: a tied head is left out.

    Raises:
        WeightsError: a tensor has no place in their model.
    """
    return rules.from_zoo(tensors, WHOLE, origin=ORIGIN)


def language_to_zoo(tensors: Mapping[str, Tensor], *, tied: bool = True) -> dict[str, Tensor]:
    """Convert the state dict of a ``Kosmos2TextForCausalLM`` alone to that of our ``magneto``.

    Raises:
        WeightsError: a tensor has no place in ours.
    """
    return without_copy(rules.to_zoo(tensors, LANGUAGE, origin=ORIGIN), tied, ORIGIN)


def language_arguments(config: Mapping[str, Any], *, tied: bool = True) -> dict[str, Any]:
    """Convert a ``text_config`` to keywords of our ``magneto``.

    Raises:
        ConfigError: ours does not have something that the source has.
    """
    whole = {**TEXT_DEFAULTS, **config}
    legal = {"activation_function": ("gelu",), "add_cross_attention": (False,), "pad_token_id": (PADDING,)}
    refuse_others(whole, legal, "our magneto")
    return {
        "vocab_size": count(whole, "vocab_size"),
        "context_length": count(whole, "max_position_embeddings"),
        "dim": count(whole, "embed_dim"),
        "depth": count(whole, "layers"),
        "num_heads": count(whole, "attention_heads"),
        "hidden_dim": count(whole, "ffn_dim"),
        "eps": float(whole["layer_norm_eps"]),
        "positions": "sinusoids",
        "embed_scale": None if whole["scale_embedding"] else 1.0,
        "tied": tied,
        "dropout": float(whole["dropout"]),
        "attention_dropout": float(whole["attention_dropout"]),
    }


def system(config: Mapping[str, Any], keys: Collection[str] = ()) -> dict[str, Any]:
    """Convert a ``config.json`` of model type ``kosmos-2`` to encoder and head of our system.

    Args:
        keys: names of the weights, if they are known.

    Raises:
        ConfigError: our parts do not have something that the source has.
    """
    vision = {**VISION_DEFAULTS, **(config.get("vision_config") or {}), "model_type": "clip_vision_model"}
    language = language_arguments(config.get("text_config") or {}, tied=bool(config.get("tie_word_embeddings", True)))
    latents = {"kind": "kosmos2", "num_latents": config.get("latent_query_num", 64), "num_heads": language["num_heads"]}
    return {
        "encoders": {"image": {"name": "vit", **transformers_clip.arguments(vision, keys)}},
        "head": {
            "name": "kosmos",
            "language": {"name": "magneto", **language},
            "connectors": {"image": latents},
            "feature_layer": None,
            "class_token": True,
        },
    }


def config(image: Mapping[str, Any], head: Mapping[str, Any], language: Mapping[str, Any]) -> dict[str, Any]:
    """Convert all keywords of our parts to a ``config.json``.

    Raises:
        ConfigError: their model does not have something that the source has; the message names the key of the system.
    """
    latents = _latents(head, language)
    refuse_others(head, {"feature_layer": (None,), "class_token": (True,)}, TARGET)
    refuse_others(language, {"positions": ("sinusoids",), "embed_scale": (None, 1.0, language["dim"] ** 0.5)}, TARGET)
    vision = transformers_clip.config(image) | {"model_type": "kosmos_2_vision_model"}
    if not image["class_token"]:
        raise ConfigError(f"encoders.image.class_token: False, which {TARGET} does not have; allowed is True")
    del vision["architectures"]
    text = {
        "model_type": "kosmos_2_text_model",
        **{"vocab_size": language["vocab_size"], "max_position_embeddings": language["context_length"]},
        **{"embed_dim": language["dim"], "layers": language["depth"], "attention_heads": language["num_heads"]},
        "ffn_dim": language["hidden_dim"] or 4 * language["dim"],
        "activation_function": "gelu",
        **{"dropout": language["dropout"], "attention_dropout": language["attention_dropout"]},
        "layer_norm_eps": language["eps"],
        "scale_embedding": language["embed_scale"] != 1.0,
        **{"pad_token_id": PADDING, "tie_word_embeddings": language["tied"]},
    }
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["Kosmos2ForConditionalGeneration"],
        "vision_config": vision,
        "text_config": text,
        "latent_query_num": latents,
        "tie_word_embeddings": language["tied"],
    }


def _latents(head: Mapping[str, Any], language: Mapping[str, Any]) -> int:
    """Return the number of latents of the connector; raise ConfigError if it is not theirs."""
    word = head["connectors"].get("image")
    options = {"kind": word} if isinstance(word, str) else dict(word or {"kind": "resampler"})
    heads = options.get("num_heads")
    whole = {"normalise": True, **options, "num_heads": default_heads(language["dim"]) if heads is None else heads}
    try:
        refuse_others(whole, {"kind": ("kosmos2",), "normalise": (True,), "num_heads": (language["num_heads"],)}, TARGET)
    except ConfigError as error:
        raise ConfigError(f"head.connectors.image.{error}") from error
    return whole.get("num_latents", 64)
