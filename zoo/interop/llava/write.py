"""Language models with images, as directories of transformers (``LlavaForConditionalGeneration``)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.interop.base.format import Export
from zoo.interop.base.image_preprocessing import preprocessor
from zoo.interop.causal_lm import configs
from zoo.interop.causal_lm.write import language_files, whole_keywords
from zoo.interop.llava import names as transformers_llava
from zoo.interop.llava.hosted import NAME, Hosted
from zoo.storage.hub import CONFIG as FOREIGN_CONFIG
from zoo.types import SystemLike, is_system, part_of

MARKER = "<image>"
TABLES = (
    ".embedding.weight",
    ".embed_tokens.weight",
    ".embed_in.weight",
    ".wte.weight",
    ".lm_head.weight",
)  # ends of the names of tables with a row for each word
STEP = 64  # they are lengthened to a multiple of it


def llava_export(system: nn.Module) -> Export | None:
    """Return weights, ``config.json``, ``preprocessor_config.json``, and the tokenizer if there is one; None for another family.

    A system that cuts pictures into tiles is of another family (``zoo.interop.vlm``). Theirs needs a row of the word table for the marker
    of images. If ours has none, the table is lengthened by rows that are the mean of all rows, whose scores never are the highest.

    Raises:
        ConfigError: their model does not have something that the system has; the message names the key of the system.
    """
    if not is_system(system) or not system.encoders or (system.config.get("head") or {}).get("name") != "llava":
        return None
    images: Any = part_of(system, "image")
    if images is not None and images.tiler is not None:  # of the families of zoo.interop.vlm
        return None
    image, head, language = _keywords(system)
    hosted, encoder, inner = Hosted.of(system.config), system.encoders["image"], system.head.language
    assert inner is not None
    conversation: Any = part_of(system, "conversation")
    known = conversation is not None and conversation.is_fitted
    marker, rows = rows_of_words(conversation if known else None, inner.vocab_size)
    words = {**language, "config": {**language["config"], "vocab_size": rows}} if hosted.language else {**language, "vocab_size": rows}
    prefix = encoder.num_prefix_tokens
    config = transformers_llava.config(image, head, words, image_token_id=marker, prefix=prefix, hosted=hosted)
    config["image_seq_length"] = system.counts["image"].fixed
    files = language_files(words["config"] if hosted.language else configs.config(words), conversation)
    ids = {key: value for key, value in files.pop(FOREIGN_CONFIG).items() if key.endswith("token_id")}
    config["text_config"] |= ids
    if known:
        keep_marker(files["tokenizer.json"], marker)
        files["tokenizer_config.json"] |= {"image_token": MARKER, "extra_special_tokens": {"image_token": MARKER}}
        files["processor_config.json"] = {
            "processor_class": "LlavaProcessor",
            "image_token": MARKER,
            "patch_size": config["vision_config"].get("patch_size"),
            "num_additional_image_tokens": prefix,
            "vision_feature_select_strategy": config["vision_feature_select_strategy"],
        }
    files |= {FOREIGN_CONFIG: config, "preprocessor_config.json": preprocessor(system.processor["image"])}

    def tensors() -> dict[str, Tensor]:
        return transformers_llava.from_zoo(lengthened(system.state_dict(), rows), words, hosted)

    return Export(files, tensors)


def rows_of_words(conversation: Any, vocab_size: int, word: str = MARKER) -> tuple[int, int]:
    """Return the id of the marker of images, and the number of rows of the word table with one for the marker.

    Args:
        conversation: the processor's part that owns the tokenizer; None if there is no tokenizer, so that the marker is behind all words.
        vocab_size: rows of our table.
        word: marker of theirs; if the tokenizer lacks it, it gets the id of ours.
    """
    tokenizer = None if conversation is None else conversation.tokenizer
    known = None if tokenizer is None else tokenizer.token_to_id(word)
    marker = vocab_size if tokenizer is None else tokenizer.token_to_id(MARKER) if known is None else known
    return marker, vocab_size if marker < vocab_size else -(-(marker + 1) // STEP) * STEP


def lengthened(state: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    """Return the weights of a system whose tables of words have ``rows`` rows; new ones are the mean of all others."""
    tables = {name for name in state if name.startswith("head.language.") and name.endswith(TABLES)}
    return {name: _lengthened(tensor, rows) if name in tables else tensor for name, tensor in state.items()}


def _keywords(system: SystemLike) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return all keywords of image encoder, head and language model.

    Raises:
        ConfigError: the system has other parts than their model.
    """
    config = system.config
    families = {m: part["name"] for m, part in config["encoders"].items()} | {"language": config["head"]["language"]["name"]}
    legal = {"image": ("vit", NAME), "language": ("causal_lm", NAME)}
    if set(families) != set(legal) or any(family not in legal[part] for part, family in families.items()):
        raise ConfigError(
            "export: transformers' LlavaForConditionalGeneration has one image encoder 'vit' and a language model 'causal_lm' (or any of "
            f"transformers); this system has {', '.join(f'{part}: {name}' for part, name in families.items())}. Save it with zoo.save"
        )
    parts = ("encoder", config["encoders"]["image"]), ("head", config["head"]), ("language", config["head"]["language"])
    image, head, language = (whole_keywords(kind, words) for kind, words in parts)
    return image, head, language


def _lengthened(table: Tensor, rows: int) -> Tensor:
    more = rows - len(table)
    return torch.cat([table, table.mean(0, keepdim=True).expand(more, -1)]) if more else table


def keep_marker(content: dict[str, Any], marker: int, word: str = MARKER) -> None:
    """Put the marker of images among a tokenizer's added tokens, if it was left out."""
    if all(token["content"] != word for token in content["added_tokens"]):
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        content["added_tokens"].append({"id": marker, "content": word, "special": True, **flags})
