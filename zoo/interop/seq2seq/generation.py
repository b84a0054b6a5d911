"""Special tokens and default settings of generation, from ``config.json`` and ``generation_config.json``, and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.interop.base.schemas import read_generation_config

FILE = "generation_config.json"
NAMES = {  # theirs: ours, for settings that keep their value
    **{key: key for key in ("num_beams", "length_penalty", "no_repeat_ngram_size", "repetition_penalty", "max_new_tokens")},
    **{"temperature": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p", "min_new_tokens": "min_new_tokens"},
    **{"forced_bos_token_id": "first_token_id", "forced_eos_token_id": "last_token_id"},
}
SAMPLED = ("temperature", "top_k", "top_p", "min_p")
WITHOUT_EFFECT = {"num_beams": 1, "length_penalty": 1, "no_repeat_ngram_size": 0, "repetition_penalty": 1, "min_new_tokens": 0}
NOT_TAKEN = {  # settings that ours does not have: values without effect
    **{"num_beam_groups": (1,), "diversity_penalty": (0,), "early_stopping": (False,), "encoder_no_repeat_ngram_size": (0,)},
    **{"penalty_alpha": (), "typical_p": (1,), "epsilon_cutoff": (0,), "eta_cutoff": (0,), "encoder_repetition_penalty": (1,)},
}


def target_settings(config: Mapping[str, Any], directory: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return special tokens and ``generation`` of the processor ``target_text``, and in words what is not used.

    Args:
        config: completed with the defaults of the model type.
        directory: may hold ``generation_config.json``, whose values win.

    Raises:
        WeightsError: the file cannot be read.
    """
    own = read_told(directory)
    told = {**{key: value for key, value in config.items() if value is not None}, **own}
    found = {ours: told[theirs] for theirs, ours in NAMES.items() if told.get(theirs) is not None}
    if not told.get("do_sample"):
        found = {key: value for key, value in found.items() if key not in SAMPLED}
    # Their lengths count the decoder's start symbol.
    for theirs, ours in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        if isinstance(told.get(theirs), int) and told[theirs] > 1 and theirs in own:
            found.setdefault(ours, told[theirs] - 1)
    bad = [ids[0] for ids in told.get("bad_words_ids") or [] if len(ids) == 1]
    suppressed = sorted({*bad, *(told.get("suppress_tokens") or [])})
    found |= {"suppress_tokens": suppressed} if suppressed else {}
    found = {key: value for key, value in found.items() if WITHOUT_EFFECT.get(key) != value}
    end = told.get("eos_token_id")
    settings = {
        "pad_token_id": told.get("pad_token_id", 0),
        "eot_token_id": end[0] if isinstance(end, list) else end,
        "start_token_ids": [told.get("decoder_start_token_id", told.get("pad_token_id", 0))],
        "generation": found,
    }
    left = [f"{key} {told[key]!r}" for key, usual in NOT_TAKEN.items() if told.get(key) is not None and told[key] not in usual]
    left += [f"bad_words_ids {ids}" for ids in told.get("bad_words_ids") or [] if len(ids) != 1]
    return settings, (f"generation: {', '.join(left)}, which our generation does not have",) if left else ()


def read_told(directory: Path) -> dict[str, Any]:
    """Return the values of ``generation_config.json`` that are set; empty without the file."""
    return {key: value for key, value in read_generation_config(directory / FILE).items() if value is not None}


def their_settings(part: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the special tokens for ``config.json``, and ``generation_config.json``, of a processor ``target_text``."""
    tokens: dict[str, Any] = {
        "pad_token_id": part.pad_token_id,
        "eos_token_id": part.eot_token_id,
        "decoder_start_token_id": part.start_token_ids[0],
    }
    backwards = {ours: theirs for theirs, ours in NAMES.items()}
    found = {backwards[key]: value for key, value in part.generation.items() if key in backwards}
    if len(part.start_token_ids) > 1:
        found.setdefault("forced_bos_token_id", part.start_token_ids[1])
    if suppressed := part.generation.get("suppress_tokens"):
        found["bad_words_ids"] = [[token] for token in suppressed]
    if found.get("temperature"):
        found["do_sample"] = True
    # Their default of 20 tokens would cut translations short.
    found.setdefault("max_length", part.context_length)
    return tokens, {**tokens, **found}
