"""A Whisper of transformers, openai-whisper or CTranslate2 as a config of ours: a system where it has its decoder, else an encoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor

from zoo.interop.whisper import encoder as whisper
from zoo.interop.whisper import system as whisper_system
from zoo.processors.tokenizers.library_tokenizers import read_json
from zoo.processors.tokenizers.whisper_tokens import find_tiktoken, read_base_tokenizer, tiktoken_tokenizer
from zoo.registry import rows

STRICT = {"pad_to": "context", "mask": False}  # as Whisper was trained: silence up to 30 s
ENGLISH_SIZE = 51864  # the smallest vocabulary with all of Whisper's special tokens: 50256, end, start, 99 languages, 6, 1501 timestamps
MOST_LANGUAGES = 100
WHISPER_TIMESTAMPS = 1501


def describe_whisper(tensors: Mapping[str, Tensor], place: Path) -> tuple[dict[str, Any], Tokenizer | None]:
    """The content of a ``config.yaml`` of ours, and the tokenizer of the base vocabulary.

    It is that which lies beside the weights, or else that of an installed openai-whisper; without one token ids alone are taken.

    Args:
        place: a directory, or a file of weights.

    Raises:
        ConfigError: something that our parts do not have.
        WeightsError: files that cannot be read, or weights that do not tell their sizes.
    """
    directory = place if place.is_dir() else place.parent
    config = read_json(directory / "config.json") or {}
    theirs = config if "model_type" in config else None  # CTranslate2's tells no sizes
    if not whisper_system.recognises(tensors):
        return {"encoder": {"name": "whisper", **whisper.arguments(tensors, theirs)}, "processor": {"audio": STRICT}}, None
    system = whisper_system.system_config(tensors, theirs)
    told = {**config, **(read_json(directory / "generation_config.json") or {})}
    name, head = place.resolve().stem if place.is_file() else place.resolve().name, system["head"]
    heads = told.get("alignment_heads") or _published_heads(name, head)
    if heads:
        head["alignment_heads"] = [list(pair) for pair in heads]
    transcript = {"tokenizer": "given", **_special_tokens(head["vocab_size"], told)}
    processor = {"audio": STRICT, "transcript": transcript}
    return {"system": {"name": name, **system, "processor": processor}}, _tokenizer(directory, transcript, head["vocab_size"])


def _published_heads(name: str, head: Mapping[str, Any]) -> list[list[int]] | None:
    """The heads that follow what is said, of weights that are called as openai-whisper calls them (``tiny.en.pt``)."""
    row = rows("head").get(f"whisper_{name.replace('.', '_').replace('-', '_')}_decoder")
    sizes = ("dim", "depth", "num_heads")
    return row.arguments["alignment_heads"] if row and all(row.arguments[key] == head[key] for key in sizes) else None


def _special_tokens(vocab_size: int, told: Mapping[str, Any]) -> dict[str, Any]:
    """Where special tokens stand: as transformers' ``generation_config.json`` says, else by the size of the vocabulary.

    Of a vocabulary that is not Whisper's, and of which nothing is said, no language and no timestamp is known.
    """
    end, last = told.get("eos_token_id"), told.get("no_timestamps_token_id")
    if isinstance(end, int) and isinstance(last, int) and 0 <= last - end - 7 <= MOST_LANGUAGES:
        timestamps = min(vocab_size - last - 1, WHISPER_TIMESTAMPS)
        multilingual = bool(told.get("is_multilingual", vocab_size > ENGLISH_SIZE))
        own = {"num_languages": last - end - 7, "num_timestamps": timestamps, "multilingual": multilingual}
        return own | ({"vocab_size": last + 1 + timestamps} if last + 1 + timestamps < vocab_size else {})
    if vocab_size >= ENGLISH_SIZE:
        languages = MOST_LANGUAGES if vocab_size > ENGLISH_SIZE + 1 else MOST_LANGUAGES - 1
        return {"num_languages": languages, "multilingual": vocab_size > ENGLISH_SIZE}
    return {"num_languages": 0, "num_timestamps": 0, "multilingual": False}


def _tokenizer(directory: Path, transcript: Mapping[str, Any], vocab_size: int) -> Tokenizer | None:
    found = read_base_tokenizer(directory)
    if found is None and vocab_size >= ENGLISH_SIZE:
        ranks = find_tiktoken(multilingual=transcript["multilingual"])
        found = None if ranks is None else tiktoken_tokenizer(ranks)
    return found
