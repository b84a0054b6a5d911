"""Whisper systems as a directory of transformers, or as the file of weights that openai-whisper reads."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, processors
from torch import Tensor, nn

from zoo.interop.base.format import Export
from zoo.interop.whisper import system as whisper_system
from zoo.interop.whisper.names import OPENAI
from zoo.processors.media.log_mel import WHISPER
from zoo.processors.tokenizers.library_tokenizers import TOKENIZER_CONFIG, TOKENIZER_FILE
from zoo.registry import find_part
from zoo.storage.hub import CONFIG as FOREIGN_CONFIG
from zoo.types import config_of, is_system, part_of

TARGET = "openai-whisper"
FILE = "model.pt"
LATEST_START = 50  # timestamps up to 1 s may begin a transcript, in every published model


def whisper_export(model: nn.Module, target: str) -> Export | None:
    """Return the weights, and for transformers the configs, the feature extractor and the tokenizer; None for another family.

    openai-whisper reads ``whisper.load_model("DIR/model.pt")``; it has the tokenizers of the published models alone.

    Raises:
        ConfigError: the target does not have something that the system has.
    """
    config: Any = config_of(model)
    names = {config["head"].get("name"), *(e.get("name") for e in config["encoders"].values())} if is_system(model) else set()
    if names != {"whisper"}:
        return None
    encoder, head = _whole("encoder", config["encoders"]["audio"]), _whole("head", config["head"])
    if target == TARGET:
        dimensions = whisper_system.dimensions(encoder, head)
        return Export({}, lambda: _openai_tensors(model), FILE, lambda tensors, path: _save_openai(dimensions, tensors, path))
    words = part_of(model, "transcript")
    theirs = whisper_system.config(encoder, head)
    files: dict[str, Any] = {FOREIGN_CONFIG: theirs, "preprocessor_config.json": _feature_extractor(encoder)}
    if words is not None:
        ids = {"bos_token_id": words.eot, "eos_token_id": words.eot, "pad_token_id": words.eot, "decoder_start_token_id": words.sot}
        theirs |= ids
        files["generation_config.json"] = {**ids, **_generation(words, model.get_submodule("head"), head["context_length"])}
        if words.is_fitted:
            files[TOKENIZER_FILE] = whole_tokenizer(words).to_str(pretty=True)
            files[TOKENIZER_CONFIG] = _tokenizer_config(head["context_length"], words.source)
    return Export(files, lambda: whisper_system.from_zoo(model.state_dict()))


def _openai_tensors(model: nn.Module) -> dict[str, Tensor]:
    return whisper_system.from_zoo(model.state_dict(), origin=OPENAI.name)


def _save_openai(dimensions: dict[str, int], tensors: Mapping[str, Tensor], path: Path) -> None:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    torch.save({"dims": dimensions, "model_state_dict": plain}, path)


def _whole(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of a config, completed with the defaults."""
    defaults = {key: p.default for key, p in inspect.signature(find_part(kind, config["name"])).parameters.items()}
    return {**defaults, **config}


def _feature_extractor(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``preprocessor_config.json``: the settings of the spectrograms, which are padded with silence up to the whole context."""
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
    """Return ``generation_config.json`` as the published models have it."""
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
    """Return the tokenizer with its special tokens, and the template that puts them around a text, as transformers has it."""
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
