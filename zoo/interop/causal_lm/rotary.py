"""Rotary settings of transformers: ``rope_parameters``, or ``rope_theta`` and ``rope_scaling`` of older files <-> our keywords.

Reference: transformers 5.17 ``modeling_rope_utils.py``, which also gives the factors that a file may leave out.
"""

import math
from collections.abc import Mapping
from typing import Any

from zoo.errors import ConfigError
from zoo.interop.base.transformers_config import count

OTHERS = "other models can be used as they are: transformers/DIRECTORY"
LENGTH = "original_max_position_embeddings"
SLIDING, FULL = "sliding_attention", "full_attention"
KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")


def rotary(config: Mapping[str, Any], *, by_layers: bool = False) -> tuple[dict[str, Any], float | None]:
    """Return ``rope_theta``, ``rope_scaling`` and ``rotary_share``, and theta of layers with a window.

    Args:
        by_layers: layers with a window have a theta of their own (Gemma 3).

    Raises:
        ConfigError: ours does not have this kind of scaling, or a number is missing.
    """
    words = {"rope_theta": 1e6 if by_layers else 10_000.0, **{k: config[k] for k in ("rope_theta",) if config.get(k) is not None}}
    words |= {k: config[k] for k in ("partial_rotary_factor",) if config.get(k) is not None}
    words |= config.get("rope_scaling") or {}
    given = config.get("rope_parameters") or {}
    window_theta = float(config.get("rope_local_base_freq") or 10_000.0) if by_layers else None
    if FULL in given:
        inner = given.get(SLIDING) or {}
        if inner.get("rope_type", "default") != "default":
            raise ConfigError(f"rope_parameters.{SLIDING}.rope_type: got {inner['rope_type']!r}; allowed is 'default'; {OTHERS}")
        window_theta, given = float(inner.get("rope_theta", 10_000.0)), given[FULL]
    words |= given
    share = float(words.get("partial_rotary_factor", 1.0))
    turns = {"rope_theta": float(words["rope_theta"]), "rope_scaling": _scaling(words, config)}
    return turns | ({"rotary_share": share} if share != 1.0 else {}), window_theta


def _scaling(words: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any] | None:
    kind = words.get("rope_type", words.get("type", "default"))
    if config.get("model_type") == "phi3" and kind in ("su", "yarn"):
        kind = "longrope"  # the names of the first releases
    if kind not in KINDS:
        raise ConfigError(f"rope_parameters.rope_type: our causal_lm has no {kind!r}; allowed are {', '.join(KINDS)}; {OTHERS}")
    if kind == "default":
        return None
    try:
        return {"kind": kind, **_numbers(str(kind), words, config)}
    except KeyError as error:
        raise ConfigError(f"rope_parameters: rope_type {kind!r} needs {error.args[0]!r}, which is missing") from error


def _numbers(kind: str, words: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    longest = count(config, "max_position_embeddings")
    if kind == "linear":
        return {"factor": float(words["factor"])}
    if kind == "dynamic":
        return {"factor": float(words["factor"]), "original_context_length": longest}
    if kind == "llama3":
        numbers = {key: float(words[key]) for key in ("factor", "low_freq_factor", "high_freq_factor")}
        return {**numbers, "original_context_length": int(words[LENGTH])}
    original = int(words.get(LENGTH) or config.get(LENGTH) or longest)
    factor = float(words.get("factor") or longest / original)
    attention = words.get("attention_factor")
    if kind == "yarn":
        attention = _yarn_attention(words, factor) if attention is None else float(attention)
        numbers = {"factor": factor, "beta_fast": float(words.get("beta_fast") or 32), "beta_slow": float(words.get("beta_slow") or 1)}
        numbers |= {"original_context_length": original, "attention_factor": attention}
        return numbers | ({"truncate": False} if words.get("truncate", True) is False else {})
    if attention is None:
        attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    factors = {key: [float(number) for number in words[key]] for key in ("short_factor", "long_factor")}
    return {**factors, "original_context_length": original, "attention_factor": float(attention)}


def _yarn_attention(words: Mapping[str, Any], factor: float) -> float:
    """Return YaRN's factor on queries and keys, Peng et al. 2023, equation 22; DeepSeek's files divide two such numbers."""

    def scale(mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    if words.get("mscale") and words.get("mscale_all_dim"):
        return scale(float(words["mscale"])) / scale(float(words["mscale_all_dim"]))
    return scale(1.0)


def context_length(config: Mapping[str, Any], scaling: Mapping[str, Any] | None) -> int:
    """Return the longest text: dynamic scaling reaches ``factor`` times as far as ``max_position_embeddings`` says."""
    longest = count(config, "max_position_embeddings")
    return int(longest * scaling["factor"]) if scaling is not None and scaling["kind"] == "dynamic" else longest


def their_rotary(arguments: Mapping[str, Any], *, by_layers: bool = False) -> dict[str, Any]:
    """Undo ``rotary`` and ``context_length``: return ``rope_parameters`` and ``max_position_embeddings``."""
    scaling = dict(arguments["rope_scaling"] or {"kind": "default"})
    kind, longest = scaling.pop("kind"), arguments["context_length"]
    original = scaling.pop("original_context_length", None)
    words = {"rope_type": kind, "rope_theta": arguments["rope_theta"], **scaling}
    if kind == "dynamic":
        longest = original
    elif original is not None:
        words[LENGTH] = original
    if arguments["rotary_share"] != 1.0 or kind == "longrope":
        words["partial_rotary_factor"] = arguments["rotary_share"]
    found: dict[str, Any] = {"max_position_embeddings": longest, "rope_parameters": words}
    if kind == "longrope":
        found[LENGTH] = original
    if by_layers:
        theta = arguments["window_rope_theta"] or arguments["rope_theta"]
        found["rope_parameters"] = {FULL: words, SLIDING: {"rope_type": "default", "rope_theta": theta}}
    return found
