"""Directories of transformers for systems that cut pictures into tiles, or that have a prefix."""

from typing import Any

from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.interop.base.format import Export
from zoo.interop.base.transformers_config import refuse_others
from zoo.interop.causal_lm.write import language_files, whole_keywords
from zoo.interop.llava.write import keep_marker, lengthened, rows_of_words
from zoo.interop.vlm.families import FAMILIES
from zoo.interop.vlm.family import Family
from zoo.storage.hub import CONFIG as FOREIGN_CONFIG
from zoo.types import SystemLike, is_system, part_of


def vlm_export(system: nn.Module) -> Export | None:
    """Return weights, configs, and the tokenizer if there is one; None for a system without tiler and prefix, or of another head.

    Raises:
        ConfigError: no family has the tiler, or the family lacks something that the system has; the message names the key.
    """
    if not is_system(system) or (system.config.get("head") or {}).get("name") != "llava":
        return None
    processor: Any = part_of(system, "image")
    if processor is None or (processor.tiler is None and not system.head.prefix):
        return None
    family = next((each for each in FAMILIES if each.fits(processor.tiler, system.config)), None)
    if family is None:
        known = dict.fromkeys(each.tiler.__name__.lower() for each in FAMILIES if each.tiler is not None)
        raise ConfigError(
            f"export: no model of transformers that zoo writes cuts pictures by {processor.tiler_config!r} (processor.image.tiler) for "
            f"these parts; allowed are {', '.join(known)}. Save the system with zoo.save"
        )
    _refuse_prefix(system, family)
    _refuse_other_parts(system, family)
    image, head, language = (
        whole_keywords(kind, words)
        for kind, words in (
            ("encoder", system.config["encoders"]["image"]),
            ("head", system.config["head"]),
            ("language", system.config["head"]["language"]),
        )
    )
    conversation: Any = part_of(system, "conversation")
    known = conversation is not None and conversation.is_fitted
    _refuse_conversation(conversation, family)
    marker, rows = rows_of_words(conversation if known else None, language["vocab_size"], family.marker)
    wide = {**language, "vocab_size": rows}
    config = family.config(image, head, wide, processor, marker)
    config |= family.marker_ids(None if conversation is None or not known else conversation.tokenizer, marker)
    config |= {"model_type": family.model_types[0], "architectures": [family.architecture]}
    per_tile, prefix = system.counts["image"].fixed, system.encoders["image"].num_prefix_tokens
    files = language_files(family.language(wide), conversation)
    ids = {key: _without_spans(value, conversation) for key, value in files.pop(FOREIGN_CONFIG).items() if key.endswith("token_id")}
    files |= {name: ids for name in ("generation_config.json",) if name in files}
    config["text_config"] |= ids
    config["pad_token_id"] = ids["pad_token_id"]
    if known:
        keep_marker(files["tokenizer.json"], marker, family.marker)
        words = dict(family.tokenizer_words)
        files["tokenizer_config.json"] |= {**words, "extra_special_tokens": words}
        files["processor_config.json"] = {
            "processor_class": family.processor_class,
            **family.processor_config(config, per_tile, prefix),
        }
    files |= {FOREIGN_CONFIG: config, "preprocessor_config.json": family.preprocessor(processor, per_tile)}
    videos = family.video_preprocessor(processor)
    files |= {} if videos is None else {"video_preprocessor_config.json": videos}

    def tensors() -> dict[str, Tensor]:
        return family.from_zoo(lengthened(system.state_dict(), rows), wide)

    return Export(files, tensors)


def _without_spans(ids: Any, conversation: Any) -> Any:
    """Return ids that end an answer without the symbols that begin a picture, which end answers in zoo alone."""
    if not isinstance(ids, list):
        return ids
    starts = {start for start, _ in conversation.spans.values()}
    left = [number for number in ids if number not in starts]
    return left[0] if len(left) == 1 else left or None


def _refuse_prefix(system: SystemLike, family: Family) -> None:
    """Raise ConfigError if the tokens of prompts see each other in the system but not in the family, or the other way round."""
    given = {"head.prefix": system.head.prefix}
    refuse_others(given, {"head.prefix": (family.tiler is None,)}, f"transformers' {family.architecture}")


def _refuse_conversation(conversation: Any, family: Family) -> None:
    """Raise ConfigError if symbols stand around a picture that the family does not put there, or are missing."""
    if conversation is None:
        return
    found = {key: list(words) for key, words in conversation.span_symbols.items() if key == "image"}
    wanted = family.conversation.get("spans") or {}
    given = {"processor.conversation.spans": found}
    refuse_others(given, {"processor.conversation.spans": (wanted,)}, f"transformers' {family.processor_class}")


def _refuse_other_parts(system: SystemLike, family: Family) -> None:
    """Raise ConfigError if the system has other parts than the family's image encoder and a ``causal_lm``."""
    config = system.config
    families = {m: part["name"] for m, part in config["encoders"].items()} | {"language": config["head"]["language"]["name"]}
    if families != {"image": family.encoder, "language": "causal_lm"}:
        raise ConfigError(
            f"export: transformers' {family.architecture} has one image encoder {family.encoder!r} and a language model 'causal_lm'; this "
            f"system has "
            f"{', '.join(f'{part}: {name}' for part, name in families.items())}. Save it with zoo.save"
        )
