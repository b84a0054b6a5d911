"""Language models of transformers and llama.cpp as configs of ours: a system without encoders, whose head holds the model."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from zoo.interop.causal_lm import gguf_names, meta_llama, transformers_causal_lm
from zoo.interop.causal_lm.gguf_tokenizer import gguf_tokenizer
from zoo.processors.tokenizers.chat_tokenizer import GivenTokenizer, read_language_tokenizer
from zoo.storage.gguf import read_metadata
from zoo.types import is_system

LANGUAGE: dict[str, ModuleType] = dict.fromkeys(("gpt2", "llama", "mistral"), transformers_causal_lm)  # by model_type
ORIGINS = (transformers_causal_lm, gguf_names, meta_llama)  # whose weights are a causal language model
HEAD = "llava"
PART = "head.language"


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


def whole_keywords(words: Mapping[str, Any]) -> dict[str, Any]:
    """With what None stands for, of those that the family has."""
    heads, dim = words["num_heads"], words["dim"]
    meant = {"num_kv_heads": heads, "head_dim": dim // heads, "embed_scale": dim**0.5}
    return {**words, **{word: value for word, value in meant.items() if word in words and words[word] is None}}


def language_readings(target: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The tensors of a language model for one of ours, or for the system without encoders whose head holds it."""
    inner: Any = getattr(target.head, "language", None) if is_system(target) else target
    for origin in ORIGINS:
        if origin.recognises(tensors) and hasattr(inner, "new_cache"):
            converted = origin.to_zoo(tensors, head_dim=inner.head_dim, tied=inner.lm_head is None)
            yield {f"{PART}.{name}": tensor for name, tensor in converted.items()} if inner is not target else converted
