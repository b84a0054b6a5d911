"""Whisper of transformers, openai-whisper and CTranslate2: a system with its decoder, else an encoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.interop.base.files import CHAT, HARMLESS, IMAGES, TOKENIZERS, TRANSFORMERS, USED
from zoo.interop.base.format import CONFIG_SAYS, KEYS_SAY, NO, Description, Export, Format
from zoo.interop.base.library_files import read_library_config, read_optional
from zoo.interop.base.placing import EncoderNames, read_encoder, take_part
from zoo.interop.base.schemas import read_generation_config
from zoo.interop.base.source import CT2, Source
from zoo.interop.base.source import TRANSFORMERS as DIRECTORY
from zoo.interop.whisper import encoder as whisper
from zoo.interop.whisper import system as whisper_system
from zoo.interop.whisper.write import TARGET, whisper_export
from zoo.processors.media.log_mel import WHISPER
from zoo.processors.tokenizers.whisper_tokens import LANGUAGES, find_tiktoken, read_base_tokenizer, tiktoken_tokenizer
from zoo.registry import register, rows
from zoo.storage.ctranslate2 import NAME as CTRANSLATE2
from zoo.storage.hub import CONFIG
from zoo.types import Encoder

STRICT = {"pad_to": "context", "mask": False}  # as Whisper was trained: silence up to 30 s
ENGLISH_SIZE = 51864  # the smallest vocabulary with all of Whisper's special tokens: 50256, end, start, 99 languages, 6, 1501 timestamps
MOST_LANGUAGES = 100
WHISPER_TIMESTAMPS = 1501
GENERATION_FILE = "generation_config.json"
SOUND = {  # of preprocessor_config.json: our value
    "feature_extractor_type": "WhisperFeatureExtractor",
    "sampling_rate": WHISPER.sample_rate_hz,
    "hop_length": WHISPER.hop_samples,
    "n_fft": WHISPER.num_fft,
    "padding_value": 0.0,
}
NAMES = EncoderNames(whisper.recognises, whisper.to_zoo)


@register("format")
class Whispers(Format):
    """Encoders ``whisper``, and systems with the head ``whisper``."""

    targets = ("transformers", TARGET)
    takes = "systems of the encoder and the head 'whisper'"
    model_types = (whisper.MODEL_TYPE,)
    files = {
        **TRANSFORMERS,
        **TOKENIZERS,
        **IMAGES,
        **CHAT,
        CTRANSLATE2: USED,
        **dict.fromkeys(("normalizer.json", "vocabulary.json", "vocabulary.txt"), HARMLESS),
    }

    def recognises(self, source: Source) -> float:
        """Go by the model type, else by the names of the tensors."""
        if source.model_type in self.model_types:
            return CONFIG_SAYS
        return KEYS_SAY if whisper.recognises(source.keys) else NO

    def describe(self, source: Source) -> Description:
        """Return a system or an encoder; without a config of transformers, sizes are read off the tensors.

        The tokenizer is the one beside the weights, or else that of an installed openai-whisper; without one only token ids are taken.
        """
        directory = source.directory or (source.file.parent if source.file is not None else None)
        config = None if directory is None else _config_of(source, directory)
        # Sizes that are no shapes (numbers of heads) stand among the tensors of a file without config.
        tensors = source.tensors if config is None else source.outline
        if directory is not None:
            _refuse_other_sound(directory)
        if not whisper_system.recognises(source.keys):
            return Description({"encoder": {"name": "whisper", **whisper.arguments(tensors, config)}, "processor": {"audio": STRICT}})
        system = whisper_system.system_config(tensors, config)
        told = _told(source, directory)
        left_out = _choose_heads(system["head"], source.name, told)
        transcript = {"tokenizer": "given", **_special_tokens(system["head"]["vocab_size"], told)}
        processor = {"audio": STRICT, "transcript": transcript}
        left_out += _language(transcript, told)
        tokenizer = _tokenizer(directory, transcript, system["head"]["vocab_size"])
        return Description({"system": {"name": source.name, **system, "processor": processor}}, tokenizer, left_out=left_out)

    def read(self, source: Source, part: str = "", into: nn.Module | None = None) -> Mapping[str, Tensor]:
        """Convert the whole system and take the part; an encoder alone takes its own half."""
        if not whisper_system.recognises(source.keys) or (not part and isinstance(into, Encoder)):
            return read_encoder(NAMES, source, "audio", part, into)
        return take_part(whisper_system.to_zoo(source.tensors), source, "" if part == "encoder" else part, into)

    def prepare(self, model: nn.Module, target: str, directory: Path) -> Export | None:
        """Return the files of transformers or openai-whisper of a system."""
        return whisper_export(model, target)


def _config_of(source: Source, directory: Path) -> dict[str, Any] | None:
    """Return the ``config.json`` of transformers beside the weights; None if there is none, or it is CTranslate2's without sizes."""
    path = directory / CONFIG
    if source.library == CT2 or not path.is_file():
        return None
    if source.library == DIRECTORY:
        return read_library_config(path)
    config = read_optional(path)
    return config if "model_type" in config else None


def _told(source: Source, directory: Path | None) -> dict[str, Any]:
    """Return the settings of both configs; those of generation win."""
    return {} if directory is None else {**read_optional(directory / CONFIG), **read_generation_config(directory / GENERATION_FILE)}


def _choose_heads(head: dict[str, Any], name: str, told: Mapping[str, Any]) -> tuple[str, ...]:
    """Set the heads that follow the speech, as far as the decoder has them; return the others in words.

    A distilled Whisper often keeps the list of its teacher, which has more layers.
    """
    heads = told.get("alignment_heads") or _published_heads(name, head)
    if not heads:
        return ()
    pairs = [list(pair) for pair in heads]
    own = [pair for pair in pairs if pair[0] < head["depth"] and pair[1] < head["num_heads"]]
    if own:
        head["alignment_heads"] = own
    others = [pair for pair in pairs if pair not in own]
    instead = "" if own else "; the default heads are used for the times of words"
    return (f"{GENERATION_FILE}: alignment_heads {others}, which the decoder does not have{instead}",) if others else ()


def _language(transcript: dict[str, Any], told: Mapping[str, Any]) -> tuple[str, ...]:
    """Take the language of a fine-tuned model for its training; return in words that ``transcribe`` has to be given it."""
    words = {
        key: str(told[key]).strip("<|>") for key in ("language", "task") if told.get(key) and str(told[key]).strip("<|>") != "transcribe"
    }
    codes = {name: code for code, name in LANGUAGES.items()}
    if "language" in words:
        words["language"] = codes.get(words["language"].lower(), words["language"])
        if transcript["multilingual"] and words["language"] in LANGUAGES:
            transcript["language"] = words["language"]
    given = ", ".join(f"{key}={value!r}" for key, value in words.items())
    return (f"{GENERATION_FILE}: {given}; pass it to transcribe yourself",) if words else ()


def _refuse_other_sound(directory: Path) -> None:
    """Raise ConfigError if the feature extractor of a directory makes other spectrograms than ours."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        found = read_optional(directory / name)
        settings = found.get("feature_extractor") or found
        for key, ours in SOUND.items():
            if settings.get(key) not in (None, ours):
                raise ConfigError(f"{directory / name}: {key}: got {settings[key]!r}; our spectrograms have {ours!r}, and no other")


def _published_heads(name: str, head: Mapping[str, Any]) -> list[list[int]] | None:
    """Return the heads that follow the speech, for weights that are named as those of openai-whisper (``tiny.en.pt``)."""
    row = rows("head").get(f"whisper_{name.replace('.', '_').replace('-', '_')}_decoder")
    sizes = ("dim", "depth", "num_heads")
    return row.arguments["alignment_heads"] if row and all(row.arguments[key] == head[key] for key in sizes) else None


def _special_tokens(vocab_size: int, told: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of special tokens, from transformers' ``generation_config.json`` or else from the size of the vocabulary.

    A vocabulary that is not Whisper's has no languages and no timestamps, unless the config tells them.
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


def _tokenizer(directory: Path | None, transcript: Mapping[str, Any], vocab_size: int) -> Tokenizer | None:
    found = None if directory is None else read_base_tokenizer(directory)
    if found is None and vocab_size >= ENGLISH_SIZE:
        ranks = find_tiktoken(multilingual=transcript["multilingual"])
        found = None if ranks is None else tiktoken_tokenizer(ranks)
    return found
