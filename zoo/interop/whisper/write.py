"""Systems that transcribe as a directory of transformers, or as the file of weights that openai-whisper reads."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, processors
from torch import nn

from zoo.errors import ConfigError
from zoo.interop.whisper import system as whisper_system
from zoo.interop.whisper.names import OPENAI
from zoo.processors.media.log_mel import WHISPER
from zoo.processors.tokenizers.library_tokenizers import TOKENIZER_CONFIG, TOKENIZER_FILE
from zoo.registry import find_part
from zoo.storage.files import WEIGHTS_FILE, atomic_directory
from zoo.storage.hub import CONFIG as FOREIGN_CONFIG
from zoo.storage.tensors import write_tensors
from zoo.types import SystemLike, config_of, is_system

FORMAT = "openai-whisper"
FILE = "model.pt"
LATEST_START = 50  # timestamps up to 1 s may begin a transcript, in every published model


def is_whisper(model: nn.Module) -> bool:
    """Whether it is a system of the encoder and the head ``whisper``."""
    config: Any = config_of(model)
    return is_system(model) and {config["head"].get("name"), *(e.get("name") for e in config["encoders"].values())} == {"whisper"}


def write_whisper(model: nn.Module, directory: Path, format: str) -> Path:
    """Write the weights, and for transformers what goes with them: config, generation config, feature extractor, tokenizer.

    openai-whisper reads ``whisper.load_model("DIR/model.pt")``; it has the tokenizers of the published models alone.

    Raises:
        ConfigError: another model, adapters, or something that the target does not have.
    """
    if not is_system(model) or not is_whisper(model):
        raise ConfigError(
            f"format: {FORMAT!r} has systems of the encoder and the head 'whisper' only; {type(model).__name__} is none of them"
        )
    encoder, head = _whole("encoder", model.config["encoders"]["audio"]), _whole("head", model.config["head"])
    if format == FORMAT:
        return _write_openai(model, directory, whisper_system.dimensions(encoder, head))
    parts: Mapping[str, Any] = getattr(model.processor, "parts", {})
    words = parts.get("transcript")
    config = whisper_system.config(encoder, head)
    files: dict[str, Any] = {FOREIGN_CONFIG: config, "preprocessor_config.json": _feature_extractor(encoder)}
    if words is not None:
        ids = {"bos_token_id": words.eot, "eos_token_id": words.eot, "pad_token_id": words.eot, "decoder_start_token_id": words.sot}
        config |= ids
        files["generation_config.json"] = {**ids, **_generation(words, model.head, head["context_length"])}
    with atomic_directory(directory) as folder:
        write_tensors(whisper_system.from_zoo(model.state_dict()), folder / WEIGHTS_FILE)
        if words is not None and words.is_fitted:
            whole_tokenizer(words).save(str(folder / TOKENIZER_FILE))
            files[TOKENIZER_CONFIG] = _tokenizer_config(head["context_length"], words.source)
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    return directory


def _write_openai(model: SystemLike, directory: Path, dimensions: dict[str, int]) -> Path:
    state = whisper_system.from_zoo(model.state_dict(), origin=OPENAI.name)
    with atomic_directory(directory) as folder:
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        torch.save({"dims": dimensions, "model_state_dict": plain}, folder / FILE)
    return directory


def _whole(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords with the defaults of those that a config leaves out."""
    defaults = {key: p.default for key, p in inspect.signature(find_part(kind, config["name"])).parameters.items()}
    return {**defaults, **config}


def _feature_extractor(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """``preprocessor_config.json``: how mels are made, and silence up to the end of the context."""
    frames = 2 * encoder["context_length"]
    seconds = frames * WHISPER.hop_samples / WHISPER.sample_rate_hz
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": encoder["num_mels"],
        "sampling_rate": WHISPER.sample_rate_hz,
        "hop_length": WHISPER.hop_samples,
        "n_fft": WHISPER.num_fft,
        "chunk_length": int(seconds) if seconds.is_integer() else seconds,
        "n_samples": frames * WHISPER.hop_samples,
        "nb_max_frames": frames,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }


def _generation(words: Any, head: Any, context_length: int) -> dict[str, Any]:
    """``generation_config.json`` as the published models have it."""
    languages = {"lang_to_id": {f"<|{code}|>": number for code, number in words.languages.items()}}
    tasks = {"task_to_id": {"transcribe": words.transcribe, "translate": words.translate}}
    return {
        **({**languages, **tasks} if words.is_multilingual else {}),
        "is_multilingual": words.is_multilingual,
        "no_timestamps_token_id": words.no_timestamps,
        "prev_sot_token_id": words.sot_prev,
        "suppress_tokens": list(words.suppressed),
        "begin_suppress_tokens": list(words.blank),
        "alignment_heads": [list(pair) for pair in head.alignment_heads],
        "max_initial_timestamp_index": LATEST_START,
        "max_length": context_length,
        "return_timestamps": False,
    }


def whole_tokenizer(words: Any) -> Tokenizer:
    """The tokenizer with its special tokens, and a template that puts them around a text, as transformers has it."""
    content = json.loads(words.tokenizer.to_str())
    names = words.ids.names()
    content["model"]["vocab"] |= names  # so that each keeps its id where the base has fewer words than there are ids
    tokenizer = Tokenizer.from_str(json.dumps(content, ensure_ascii=False))
    times = [name for name, number in names.items() if number >= words.timestamp_begin]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names if name not in times])
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in times])
    known = {number: name for name, number in names.items()}
    start, end = [known[number] for number in (*words.start(), words.no_timestamps)], known[words.eot]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*start, "$A", end],
        pair=[*start, "$A", "$B", end],
        special_tokens=[(name, names[name]) for name in (*start, end)],
    )
    return tokenizer


def _tokenizer_config(context_length: int, source: str) -> dict[str, Any]:
    end = "<|endoftext|>"
    return {
        # Of a tokenizer.json their own class takes the vocabulary alone, and splits texts as GPT-2 does.
        "tokenizer_class": "PreTrainedTokenizerFast" if source == "characters" else "WhisperTokenizer",
        "processor_class": "WhisperProcessor",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        **dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), end),
    }
