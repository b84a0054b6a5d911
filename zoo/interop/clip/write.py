"""Whole image-text systems of ours as directories of transformers (``CLIPModel``, ``SiglipModel``) and of open_clip."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.interop.base.format import Export
from zoo.interop.base.image_preprocessing import preprocessor
from zoo.interop.clip import naflex, open_clip, transformers_clip
from zoo.processors.image import ImageProcessor
from zoo.processors.text import TextProcessor
from zoo.processors.tokenizers.library_tokenizers import is_clips, swap_ids, tokenizer_files
from zoo.registry import find_part
from zoo.types import FeatureHead, is_system

OPEN_CLIP_WEIGHTS = "open_clip_model.safetensors"
OPEN_CLIP_CONFIG = "open_clip_config.json"
RESIZES = {"crop": "shortest", "squash": "squash", "border": "longest"}  # ours: open_clip's
CLEANINGS = {"punctuation": "canonicalize", "canonical": "canonicalize"}  # ours: open_clip's; any other is its "whitespace"


@dataclass(frozen=True)
class ClipParts:
    """An image-text system taken apart: all keywords of its parts, its weights, and its processors."""

    image: Mapping[str, Any]
    text: Mapping[str, Any]
    head: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    pixels: ImageProcessor
    words: TextProcessor


def clip_parts(model: nn.Module) -> ClipParts | None:
    """Take an image-text system with a contrastive head apart; None for any other model.

    Raises:
        ConfigError: no other library's CLIP has encoders of these families.
    """
    if not is_system(model) or set(model.encoders) != {"image", "text"} or not isinstance(model.head, FeatureHead):
        return None
    encoders = model.config["encoders"]
    for modality, families in (("image", ("vit", "timm")), ("text", ("text", "bert"))):
        if encoders[modality]["name"] not in families:
            raise ConfigError(
                f"encoders.{modality}: {encoders[modality]['name']!r} is in no CLIP of transformers or open_clip; allowed is "
                f"{families[0]!r}. Save it with zoo.save"
            )
    processor: Any = model.processor
    image, text, head = _whole("encoder", encoders["image"]), _whole("encoder", encoders["text"]), _whole("head", model.config["head"])
    for key, legal in (("two_scales", False), ("anchor", None)):
        if head[key] != legal:
            raise ConfigError(f"head.{key}: got {head[key]!r}, which no CLIP of transformers or open_clip has; save it with zoo.save")
    return ClipParts(image, text, head, model.state_dict(), processor["image"], processor["text"])


def _whole(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of a config, completed with the defaults."""
    defaults = {key: p.default for key, p in inspect.signature(find_part(kind, config["name"])).parameters.items()}
    return {**defaults, **{key: value for key, value in config.items() if key != "name"}}


def to_transformers(pair: ClipParts) -> Export:
    """Return config.json, model.safetensors, preprocessor_config.json and the tokenizer's files.

    ``pipeline("zero-shot-image-classification", model=DIR)`` reads them. CLIP's cleaning of texts (ftfy, HTML) has no place in a
    tokenizer's files.

    Raises:
        ConfigError: transformers does not have something that the system has; the message names the key.
    """
    if "model" in pair.image:
        raise ConfigError("encoders.image: 'timm' is in no CLIP of transformers; choose --format open_clip, or save it with zoo.save")
    pair, tokenizer = _with_a_late_end(pair)
    config = transformers_clip.system_config(pair.image, pair.text, pair.head)
    any_size = config["model_type"] == naflex.KIND
    images = (naflex.preprocessor if any_size else preprocessor)(pair.pixels)
    if any_size:
        _refuse_masks(pair, "transformers' Siglip2Model")
    if config["model_type"] == "siglip":
        _refuse_masks(pair, "transformers' SiglipModel")
        if images["image_processor_type"] == "ViTImageProcessor":
            images["image_processor_type"] = "SiglipImageProcessor"
    config["text_config"] |= _symbols(pair)
    files = {"config.json": config, "preprocessor_config.json": images, **tokenizer}
    return Export(files, lambda: transformers_clip.from_zoo(pair.tensors, any_size=any_size))


def _symbols(pair: ClipParts) -> dict[str, Any]:
    """Return the ids of start, end and padding; CLIP's end id is left out, because the config has it already as the place to pool."""
    start = pair.words.tokenizer.encode("").ids[:-1] if pair.words.tokenizer is not None else []
    ids = {"bos_token_id": start[0] if start else None, "pad_token_id": min(pair.words.pad_token_id, pair.text["vocab_size"] - 1)}
    return ids if pair.text.get("causal") else {**ids, "eos_token_id": pair.words.eot_token_id}


def _with_a_late_end(pair: ClipParts) -> tuple[ClipParts, dict[str, Any]]:
    """Exchange the end symbol 2 of a tokenizer that was trained here with the last id, because 2 has another meaning in transformers.

    Given ids, and a tokenizer whose vocabulary is a list (MetaCLIP 2's), keep theirs: the system is written as a ``MetaClip2Model``, for
    which 2 is an end symbol like any other.
    """
    files = _tokenizer_files(pair.words)
    if pair.text["pool"] != "eot" or pair.text.get("eot_token_id") != transformers_clip.OLD_EOS:
        return pair, files
    if not files or isinstance(files["tokenizer.json"]["model"]["vocab"], list):
        return pair, files
    old, new = transformers_clip.OLD_EOS, pair.text["vocab_size"] - 1
    rows = torch.arange(pair.text["vocab_size"])
    rows[old], rows[new] = new, old
    key = "encoders.text.embedding.weight"
    tensors = {**pair.tensors, key: pair.tensors[key][rows.to(pair.tensors[key].device)]}
    if files:
        files["tokenizer.json"] = swap_ids(files["tokenizer.json"], old, new)
    return ClipParts(pair.image, {**pair.text, "eot_token_id": new}, pair.head, tensors, pair.pixels, pair.words), files


def _library_tokenizer(words: TextProcessor) -> Tokenizer:
    """Return the tokenizer of texts.

    Raises:
        ConfigError: it is MarianMT's, which their model does not have.
    """
    if not isinstance(words.tokenizer, Tokenizer):
        raise ConfigError("processor.text: the tokenizer is MarianMT's, which the target's CLIP has not; train the system with another")
    return words.tokenizer


def _tokenizer_files(words: TextProcessor) -> dict[str, Any]:
    if words.tokenizer is None:
        return {}
    length = min(words.context_length, words.max_length or words.context_length)
    return tokenizer_files(
        _library_tokenizer(words),
        cleaning=words.cleaning,
        lowercase=words.lowercase,
        pad_token_id=words.pad_token_id,
        eot_token_id=words.eot_token_id,
        max_length=length,
        masks=words.mask_padding,
    )


def _refuse_masks(pair: ClipParts, target: str) -> None:
    """Raise ConfigError if texts are not padded to the full length, or padding is masked; the target does neither."""
    if pair.words.pad_to != "context_length":
        raise ConfigError(f"processor.text.pad_to: got {pair.words.pad_to!r}; {target} pads to the whole length: allowed is context_length")
    if pair.words.mask_padding and not pair.text["causal"]:
        raise ConfigError(f"processor.text.mask_padding: got true; {target} sees its padding: allowed is false")


def to_open_clip(pair: ClipParts, directory: Path) -> Export:
    """Return open_clip_model.safetensors, open_clip_config.json, and NAME.json, named as the directory.

    ``create_model_and_transforms("local-dir:DIR")`` reads the first two. NAME.json is for ``add_model_config``, after which NAME with
    ``pretrained=FILE`` works; open_clip then uses OpenAI's preprocessing unless it is given the model's own (``image_mean=...``).

    Raises:
        ConfigError: open_clip does not have something that the system has; the message names the key.
    """
    if "num_types" in pair.text:
        raise ConfigError("encoders.text: 'bert' is in no CLIP of open_clip; choose --format transformers, or save it with zoo.save")
    model = open_clip.system_config(pair.image, pair.text, pair.head)
    if not pair.text["causal"] or pair.text["pool"] == "last":
        _refuse_masks(pair, "open_clip's CLIP")
    if (pair.words.max_length or pair.words.context_length) < pair.words.context_length:
        raise ConfigError(
            f"processor.text.max_length: got {pair.words.max_length}; open_clip cuts texts at context_length only: allowed is null"
        )
    files: dict[str, Any] = {}
    flat = dict(model["text_cfg"])
    if not is_clips(None if pair.words.tokenizer is None else _library_tokenizer(pair.words)):
        files = _tokenizer_files(pair.words)
        clean = {"tokenizer_kwargs": {"clean": CLEANINGS.get(pair.words.cleaning, "whitespace")}}
        here = str(directory.absolute())
        model["text_cfg"] |= {"hf_tokenizer_name": directory.name, **clean} if files else {}  # of a local-dir the directory itself is taken
        flat |= {"hf_tokenizer_name": here, **clean} if files else {}
    config = {"model_cfg": model, "preprocess_cfg": _preprocess_config(pair)}
    contents = {OPEN_CLIP_CONFIG: config, f"{directory.name}.json": {**model, "text_cfg": flat}, **files}
    timm = model["vision_cfg"] if "model" in pair.image else None
    return Export(contents, lambda: open_clip.from_zoo(pair.tensors, timm), OPEN_CLIP_WEIGHTS)


def _preprocess_config(pair: ClipParts) -> dict[str, Any]:
    pixels = pair.pixels
    for key, value, legal in (
        ("resize", pixels.resize, tuple(RESIZES)),
        ("crop_fraction", pixels.crop_fraction, (1.0,)),
        ("interpolation", pixels.interpolation, ("bicubic", "bilinear")),
        ("image_size", pixels.image_size, (pair.image["image_size"] or pixels.image_size,)),
        ("fill", pixels.fill, (0,) if pixels.resize == "border" else (pixels.fill,)),
    ):
        if value not in legal:
            raise ConfigError(
                f"processor.image.{key}: got {value!r}, which open_clip does not have; allowed is {' or '.join(map(str, legal))}"
            )
    return {
        "size": pixels.image_size,
        "mode": "RGB",
        "mean": list(pixels.mean),
        "std": list(pixels.std),
        "interpolation": pixels.interpolation,
        "resize_mode": RESIZES[pixels.resize],
    }
