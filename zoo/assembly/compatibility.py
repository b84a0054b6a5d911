"""Refuse parts that do not fit one another, with the config key, both sides and what is allowed."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zoo.errors import ConfigError, ContractError
from zoo.registry import find_part
from zoo.types import EncoderSpec


def refuse_encoders(config: Mapping[str, Any], specs: Mapping[str, EncoderSpec], key: str) -> None:
    """Raise ConfigError where the head does not take these encoders."""
    name = config["head"].get("name")
    accepts = find_part("head", name, f"{key}.head.name").accepts
    legal = f"head {name!r} takes {accepts.minimum}" + (f" to {accepts.maximum}" if accepts.maximum > accepts.minimum else "")
    legal += f" encoder(s) of {', '.join(accepts.modalities)}"
    for modality, spec in specs.items():
        if modality not in accepts.modalities:
            raise ConfigError(f"{key}.encoders.{modality}: an encoder of {modality} does not fit; {legal}")
        if accepts.reads == "pooled" and not spec.pooled:
            raise ConfigError(
                f"{key}.encoders.{modality}: gives no pooled vector (pool: none), which head {name!r} reads; set "
                f"{key}.encoders.{modality}.pool to one that pools"
            )
    if not accepts.minimum <= len(specs) <= accepts.maximum:
        raise ConfigError(f"{key}.encoders: has {len(specs)} ({', '.join(specs) or 'none'}); {legal}")


def refuse_missing_keys(encoder: Any, part: Any, keywords: Mapping[str, Any], name: str, here: str) -> None:
    """Raise ContractError where a processor needs a word that neither its encoder nor the config says, for example ``image_size``.

    Args:
        encoder: that the processor feeds.
        part: class of the processor.
        keywords: what its constructor is given.
        name: of the encoder, for messages.
        here: config key of the processor.
    """
    known = inspect.signature(part).parameters
    for key in part.encoder_keys:
        if keywords.get(key) is None and key in known and known[key].default is inspect.Parameter.empty:
            raise ContractError(
                name,
                f"an encoder of {encoder.modality} must say {key}, which its processor takes from it",
                "it has none",
                "an int",
                f"set self.{key} in the constructor, or {here}.{key}=... in the config",
            )


def facts_of_owner(names: Sequence[str], keywords: Mapping[str, Any], owner: Any, here: str, where: str) -> dict[str, int]:
    """What a processor is told of the model that reads its tokens, where the config does not say; it may say less.

    Args:
        owner: the head, or the language model in it.
        where: its config key.
    """
    if names and not all(hasattr(owner, name) for name in names):
        example = (
            "llava_nano, which reads conversations" if where.endswith("language") else "whisper_nano_decoder, which writes transcripts"
        )
        raise ConfigError(f"{here}: there is nothing at {where} that reads its tokens; choose a head that does, for example {example}")
    found = {}
    for name in names:
        ours, theirs = keywords.get(name), getattr(owner, name)
        if isinstance(ours, int) and ours > theirs:
            raise ConfigError(
                f"{here}.{name}: the processor has {ours}, {where}.{name} is {theirs}; it may not be more: change one of the two"
            )
        if ours is None:
            found[name] = theirs
    return found


def refuse_other_eot(part: Any, encoder: Any, modality: str, key: str) -> None:
    """Raise ConfigError where a tokenizer ends texts with another symbol than the encoder looks for."""
    if encoder is None:
        return
    if encoder.eot_token_id is not None and part.eot_token_id != encoder.eot_token_id:
        raise ConfigError(
            f"{key}.encoders.{modality}.eot_token_id: pools at {encoder.eot_token_id}, but the tokenizer ends texts with "
            f"{part.eot_token_id} ({key}.processor.{modality}.eot_token_id); they must be equal"
        )
    separator = encoder.separator_id
    if separator is not None and separator != part.eot_token_id:
        raise ConfigError(
            f"{key}.encoders.{modality}.separator_id: {separator} ends a text for the encoder, but {part.eot_token_id} for the tokenizer "
            f"({key}.processor.{modality}.eot_token_id); they must be equal, or separator_id null"
        )


def refuse_missing_symbols(part: Any, modalities: Iterable[str], key: str) -> None:
    """Raise ConfigError where a head that looks for symbols around items would find none."""
    missing = [modality for modality in modalities if modality not in part.span_symbols]
    if missing:
        raise ConfigError(
            f"{key}.processor.conversation.template: {part.template_name!r} lays no start and end symbols around {missing[0]}, which the "
            f"head looks for; choose template kosmos, or name two special tokens: {key}.processor.conversation.spans.{missing[0]}"
        )
