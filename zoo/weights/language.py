"""Language models of transformers and llama.cpp as configs of ours: a system without encoders, whose head holds the model."""

import inspect
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from zoo.convert import gguf as gguf_names
from zoo.convert import meta_llama, transformers_causal_lm
from zoo.data.conversation_tokenizer import GivenTokenizer, read_language_tokenizer
from zoo.errors import ConfigError
from zoo.registry import find_part
from zoo.system import System
from zoo.weights.gguf import gguf_tokenizer, read_metadata

LANGUAGE: dict[str, ModuleType] = dict.fromkeys(("gpt2", "llama", "mistral"), transformers_causal_lm)  # by model_type
ORIGINS = (transformers_causal_lm, gguf_names, meta_llama)  # whose weights are a causal language model
HEAD = "llava"
PART = "head.language"
UNSEEN = (  # keywords that change what weights compute, but none of their shapes
    *("num_heads", "num_kv_heads", "head_dim", "eps", "rope_theta", "rope_scaling", "window", "activation", "positions", "norm"),
    *("xpos_scale", "embed_scale"),
)


def describe_language(directory: Path, config: Mapping[str, Any], keys: Collection[str]) -> tuple[dict[str, Any], GivenTokenizer | None]:
    """A system's config for a directory of transformers, and the tokenizer that lies in it.

    Raises:
        ConfigError: an architecture that ours is not.
        WeightsError: a tokenizer that cannot be read.
    """
    language = {"name": "causal_lm", **LANGUAGE[config["model_type"]].arguments(config, keys)}
    given = read_language_tokenizer(directory)
    return _system(directory.resolve().name, language, given), given


def describe_gguf(path: Path, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], GivenTokenizer | None]:
    """The same for a GGUF file; a ``tokenizer.json`` beside it goes before the tokenizer within.

    Raises:
        ConfigError: an architecture, or a tokenizer, that ours is not.
    """
    metadata = read_metadata(path)
    arguments = gguf_names.arguments(metadata, list(tensors), tensors.get(gguf_names.FACTORS))
    given = read_language_tokenizer(path.parent) or _tokenizer_within(metadata)
    return _system(path.stem, {"name": "causal_lm", **arguments}, given), given


def _system(name: str, language: dict[str, Any], given: GivenTokenizer | None) -> dict[str, Any]:
    template = "tokenizer" if given is not None and given.chat_template is not None else "none"
    conversation = {"tokenizer": "given", "template": template}
    return {"name": name, "encoders": {}, "head": {"name": HEAD, "language": language}, "processor": {"conversation": conversation}}


def _tokenizer_within(metadata: Mapping[str, Any]) -> GivenTokenizer:
    words = metadata["tokenizer.ggml.tokens"]
    keys = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    numbers = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in keys.items()}
    names = {name: words[number] for name, number in numbers.items() if number is not None and number < len(words)}
    return GivenTokenizer(gguf_tokenizer(dict(metadata)), names, chat_template=metadata.get("tokenizer.chat_template"))


def refuse_other_language(ours: Mapping[str, Any], theirs: Mapping[str, Any], key: str, origin: str) -> None:
    """Raise ConfigError where our language model would compute something else with weights than the model they come from."""
    if ours.get("name") != theirs["name"]:
        return
    defaults = {word: p.default for word, p in inspect.signature(find_part("language", ours["name"])).parameters.items()}
    mine = _whole({**defaults, **ours})
    for word, value in _whole({**defaults, **theirs}).items():
        same = math.isclose(mine[word], value, rel_tol=1e-3) if word in ("eps", "embed_scale") else mine[word] == value
        if word in UNSEEN and (word in theirs or word in ("num_kv_heads", "head_dim")) and not same:
            raise ConfigError(
                f"{key}.{word}: {mine[word]!r}, but {origin} was trained with {value!r}, which no shape shows; set {key}.{word} to it, or "
                "let zoo.load build the model. Nothing was loaded."
            )


def language_config(module: nn.Module, part: str) -> tuple[str, Mapping[str, Any] | None]:
    """The key and the config of our language model that a source's goes into; None where there is none."""
    if not isinstance(module, System):
        return "language", getattr(module, "config", {}).get("language")
    head = module.config.get("head") or {}
    return f"system.{PART}", head.get("language") if part in ("", "head", PART) else None


def _whole(words: Mapping[str, Any]) -> dict[str, Any]:
    """With what None stands for, of those that the family has."""
    heads, dim = words["num_heads"], words["dim"]
    meant = {"num_kv_heads": heads, "head_dim": dim // heads, "embed_scale": dim**0.5}
    return {**words, **{word: value for word, value in meant.items() if word in words and words[word] is None}}


def language_readings(target: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The tensors of a language model for one of ours, or for the system without encoders whose head holds it."""
    inner: Any = getattr(target.head, "language", None) if isinstance(target, System) else target
    for origin in ORIGINS:
        if origin.recognises(tensors) and hasattr(inner, "new_cache"):
            converted = origin.to_zoo(tensors, head_dim=inner.head_dim, tied=inner.lm_head is None)
            yield {f"{PART}.{name}": tensor for name, tensor in converted.items()} if inner is not target else converted


def take_tokenizer(system: System, found: Any) -> None:
    """The tokenizer that a language model was trained with goes to the conversations, where they say that one is given.

    Args:
        found: the ``zoo.weights.loading.Source`` that the language model's weights are from.
    """
    ours: Any = getattr(system.processor, "parts", {}).get("conversation")
    if ours is None or ours.source != "given" or ours.is_fitted:
        return
    if found.config is None:
        given = found.description.conversation if found.is_describable else None
    else:
        theirs: Any = getattr(found.processor(), "parts", {}).get("conversation")
        given = None
        if theirs is not None and theirs.is_fitted:
            given = GivenTokenizer(theirs.tokenizer, theirs.names, tuple(theirs.further_ends), theirs.chat_template)
    if given is not None:
        ours.use(given)
