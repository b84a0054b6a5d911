"""Causal language models: LLaMA, GPT-2 and their relatives of transformers, GGUF files of llama.cpp, and Meta's own files."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zoo.errors import WeightsError
from zoo.interop.base.files import CHAT, TOKENIZERS, TRANSFORMERS
from zoo.interop.base.format import CONFIG_SAYS, KEYS_SAY, NO, Description, Export, Format
from zoo.interop.base.placing import LANGUAGE, language_in, take_part
from zoo.interop.base.recognise import describe, library_config
from zoo.interop.base.source import Source
from zoo.interop.causal_lm import configs, gguf_names, meta_llama, transformers_causal_lm
from zoo.interop.causal_lm.gguf_metadata import checked_metadata
from zoo.interop.causal_lm.gguf_tokenizer import gguf_tokenizer
from zoo.interop.causal_lm.gguf_write import KINDS
from zoo.interop.causal_lm.settings import sampling_settings
from zoo.interop.causal_lm.write import language_export
from zoo.processors.tokenizers.chat_tokenizer import GivenTokenizer, read_language_tokenizer
from zoo.processors.tokenizers.tokenizer_file import read_safely
from zoo.registry import register
from zoo.storage.gguf import is_gguf, read_metadata

ORIGINS = (transformers_causal_lm, gguf_names, meta_llama)
HEAD, REWARD = "llava", "reward"
OUTPUT = "score.weight"  # of transformers' classes for sequence classification, which are reward models if they have one label


@register("format")
class CausalLanguageModels(Format):
    """Language models ``causal_lm``, alone or as a system without encoders."""

    targets = ("transformers", *KINDS)
    takes = "language models 'causal_lm', alone or in a system without encoders"
    model_types = tuple(configs.CLASSES)
    files = {**TRANSFORMERS, **TOKENIZERS, **CHAT}

    def recognises(self, source: Source) -> float:
        """Go by the model type, else by the names of the tensors."""
        if source.model_type in self.model_types:
            return CONFIG_SAYS
        return KEYS_SAY if any(origin.recognises(source.keys) for origin in ORIGINS) else NO

    def describe(self, source: Source) -> Description:
        """Return a system without encoders; a ``tokenizer.json`` beside a GGUF file is preferred to the tokenizer inside it."""
        if source.file is not None and is_gguf(source.file):
            return _describe_gguf(source, source.file)
        config = library_config(source, self)
        assert source.directory is not None
        language = {"name": "causal_lm", **configs.arguments(config, source.keys)}
        found = _system(source.name, language, read_language_tokenizer(source.directory))
        if OUTPUT in source.keys:
            found.config["system"]["head"]["name"] = REWARD
        return replace(found, left_out=sampling_settings(source.directory))

    def read(self, source: Source, part: str = "", into: nn.Module | None = None) -> Mapping[str, Tensor]:
        """Convert the tensors; the model that takes them tells the width of a head, and if its output is tied to the word table."""
        origin = next((origin for origin in ORIGINS if origin.recognises(source.keys)), transformers_causal_lm)
        language = language_in(into)
        if language is None and into is not None:
            raise WeightsError(
                f"{source.origin}: holds a causal language model, and {type(into).__name__} has none; load it into a language model, or "
                f"into the part {LANGUAGE!r} of a system"
            )
        if language is None:
            words = describe(source).config["system"]["head"]["language"]
            head_dim, tied = words.get("head_dim") or words["dim"] // words["num_heads"], words["tied"]
        else:
            head_dim, tied = language.head_dim, language.ties_words and not language.drops_output
        tensors = dict(source.tensors)
        output = _reward_output(tensors.pop(OUTPUT), source.origin) if OUTPUT in tensors else {}
        converted = origin.to_zoo(tensors, head_dim=head_dim, tied=tied)
        return take_part({**{f"{LANGUAGE}.{name}": tensor for name, tensor in converted.items()}, **output}, source, part, into)

    def prepare(self, model: nn.Module, target: str, directory: Path) -> Export | None:
        """Return transformers' files of a language model, or a GGUF file."""
        return language_export(model, target)


def _reward_output(weight: Tensor, origin: str) -> dict[str, Tensor]:
    """Return the output layer of a reward model under our name.

    Raises:
        WeightsError: the model has several labels.
    """
    if len(weight) != 1:
        raise WeightsError(f"{origin}: classifies texts into {len(weight)} labels; only reward models, with one label, can be loaded")
    return {"head.output.weight": weight}


def _describe_gguf(source: Source, path: Path) -> Description:
    metadata = checked_metadata(read_metadata(path), path)
    factors = source.tensors[gguf_names.FACTORS] if gguf_names.FACTORS in source.keys else None
    arguments = gguf_names.arguments(metadata, source.keys, factors)
    given = read_language_tokenizer(path.parent) or _tokenizer_within(metadata, path)
    return _system(path.stem, {"name": "causal_lm", **arguments}, given)


def _system(name: str, language: dict[str, Any], given: GivenTokenizer | None) -> Description:
    """Return a system without encoders, whose head holds the language model."""
    template = "tokenizer" if given is not None and given.chat_template is not None else "none"
    conversation = {"tokenizer": "given", "template": template}
    system = {"name": name, "encoders": {}, "head": {"name": HEAD, "language": language}, "processor": {"conversation": conversation}}
    return Description({"system": system}, conversation=given)


def _tokenizer_within(metadata: Mapping[str, Any], path: Path) -> GivenTokenizer:
    words = metadata.get("tokenizer.ggml.tokens")
    if words is None:
        raise WeightsError(f"{path}: holds no tokenizer (tokenizer.ggml.tokens); put a tokenizer.json beside it")
    keys = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    numbers = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in keys.items()}
    names = {name: words[number] for name, number in numbers.items() if number is not None and number < len(words)}
    tokenizer = read_safely(lambda: gguf_tokenizer(dict(metadata)), path)
    return GivenTokenizer(tokenizer, names, chat_template=metadata.get("tokenizer.chat_template"))
