"""OpenAI's and open_clip's CLIP <-> our system of ``vit`` (or ``timm``: ``open_clip_timm``), ``text`` and ``clip``.

References: openai/CLIP ``model.py``; open_clip 3.3, ``model.py``, ``CLIP`` and ``CustomTextCLIP`` (whose text tower stands below
``text.``). Learned positions and linear projections are read; any other tensor is an error. Shapes tell the sizes, as in
open_clip's ``build_model_from_openai_state_dict``; a ``model_cfg`` tells the activation, and the width of a head if it is not 64.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from zoo.errors import ConfigError
from zoo.interop.base import rules
from zoo.interop.base.rules import lifted, named, scalar, transposed, under
from zoo.interop.base.transformers_config import refuse_others
from zoo.interop.clip import open_clip_timm
from zoo.layers.mlp import hidden_width

ORIGIN = "open_clip"
OPENAI_SCALARS = ("input_resolution", "context_length", "vocab_size")  # facts, not weights, in OpenAI's archives
BUFFERS = ("attn_mask", "text.attn_mask")  # of old and of traced files
HEAD_WIDTH = 64  # default
CUSTOM = "text."  # before the text tower's names in CustomTextCLIP
UNUSUAL_BLOCK = dict.fromkeys(("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc"), (False,))
LEGAL_VISION = {
    **{"attentional_pool": (False,), "block_type": (None, "default"), "pool_type": ("tok", "avg"), "final_ln_after_pool": (False,)},
    **UNUSUAL_BLOCK,
}
LEGAL_TEXT = {
    **{
        "hf_model_name": (None,),
        "embed_cls": (False,),
        "block_type": (None, "default"),
        "tokenizer_mode": (None, ""),
        "ls_init_value": (None,),
    },
    **{"pool_type": ("argmax", "eos", "first", "last"), "proj_type": ("linear", "none")},
    **UNUSUAL_BLOCK,
}
TEXT_POOLS = {"argmax": "argmax", "eos": "eot", "first": "cls", "last": "last"}  # theirs: ours
IMAGE_POOLS = {"tok": "cls", "avg": "mean"}
REFUSALS = {  # first words of names: reason
    "text_decoder.": "it is a CoCa, whose captions a second text tower writes; zoo has no such head. Choose a CLIP, or a LLaVA or Kosmos-2",
    "visual.attnpool.": "its image tower is OpenAI's modified ResNet (RN50, RN101, RN50x4, ...), which zoo does not have. Choose one with "
    "a Vision Transformer (ViT-B-32, ViT-B-16, ViT-L-14), or with a ConvNeXt",
    "visual.head.mlp.": "its image projection has two layers (timm_proj: mlp), which the head 'clip' does not have. Choose one with a "
    "linear projection (convnext_base_w instead of convnext_large_d)",
    "text.transformer.embeddings.": "its text tower is a model of transformers (text_cfg.hf_model_name) with a projection of two layers, "
    "which the head 'clip' does not have. Choose one with CLIP's own text tower",
    "text.transformer.encoder.": "its text tower is a model of transformers (text_cfg.hf_model_name), which is not read with a CLIP",
}
QUICK = "open_clip has one quick_gelu for both towers"

BLOCK = named(
    {
        "ln_1.{w}": "norm1.{w}",
        "attn.in_proj_{w}": "attention.qkv.{w}",
        "attn.out_proj.{w}": "attention.out.{w}",
        "ln_2.{w}": "norm2.{w}",
        "mlp.c_fc.{w}": "mlp.fc1.{w}",
        "mlp.c_proj.{w}": "mlp.fc2.{w}",
        "ls_1.gamma": "scale1.scale",
        "ls_2.gamma": "scale2.scale",
    }
)
VISION = [
    lifted("class_embedding", "class_token", axes=2),
    lifted("positional_embedding", "positions"),
    *named({"conv1.weight": "patch.project.weight", "ln_pre.{w}": "pre_norm.{w}", "ln_post.{w}": "norm.{w}"}),
    *under("transformer.resblocks.{i}.", "blocks.{i}.", BLOCK),
]
TEXT = [
    *named({"token_embedding.weight": "embedding.weight", "positional_embedding": "positions", "ln_final.{w}": "norm.{w}"}),
    *under("transformer.resblocks.{i}.", "blocks.{i}.", BLOCK),
]
RULES = [
    *under("visual.", "encoders.image.", VISION),
    *under("", "encoders.text.", TEXT),
    transposed("visual.proj", "head.projections.image.weight"),
    transposed("text_projection", "head.projections.text.weight"),
    *named({"text_projection.{w}": "head.projections.text.{w}"}),
    scalar("logit_scale", "head.logit_scale"),
    scalar("logit_bias", "head.logit_bias"),
]


WITH_BIAS = [rule for rule in RULES if rule.theirs != ("text_projection",)]
WITHOUT_BIAS = [rule for rule in RULES if rule.theirs != ("text_projection.{w}",)]


def recognises(keys: Iterable[str]) -> bool:
    """Return True for the keys of such a CLIP; ``refusal`` gives the reasons for others."""
    keys = set(keys)
    image = {"visual.class_embedding", "visual.conv1.weight"} <= keys or open_clip_timm.recognises(keys)
    return image and bool({"token_embedding.weight", f"{CUSTOM}token_embedding.weight"} & keys) and refusal(keys) is None


def refusal(keys: Iterable[str]) -> str | None:
    """Return the reason why a model of open_clip or OpenAI cannot be built from our parts; None if its names show none."""
    for word, reason in REFUSALS.items():
        if any(key.startswith(word) for key in keys):
            return reason
    return None


def is_openai(keys: Iterable[str]) -> bool:
    """Return True for the keys of an archive of OpenAI, all of which use quick GELU."""
    return set(OPENAI_SCALARS) <= set(keys)


def to_zoo(tensors: Mapping[str, Tensor], *, drop: Collection[str] = ()) -> dict[str, Tensor]:
    """Convert the state dict of open_clip, or of an archive of OpenAI's, to the state dict of our system.

    Raises:
        WeightsError: a tensor has no place in our system.
    """
    plain = {name.removeprefix(CUSTOM): tensor for name, tensor in tensors.items() if name not in BUFFERS}
    if not open_clip_timm.recognises(plain):
        return rules.to_zoo(plain, RULES, origin=ORIGIN, drop=[*OPENAI_SCALARS, *drop])
    image = {ours: tensor for name, tensor in plain.items() if (ours := open_clip_timm.to_zoo(name)) is not None}
    rest = {name: tensor for name, tensor in plain.items() if open_clip_timm.to_zoo(name) is None}
    return image | rules.to_zoo(rest, RULES, origin=ORIGIN, drop=drop)


def from_zoo(tensors: Mapping[str, Tensor], vision: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """Convert the state dict of our system to that of open_clip.

    Args:
        vision: the ``vision_cfg`` of an image tower of timm; None is a ``vit``.

    Raises:
        WeightsError: a tensor has no place in their CLIP.
    """
    table = WITH_BIAS if "head.projections.text.bias" in tensors else WITHOUT_BIAS
    image, rest = ({}, tensors) if vision is None else open_clip_timm.from_zoo(tensors, vision)
    return {**image, **rules.from_zoo(rest, table, origin=ORIGIN)}


def system(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return encoders and head of our system, from shapes and from a ``model_cfg``.

    Args:
        tensors: as ``recognises`` knows them.
        config: a ``model_cfg``; it may leave out values that shapes or open_clip's defaults tell.

    Raises:
        ConfigError: our parts do not have something, or 64 does not divide a width and there is no ``head_width``.
    """
    plain = {name.removeprefix(CUSTOM): tensor for name, tensor in tensors.items()}
    vision, text = dict(config.get("vision_cfg") or {}), dict(config.get("text_cfg") or {})
    refuse_others({**_usual(LEGAL_TEXT), **text}, LEGAL_TEXT, "our text")
    quick = bool(config.get("quick_gelu", False))
    if open_clip_timm.recognises(plain):
        image, word = open_clip_timm.encoder(vision), open_clip_timm.projection(plain.keys())
        dim = text_dim(plain) if config.get("embed_dim") is None else config["embed_dim"]
    else:
        refuse_others({**_usual(LEGAL_VISION), **vision}, LEGAL_VISION, "our vit")
        image, word = {"name": "vit", **_image(plain, vision), "activation": _activation(vision, quick)}, "linear"
        dim = plain["visual.proj"].shape[1]
    texts = {"name": "text", **_text(plain, text), "activation": _activation(text, quick)}
    return {"encoders": {"image": image, "text": texts}, "head": {"name": "clip", "embed_dim": dim, **_head(plain, word)}}


def _usual(legal: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """Return open_clip's defaults, the first legal values."""
    return {key: values[0] for key, values in legal.items()}


def _activation(tower: Mapping[str, Any], quick: bool) -> str:
    tanh = (tower.get("act_kwargs") or {}).get("approximate") == "tanh"
    return "quick_gelu" if quick else "gelu_tanh" if tanh else "gelu"


def _blocks(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """Return depth and feed-forward width of the blocks below a prefix."""
    names = [name for name in tensors if name.startswith(f"{prefix}transformer.resblocks.") and name.endswith(".mlp.c_fc.weight")]
    hidden, dim = tensors[f"{prefix}transformer.resblocks.0.mlp.c_fc.weight"].shape
    return {"dim": dim, "depth": len(names), "mlp_ratio": hidden / dim}


def _heads(dim: int, given: int | None, key: str) -> int:
    if given is None and dim % HEAD_WIDTH:
        raise ConfigError(
            f"{key}: the weights do not tell it, and a width of {dim} is no multiple of {HEAD_WIDTH}, as OpenAI's are; write it into "
            'open_clip_config.json beside them, {"model_cfg": {"vision_cfg": {"head_width": ...}, "text_cfg": {"heads": ...}}}'
        )
    return given or dim // HEAD_WIDTH


def _image(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    blocks = _blocks(tensors, "visual.")
    dim, patch_size = blocks["dim"], tensors["visual.conv1.weight"].shape[-1]
    width, size = config.get("head_width"), config.get("image_size")
    grid = math.isqrt(len(tensors["visual.positional_embedding"]) - 1)
    size = grid * patch_size if size is None else size[0] if isinstance(size, list | tuple) else size
    return {
        **blocks,
        "image_size": size,
        "patch_size": patch_size,
        "num_heads": _heads(dim, None if width is None else dim // width, "vision_cfg.head_width"),
        "eps": float((config.get("norm_kwargs") or {}).get("eps", 1e-5)),
        "patch_bias": False,
        "pre_norm": "visual.ln_pre.weight" in tensors,
        "layer_scale": float(config.get("ls_init_value") or 1e-5) if "visual.transformer.resblocks.0.ls_1.gamma" in tensors else None,
        "pool": IMAGE_POOLS[config.get("pool_type", "tok")],
        "drop_remainder": size % patch_size != 0,
        "init": "clip",
    }


def _text(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    vocab_size, dim = tensors["token_embedding.weight"].shape
    pool = TEXT_POOLS[config.get("pool_type", "argmax")]
    return {
        **_blocks(tensors, ""),
        "vocab_size": vocab_size,
        "context_length": len(tensors["positional_embedding"]),
        "num_heads": _heads(dim, config.get("heads"), "text_cfg.heads"),
        "eps": float((config.get("norm_kwargs") or {}).get("eps", 1e-5)),
        "causal": not config.get("no_causal_mask", False),
        "pool": pool,
        **({"eot_token_id": config.get("eos_id", 2)} if pool == "eot" else {"eot_token_id": vocab_size - 1}),
    }


def text_dim(tensors: Mapping[str, Tensor]) -> int:
    """Return the width of the text tower's output."""
    if "text_projection.weight" in tensors:
        return tensors["text_projection.weight"].shape[0]
    return tensors["text_projection" if "text_projection" in tensors else "token_embedding.weight"].shape[1]


def _head(tensors: Mapping[str, Tensor], image: str) -> dict[str, Any]:
    sigmoid = "logit_bias" in tensors
    word = "linear_bias" if "text_projection.bias" in tensors else "linear" if "text_projection" in tensors else "none"
    return {
        "projections": {"image": image, "text": word},
        **({"loss": "sigmoid", "logit_scale_max": None} if sigmoid else {"loss": "info_nce"}),
    }


def system_config(image: Mapping[str, Any], text: Mapping[str, Any], head: Mapping[str, Any]) -> dict[str, Any]:
    """Convert all keywords of our parts to a ``model_cfg``.

    Raises:
        ConfigError: open_clip does not have something that the source has; the message names the key of the system.
    """
    timm = "model" in image  # the keyword of our encoder 'timm'; its activations are no concern of open_clip
    activations = {text["activation"]} if timm else {image["activation"], text["activation"]}
    quick = "quick_gelu" in activations
    if quick and len(activations) > 1:
        raise ConfigError(f"encoders.text.activation: got {text['activation']!r} beside the image's {image['activation']!r}; {QUICK}")
    projections = head["projections"]
    words = (
        dict.fromkeys(("image", "text"), projections)
        if isinstance(projections, str)
        else {"image": "linear", "text": "linear", **projections}
    )
    legal = {"image": ("linear", "linear_bias", "none") if timm else ("linear",), "text": ("linear", "linear_bias", "none")}
    refuse_others({f"head.projections.{m}": word for m, word in words.items()}, {f"head.projections.{m}": legal[m] for m in legal}, ORIGIN)
    return {
        "embed_dim": head["embed_dim"],
        "quick_gelu": quick,
        "vision_cfg": open_clip_timm.vision_config(image, words["image"]) if timm else _vision_config(image),
        "text_cfg": {
            **_text_config(text),
            **({"proj_bias": True} if words["text"] == "linear_bias" else {"proj_type": "none"} if words["text"] == "none" else {}),
        },
        **({"init_logit_bias": -10.0} if head["loss"] == "sigmoid" else {}),
    }


def _vision_config(image: Mapping[str, Any]) -> dict[str, Any]:
    legal = {"class_token": (True,), "num_registers": (0,), "patch_bias": (False,), "pool": tuple(IMAGE_POOLS.values())}
    legal |= {"final_norm": (True,)}
    refuse_others({f"encoders.image.{key}": image[key] for key in legal}, {f"encoders.image.{key}": legal[key] for key in legal}, ORIGIN)
    return {
        "image_size": image["image_size"],
        "patch_size": image["patch_size"],
        "layers": image["depth"],
        "width": image["dim"],
        "head_width": image["dim"] // image["num_heads"],
        "mlp_ratio": _ratio(image),
        **({} if image["pre_norm"] else {"no_ln_pre": True}),
        **({} if image["layer_scale"] is None else {"ls_init_value": image["layer_scale"]}),
        **({"pool_type": "avg"} if image["pool"] == "mean" else {}),
        **_rest(image, "encoders.image"),
    }


def _text_config(text: Mapping[str, Any]) -> dict[str, Any]:
    pools = {ours: theirs for theirs, ours in TEXT_POOLS.items()}
    refuse_others({"encoders.text.pool": text["pool"]}, {"encoders.text.pool": tuple(pools)}, ORIGIN)
    return {
        "context_length": text["context_length"],
        "vocab_size": text["vocab_size"],
        "layers": text["depth"],
        "width": text["dim"],
        "heads": text["num_heads"],
        "mlp_ratio": _ratio(text),
        **({} if text["causal"] else {"no_causal_mask": True}),
        **({} if text["pool"] == "argmax" else {"pool_type": pools[text["pool"]]}),
        **({"eos_id": text["eot_token_id"]} if text["pool"] == "eot" else {}),
        **_rest(text, "encoders.text"),
    }


def _rest(tower: Mapping[str, Any], key: str) -> dict[str, Any]:
    legal = ("gelu", "gelu_tanh", "quick_gelu")
    refuse_others({f"{key}.activation": tower["activation"]}, {f"{key}.activation": legal}, ORIGIN)
    norm = {} if tower["eps"] == 1e-5 else {"norm_kwargs": {"eps": tower["eps"]}}
    return norm | ({"act_kwargs": {"approximate": "tanh"}} if tower["activation"] == "gelu_tanh" else {})


def _ratio(tower: Mapping[str, Any]) -> float:
    """Return a ratio for which ``int(width * ratio)`` is our hidden width; the plain quotient may give one less."""
    hidden, dim = hidden_width(tower["dim"], tower["mlp_ratio"]), tower["dim"]
    return hidden / dim if int(dim * (hidden / dim)) == hidden else math.nextafter(hidden / dim, math.inf)
