"""Kosmos of ours, with Kosmos-2's parts, as directories of transformers (``Kosmos2ForConditionalGeneration``)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from zoo.errors import ConfigError
from zoo.interop.causal_lm.write import tokenizer_files, whole_keywords
from zoo.interop.kosmos2 import names as transformers_kosmos2
from zoo.processors.image import ImageProcessor
from zoo.storage.files import WEIGHTS_FILE, atomic_directory
from zoo.storage.hub import CONFIG as FOREIGN_CONFIG
from zoo.storage.tensors import write_tensors
from zoo.types import SystemLike, is_system

Describe = Callable[[ImageProcessor], dict[str, Any]]
FAMILIES = {"image": "vit", "language": "magneto"}


def is_kosmos(model: nn.Module) -> bool:
    """Whether it is a system with encoders and the head ``kosmos``."""
    return is_system(model) and bool(model.encoders) and (model.config.get("head") or {}).get("name") == "kosmos"


def write_kosmos(system: SystemLike, directory: Path, describe_images: Describe) -> Path:
    """Write weights, ``config.json``, and the processor with its tokenizer where there is one.

    Theirs sets the vector of token 1, its padding, to zero when it is loaded.

    Raises:
        ConfigError: something that their model does not have; the message names the key of the system.
    """
    config = system.config
    if config.get("adapters"):
        raise ConfigError("export: the model has adapters; fold them into its weights first: zoo.layers.adapters.merge(model)")
    families = {m: part["name"] for m, part in config["encoders"].items()} | {"language": config["head"]["language"]["name"]}
    if families != FAMILIES:
        raise ConfigError(
            "export: transformers' Kosmos2ForConditionalGeneration has one image encoder 'vit' and a language model 'magneto'; this system "
            f"has {', '.join(f'{part}: {name}' for part, name in families.items())}. Save it with zoo.save"
        )
    parts = ("encoder", config["encoders"]["image"]), ("head", config["head"]), ("language", config["head"]["language"])
    image, head, language = (whole_keywords(kind, words) for kind, words in parts)
    content = transformers_kosmos2.config(image, head, language)
    files = _processor(system, describe_images)
    ids = files.get("generation_config.json", {})
    content["text_config"] |= {key: ids.get(key) for key in ("bos_token_id", "eos_token_id")}
    with atomic_directory(directory) as folder:
        write_tensors(transformers_kosmos2.from_zoo(system.state_dict()), folder / WEIGHTS_FILE)
        for name, value in {**files, FOREIGN_CONFIG: content}.items():
            text = value if isinstance(value, str) else json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
            (folder / name).write_text(text, encoding="utf-8", newline="")
    return directory


def _processor(system: SystemLike, describe_images: Describe) -> dict[str, Any]:
    """The files of their processor: of images alone where there is no tokenizer yet."""
    parts: Any = system.processor
    images = _clip_images(describe_images(parts["image"]))
    conversation = getattr(parts, "parts", {}).get("conversation")
    if conversation is None or not conversation.is_fitted:
        return {"preprocessor_config.json": images}
    _refuse_padding(conversation)
    locations = sum(word.startswith("<patch_index_") for word in conversation.tokenizer.get_vocab(with_added_tokens=True))
    ids = {
        "bos_token_id": conversation.bos_token_id,
        "eos_token_id": conversation.tokenizer.token_to_id((conversation.names or {}).get("eos_token", "")),
        "pad_token_id": transformers_kosmos2.PADDING,
    }
    whole = {"processor_class": "Kosmos2Processor", "image_processor": images, "num_patch_index_tokens": locations}
    return {
        **tokenizer_files(conversation),
        "preprocessor_config.json": images,
        "processor_config.json": whole,
        "generation_config.json": ids,
    }


def _clip_images(described: dict[str, Any]) -> dict[str, Any]:
    """Images that are squashed to a square, by CLIP's processor, which Kosmos-2 has."""
    if described["image_processor_type"] != "ViTImageProcessor":
        return described
    return {**described, "image_processor_type": "CLIPImageProcessor", "do_center_crop": True, "crop_size": described["size"]}


def _refuse_padding(conversation: Any) -> None:
    """Raise ConfigError where the id that theirs takes for padding, and counts no position for, is that of a word."""
    word = conversation.tokenizer.id_to_token(transformers_kosmos2.PADDING)
    if word is not None and word not in conversation.symbols.special:
        raise ConfigError(
            f"export: token {transformers_kosmos2.PADDING} is {word!r}, but transformers' Kosmos-2 takes that id for padding; give a "
            "tokenizer in which a special token has it, or save the model with zoo.save"
        )
