"""Kosmos with Kosmos-2's parts, as directories of transformers (``Kosmos2ForConditionalGeneration``)."""

from typing import Any

from torch import nn

from zoo.errors import ConfigError
from zoo.interop.base.format import Export
from zoo.interop.base.image_preprocessing import preprocessor
from zoo.interop.causal_lm.write import tokenizer_files, whole_keywords
from zoo.interop.kosmos2 import names as transformers_kosmos2
from zoo.storage.hub import CONFIG as FOREIGN_CONFIG
from zoo.types import SystemLike, is_system, part_of

FAMILIES = {"image": "vit", "language": "magneto"}


def kosmos_export(system: nn.Module) -> Export | None:
    """Return weights, ``config.json``, and the processor with its tokenizer if there is one; None for another family.

    When theirs is loaded, it sets the vector of token 1, its padding, to zero.

    Raises:
        ConfigError: their model does not have something that the system has; the message names the key of the system.
    """
    if not is_system(system) or not system.encoders or (system.config.get("head") or {}).get("name") != "kosmos":
        return None
    config = system.config
    families = {m: part["name"] for m, part in config["encoders"].items()} | {"language": config["head"]["language"]["name"]}
    if families != FAMILIES:
        raise ConfigError(
            "export: transformers' Kosmos2ForConditionalGeneration has one image encoder 'vit' and a language model 'magneto'; this system "
            f"has {', '.join(f'{part}: {name}' for part, name in families.items())}. Save it with zoo.save"
        )
    parts = ("encoder", config["encoders"]["image"]), ("head", config["head"]), ("language", config["head"]["language"])
    image, head, language = (whole_keywords(kind, words) for kind, words in parts)
    content = transformers_kosmos2.config(image, head, language)
    files = _processor(system)
    ids = files.get("generation_config.json", {})
    content["text_config"] |= {key: ids.get(key) for key in ("bos_token_id", "eos_token_id")}
    return Export({**files, FOREIGN_CONFIG: content}, lambda: transformers_kosmos2.from_zoo(system.state_dict()))


def _processor(system: SystemLike) -> dict[str, Any]:
    """Return the files of their processor; of images alone if there is no tokenizer yet."""
    images = _clip_images(preprocessor(part_of(system, "image")))
    conversation = part_of(system, "conversation")
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
    """Describe images that are squashed to a square with CLIP's processor, which Kosmos-2 uses."""
    if described["image_processor_type"] != "ViTImageProcessor":
        return described
    return {**described, "image_processor_type": "CLIPImageProcessor", "do_center_crop": True, "crop_size": described["size"]}


def _refuse_padding(conversation: Any) -> None:
    """Raise ConfigError if a word has the id that theirs takes for padding, for which it counts no position."""
    word = conversation.tokenizer.id_to_token(transformers_kosmos2.PADDING)
    if word is not None and word not in conversation.symbols.special:
        raise ConfigError(
            f"export: token {transformers_kosmos2.PADDING} is {word!r}, but transformers' Kosmos-2 takes that id for padding; give a "
            "tokenizer in which a special token has it, or save the model with zoo.save"
        )
