"""Decoding settings and special tokens of a Whisper, from the files beside its weights.

References: transformers 5.17 ``generation_whisper.py``, ``_retrieve_init_tokens`` and ``_retrieve_logit_processors``; CTranslate2 4.8
``whisper_spec.py``, whose ``config.json`` has ``suppress_ids``, ``suppress_ids_begin``, ``lang_ids`` and ``alignment_heads``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from zoo.errors import ConfigError
from zoo.interop.base.library_files import read_optional
from zoo.interop.base.schemas import read_generation_config
from zoo.processors.tokenizers.whisper_generation import Generation
from zoo.processors.tokenizers.whisper_languages import language_code
from zoo.processors.tokenizers.whisper_tokens import SpecialIds
from zoo.storage.hub import CONFIG

FILE = "generation_config.json"
ENGLISH_SIZE = 51864  # the smallest vocabulary with all of Whisper's special tokens: 50256, end, start, 99 languages, 6, 1501 timestamps
ENGLISH_END = 50256  # end symbol of the English-only models
MOST_LANGUAGES = 100
MOST_TIMESTAMPS = 1501
BETWEEN = 7  # special tokens between the end symbol and the last one before the timestamps, without the languages
SUPPRESSED = {"suppress_tokens": "suppress_ids", "begin_suppress_tokens": "suppress_ids_begin"}  # transformers' key: CTranslate2's
# Settings of transformers' ``generate`` that our ``transcribe`` takes from its caller alone: values without effect.
USUAL = {
    **{"do_sample": (False,), "temperature": (0, 1), "num_beams": (1,), "length_penalty": (1,), "repetition_penalty": (1,)},
    **{"no_repeat_ngram_size": (0,), "bad_words_ids": ([],), "sequence_bias": (), "forced_eos_token_id": (), "min_length": (0,)},
    **{"min_new_tokens": (0,), "compression_ratio_threshold": (), "logprob_threshold": (), "no_speech_threshold": ()},
}


@dataclass(frozen=True)
class Told:
    """Content of the config files beside the weights.

    Attributes:
        config: content of ``config.json``, of transformers or CTranslate2.
        generation: content of ``generation_config.json``.
        has_generation: True if that file exists.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)
    has_generation: bool = False

    @classmethod
    def beside(cls, directory: Path | None) -> "Told":
        """Read both files of a directory; what is missing is empty.

        Raises:
            WeightsError: a file cannot be read, or a value has the wrong type.
        """
        if directory is None:
            return cls()
        path = directory / FILE
        return cls(read_optional(directory / CONFIG), read_generation_config(path), path.is_file())

    def get(self, key: str) -> Any:
        """Return a value; ``generation_config.json`` wins."""
        found = self.generation.get(key)
        return self.config.get(key) if found is None else found


def special_tokens(vocab_size: int, told: Told, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Return the keywords of a transcript processor that say which ids are special.

    The ids come from ``generation_config.json``, else from the tokenizer, else from the size of the vocabulary. A vocabulary that is not
    Whisper's has no languages and no timestamps, unless one of these says so. Tokens after the timestamps were added by a fine-tuning, or
    are rows that fill the table up to a round size.
    """
    names = {} if tokenizer is None else tokenizer.get_vocab(with_added_tokens=True)
    ends = told.get("eos_token_id"), told.get("no_timestamps_token_id")
    for end, last in (ends, (names.get("<|endoftext|>"), names.get("<|notimestamps|>"))):
        if isinstance(end, int) and isinstance(last, int) and 0 <= last - end - BETWEEN <= MOST_LANGUAGES and last < vocab_size:
            timestamps = min(vocab_size - last - 1, sum(_is_time(word) for word in names) or MOST_TIMESTAMPS)
            languages = last - end - BETWEEN
            own = {"num_languages": languages, "num_timestamps": timestamps}
            own["multilingual"] = languages > 0 and _is_multilingual(told, vocab_size, end)
            return own | ({"vocab_size": last + 1 + timestamps} if last + 1 + timestamps < vocab_size else {})
    if vocab_size >= ENGLISH_SIZE:
        languages = MOST_LANGUAGES if vocab_size > ENGLISH_SIZE + 1 else MOST_LANGUAGES - 1
        return {"num_languages": languages, "multilingual": vocab_size > ENGLISH_SIZE}
    return {"num_languages": 0, "num_timestamps": 0, "multilingual": False}


def _is_time(word: str) -> bool:
    return word.startswith("<|") and word.endswith("|>") and word[2:-2].replace(".", "", 1).isdigit()


def _is_multilingual(told: Told, vocab_size: int, end: int) -> bool:
    """Return True if texts begin with language and task; the English-only models have the tokens, but do not use them."""
    said = told.get("is_multilingual")
    languages = told.get("lang_to_id") or told.config.get("lang_ids")
    return bool(said if said is not None else end != ENGLISH_END and (languages or vocab_size > ENGLISH_SIZE))


def generation_of(told: Told, ids: SpecialIds, vocab_size: int, *, multilingual: bool) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the keyword ``generation`` of a transcript processor, and the settings that are not used, in words.

    Raises:
        ConfigError: a setting is not allowed, or contradicts the ids of the special tokens.
    """
    _refuse_other_ids(told, ids)
    languages = _languages(told, ids) if multilingual else {}
    found: dict[str, Any] = {key: list(own) for key in SUPPRESSED if (own := _suppressed(told, key)) is not None}
    language, task, unused = _language_and_task(told, ids, languages or ids.languages)
    if multilingual:
        found |= {"language": language, "task": task}
    elif task not in (None, "transcribe") or language not in (None, "en"):
        unused += (f"language {language!r}, task {task!r}: this model has no tokens for them",)
    if told.get("return_timestamps") is True:  # false stands in every published file and does not say that the model has no timestamps
        found["timestamps"] = True
    found["languages"] = None if languages == ids.languages or not multilingual else languages
    found |= {key: told.generation.get(key) for key in ("max_length", "max_new_tokens", "max_initial_timestamp_index")}
    unused += _beyond(found, vocab_size) + _not_taken(told)
    settings = Generation.of({key: value for key, value in found.items() if value is not None}).settings
    return settings, tuple(f"{FILE}: {words}" for words in unused)


def _suppressed(told: Told, key: str) -> list[int] | None:
    """Return a list of suppressed ids; None leaves openai-whisper's.

    A ``generation_config.json`` without the key suppresses nothing, as in transformers; -1 stands for openai-whisper's list.
    """
    other = SUPPRESSED[key]
    if key in told.generation:
        ids = told.generation[key] or []
    elif other in told.config:
        ids = told.config[other] or []
    else:
        ids = [] if told.has_generation else told.config.get(key)
    return None if ids is None or ids == [-1] else ids


def _beyond(found: dict[str, Any], vocab_size: int) -> tuple[str, ...]:
    """Drop suppressed ids that the vocabulary does not have; return them in words."""
    told = ()
    for key in SUPPRESSED:
        ids = found.get(key) or []
        if isinstance(ids, list) and (others := [each for each in ids if isinstance(each, int) and each >= vocab_size]):
            found[key] = [each for each in ids if each not in others]
            told += (f"{key} {others}, which the vocabulary does not have",)
    return told


def _languages(told: Told, ids: SpecialIds) -> dict[str, int]:
    """Return the ids of the language tokens by code; those of a fine-tuning may have languages of its own."""
    given = told.get("lang_to_id")
    return ids.languages if not given else {word.removeprefix("<|").removesuffix("|>"): number for word, number in given.items()}


def _language_and_task(told: Told, ids: SpecialIds, languages: Mapping[str, int]) -> tuple[str | None, str | None, tuple[str, ...]]:
    """Return language and task of the transcripts, from their keys or else from the older ``forced_decoder_ids``."""
    language, task = told.get("language"), told.get("task")
    if language is not None or task is not None:
        return None if language is None else language_code(language), task, ()
    forced = told.get("forced_decoder_ids") or []
    codes = {number: code for code, number in languages.items()}
    tasks = {ids.task(word): word for word in ("transcribe", "translate")}
    numbers = [number for _, number in forced]
    other = [pair for pair in forced if pair[1] is not None and pair[1] not in (*codes, *tasks, ids.task("notimestamps"))]
    unused = (f"forced_decoder_ids {other}, which are no language and no task",) if other else ()
    return next((codes[n] for n in numbers if n in codes), None), next((tasks[n] for n in numbers if n in tasks), None), unused


def _refuse_other_ids(told: Told, ids: SpecialIds) -> None:
    """Raise ConfigError if a config has other special tokens than those that a transcript is written with."""
    if told.generation.get("no_timestamps_token_id") is None:
        return
    expected = {"decoder_start_token_id": ids.sot, "prev_sot_token_id": ids.task("startofprev")}
    found = {key: told.generation.get(key) for key in expected}
    tasks = told.generation.get("task_to_id") or {}
    expected |= {f"task_to_id.{word}": ids.task(word) for word in ("transcribe", "translate")}
    found |= {f"task_to_id.{word}": tasks.get(word) for word in ("transcribe", "translate")}
    for key, value in found.items():
        if value is not None and value != expected[key]:
            raise ConfigError(
                f"{FILE}: {key}: got {value!r}; in a vocabulary with eos_token_id {ids.base} and {ids.num_languages} languages it is "
                f"{expected[key]}: correct the file"
            )


def _not_taken(told: Told) -> tuple[str, ...]:
    others = {key: value for key, value in told.generation.items() if key in USUAL and value is not None and value not in USUAL[key]}
    return (f"{', '.join(f'{key} {value}' for key, value in others.items())}; pass it to transcribe yourself",) if others else ()
