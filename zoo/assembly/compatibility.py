"""Checks that parts fit one another; each error names the config key, both sides and the allowed values. Nothing here imports torch."""

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from zoo.errors import ConfigError, ContractError


def refuse_misplaced(name: str, takes: str, modality: str, key: str) -> None:
    """Raise ConfigError if an encoder stands under another modality than its own.

    Args:
        name: of the encoder.
        takes: its modality.
        modality: that it stands under.
        key: its config key.
    """
    if takes != modality:
        place = key.rpartition(".")[0]
        raise ConfigError(
            f"{key}: encoder {name!r} takes {takes}, but stands under {modality!r}; put it under "
            f"{place.rpartition('.')[2]}.{takes} or choose an encoder of {modality} (see: zoo list --kind encoder)"
        )


def refuse_encoders(name: str, accepts: Any, gives_pooled: Mapping[str, bool], key: str) -> None:
    """Raise ConfigError if the head does not accept these encoders.

    Args:
        name: of the head.
        accepts: its ``Accepts``, or the same attributes read by ``zoo.registry.declarations``.
        gives_pooled: by modality, whether the encoder returns a pooled vector.
        key: config key of the system.
    """
    legal = f"head {name!r} takes {accepts.minimum}" + (f" to {accepts.maximum}" if accepts.maximum > accepts.minimum else "")
    legal += f" encoder(s) of {', '.join(accepts.modalities)}"
    for modality, pooled in gives_pooled.items():
        if modality not in accepts.modalities:
            raise ConfigError(f"{key}.encoders.{modality}: an encoder of {modality} does not fit; {legal}")
        if accepts.reads == "pooled" and not pooled:
            raise ConfigError(
                f"{key}.encoders.{modality}: gives no pooled vector (pool: none), which head {name!r} reads; set "
                f"{key}.encoders.{modality}.pool to another value"
            )
    if not accepts.minimum <= len(gives_pooled) <= accepts.maximum:
        raise ConfigError(f"{key}.encoders: has {len(gives_pooled)} ({', '.join(gives_pooled) or 'none'}); {legal}")


def refuse_source(name: str, given: Collection[str], needed: Iterable[str]) -> None:
    """Raise ConfigError if a source lacks a modality that an encoder needs."""
    for modality in needed:
        if modality not in given:
            raise ConfigError(
                f"data.source: {name!r} gives {', '.join(given)}; system.encoders.{modality} needs {modality}: choose another "
                f"source (data=...) or an encoder of {' or '.join(given)}"
            )


def refuse_unequal(name: str, ours: Any, theirs: Any, modality: str, key: str) -> None:
    """Raise ConfigError if a setting of a processor differs from that of its encoder.

    Args:
        name: of the setting, for example ``image_size``.
        ours: value of the processor.
        theirs: value of the encoder.
        key: config key of the system.
    """
    if ours != theirs:
        raise ConfigError(
            f"{key}.processor.{modality}.{name}: the processor has {ours}, the encoder at {key}.encoders.{modality}.{name} has {theirs}; "
            "they must be equal: change one of the two"
        )


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
    """Return the limits that a processor takes from the model that reads its tokens, as far as the config does not give them.

    Args:
        names: of the limits, for example ``context_length``; the config may give a smaller value, never a larger one.
        owner: the head, or the language model in it.
        here: config key of the processor.
        where: config key of the owner.

    Raises:
        ConfigError: the owner does not read tokens, or the config gives a larger value.
    """
    if names and not all(hasattr(owner, name) for name in names):
        example = (
            "llava_nano, which reads conversations" if where.endswith("language") else "whisper_nano_decoder, which writes transcripts"
        )
        raise ConfigError(f"{here}: no part at {where} reads its tokens; choose a head that does, for example {example}")
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
    """Raise ConfigError if a tokenizer ends texts with another symbol than the one at which the encoder pools."""
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
    """Raise ConfigError if the conversation template has no start and end symbols, which the head looks for around items."""
    missing = [modality for modality in modalities if modality not in part.span_symbols]
    if missing:
        raise ConfigError(
            f"{key}.processor.conversation.template: {part.template_name!r} puts no start and end symbols around {missing[0]}, which the "
            f"head looks for; choose template kosmos, or name two special tokens: {key}.processor.conversation.spans.{missing[0]}"
        )
