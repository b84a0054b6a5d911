"""transformers' ``VisionEncoderDecoderModel`` of a ViT and a text decoder <-> our ``vit`` and head ``seq2seq``.

Paper: Li et al. 2021 (TrOCR, arXiv 2109.10282). Reference: transformers 5.17, ``modeling_vision_encoder_decoder.py``,
``modeling_trocr.py``. The decoder is that of TrOCR, BART or mBART, or GPT-2 or BERT (``cross_decoders``). BART's decoder computes what
TrOCR's does, and is written as that. Other decoders and other image encoders are refused by name.
"""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from zoo.errors import ConfigError, name_choices
from zoo.interop.base import rules
from zoo.interop.base.rules import Rule, under
from zoo.interop.base.transformers_config import ACTIVATIONS, count, refuse_others, their_activation
from zoo.interop.seq2seq import cross_decoders
from zoo.interop.seq2seq.bart import DECODER, DECODER_RULES, FORMS, OFFSET, drop_copies
from zoo.interop.vit import transformers_vit

MODEL_TYPE = "vision-encoder-decoder"
IMAGE = "encoders.image."
BEFORE = "decoder.model.decoder."
ORIGIN = "transformers"
DEFAULTS = {  # of TrOCRConfig
    "vocab_size": 50265,
    "d_model": 1024,
    "decoder_layers": 12,
    "decoder_attention_heads": 16,
    "decoder_ffn_dim": 4096,
    "activation_function": "gelu",
    "max_position_embeddings": 512,
    "scale_embedding": False,
    "use_learned_position_embeddings": True,
    "layernorm_embedding": True,
    "cross_attention_hidden_size": None,
    "tie_word_embeddings": True,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
KINDS = {"trocr": FORMS["bart"], "bart": FORMS["bart"], "mbart": FORMS["mbart"]}  # model types of decoders, with their form
OUTPUTS = ("decoder.output_projection.weight", "decoder.lm_head.weight")  # of TrOCR, and of BART and mBART


def recognises(keys: Collection[str]) -> bool:
    """Return True for the names of an image encoder with TrOCR's decoder, GPT-2 or BERT."""
    trocr = f"{BEFORE}layers.0.encoder_attn.k_proj.weight" in keys
    return "encoder.embeddings.cls_token" in keys and (trocr or cross_decoders.kind_of(keys) is not None)


def completed(decoder: Mapping[str, Any]) -> dict[str, Any]:
    """Return the decoder's part of a ``config.json``, completed with the defaults of its model type."""
    return {**cross_decoders.DEFAULTS.get(str(decoder.get("model_type")), DEFAULTS), **decoder}


def to_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert their state dict to that of our system; the pooler of the image encoder, which nothing reads, is left out.

    Raises:
        WeightsError: a tensor has no place in ours.
    """
    image = {name.removeprefix("encoder."): tensor for name, tensor in tensors.items() if name.startswith("encoder.")}
    text = {name: tensor for name, tensor in tensors.items() if not name.startswith("encoder.")}
    found = {f"{IMAGE}{name}": tensor for name, tensor in transformers_vit.to_zoo(image, drop=["pooler"]).items()}
    if (kind := cross_decoders.kind_of(tensors)) is not None:
        return found | cross_decoders.to_zoo(text, kind)
    left = drop_copies(text, f"{BEFORE}embed_tokens.weight", OUTPUTS)
    return found | rules.to_zoo(left, _table(mbart=OUTPUTS[1] in left), origin=ORIGIN)


def from_zoo(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the state dict of our system to theirs."""
    image = {name.removeprefix(IMAGE): tensor for name, tensor in tensors.items() if name.startswith(IMAGE)}
    text = {name: tensor for name, tensor in tensors.items() if not name.startswith(IMAGE)}
    theirs = transformers_vit.from_zoo(image, prefix="encoder.")
    if f"{DECODER}embedding_norm.weight" not in text or f"{DECODER}transform.dense.weight" in text:
        return theirs | cross_decoders.from_zoo(text)
    return theirs | rules.from_zoo(text, _table(mbart=f"{DECODER}norm.weight" in text), origin=ORIGIN)


def _table(*, mbart: bool) -> list[Rule]:
    """Return the names of a decoder; the output matrix of BART and mBART has another name than TrOCR's."""
    return [*under(BEFORE, DECODER, DECODER_RULES), Rule((OUTPUTS[mbart],), (f"{DECODER}output.weight",))]


def arguments(config: Mapping[str, Any], keys: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Convert a ``config.json`` to the keywords of our encoder and head.

    Raises:
        ConfigError: an encoder or decoder that cannot be converted, or a setting that ours does not have.
    """
    image, text = dict(config["encoder"]), completed(config["decoder"])
    for part, given, legal in (("encoder", image, ("vit",)), ("decoder", text, (*KINDS, *cross_decoders.FORMS))):
        kind = str(given.get("model_type"))
        if kind not in legal:
            raise ConfigError(f"{part}.model_type: {kind!r} cannot be converted here; {name_choices(kind, legal)}")
    encoder = {"name": "vit", **transformers_vit.arguments(image, [key.removeprefix("encoder.") for key in keys])}
    encoder["pool"] = "cls"  # without a pooler: the decoder reads tokens alone
    if (other := str(text["model_type"])) in cross_decoders.FORMS:
        return encoder, cross_decoders.arguments(text, other)
    refuse_others(text, {"use_learned_position_embeddings": (True,), "tie_word_embeddings": (True, False)}, "our seq2seq")
    if "enc_to_dec_proj.weight" in keys:
        raise ConfigError(
            "decoder.cross_attention_hidden_size: null with an encoder of another width, so that the model has a projection "
            "enc_to_dec_proj, which ours does not have"
        )
    if text["activation_function"] not in ACTIVATIONS:
        name = str(text["activation_function"])
        raise ConfigError(f"activation_function: our seq2seq has no {name!r}; {name_choices(name, ACTIVATIONS)}")
    head = {
        "name": "seq2seq",
        "vocab_size": count(text, "vocab_size"),
        "context_length": count(text, "max_position_embeddings"),
        "dim": count(text, "d_model"),
        "depth": count(text, "decoder_layers"),
        "num_heads": count(text, "decoder_attention_heads"),
        "hidden_dim": count(text, "decoder_ffn_dim"),
        "activation": ACTIVATIONS[text["activation_function"]],
        **KINDS[text["model_type"]],
        "embedding_norm": bool(text["layernorm_embedding"]),
        "scale_embedding": bool(text["scale_embedding"]),
        "shared_words": False,
        "tied": bool(text["tie_word_embeddings"]),
    }
    return encoder, head


def config(encoder: Mapping[str, Any], head: Mapping[str, Any]) -> dict[str, Any]:
    """Convert all keywords of our encoder and head to a ``config.json``.

    Raises:
        ConfigError: theirs does not have something that the source has.
    """
    both = {"model_type": MODEL_TYPE, "architectures": ["VisionEncoderDecoderModel"], "is_encoder_decoder": True}
    both |= {"tie_word_embeddings": False, "encoder": transformers_vit.config(encoder)}
    if (kind := cross_decoders.kind_of_ours(head)) is not None:
        return {**both, "decoder": cross_decoders.config(head, kind, width=encoder["dim"])}
    mbart = head["norm_place"] == "before"
    target = "transformers' mBART" if mbart else "transformers' TrOCR"
    usual = {"norm": ("layer",), "bias": (True,), "scaled": (True,), "positions": ("learned",)}
    usual |= {"embedding_norm": (True,)} if mbart else {}
    usual |= {"position_offset": (OFFSET,), "shared_words": (False,), "scale_output": (False,), "output_bias": (False,), "eps": (1e-5,)}
    usual |= {"output_transform": (False,)}
    refuse_others(head, {**usual, "final_norm": (None, mbart)}, target)
    dim = encoder["dim"] if head["dim"] is None else head["dim"]
    if head["head_dim"] not in (None, dim // head["num_heads"]):
        raise ConfigError(f"head.head_dim: {head['head_dim']}; {target} has {dim // head['num_heads']} alone")
    text = {
        "model_type": "mbart" if mbart else "trocr",
        "is_decoder": True,
        "add_cross_attention": True,
        "vocab_size": head["vocab_size"],
        "d_model": dim,
        "cross_attention_hidden_size": encoder["dim"],
        "decoder_layers": head["depth"],
        "decoder_attention_heads": head["num_heads"],
        "decoder_ffn_dim": head["hidden_dim"],
        "activation_function": their_activation(head, target),
        "max_position_embeddings": head["context_length"],
        "scale_embedding": head["scale_embedding"],
        "layernorm_embedding": head["embedding_norm"],
        "use_learned_position_embeddings": True,
        "tie_word_embeddings": head["tied"],
    }
    return {**both, "decoder": text}
