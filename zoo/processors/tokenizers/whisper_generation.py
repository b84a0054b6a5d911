"""Decoding settings that belong to the weights of a Whisper, as transformers keeps them in ``generation_config.json``."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from zoo.errors import ConfigError, name_choices
from zoo.processors.tokenizers.whisper_languages import language_code


@dataclass(frozen=True)
class Generation:
    """Settings that decoding uses unless the caller gives others; None means that the weights came without this setting.

    Attributes:
        language: code of the language that the weights were fine-tuned for; None detects it.
        task: "transcribe" or "translate".
        timestamps: True if texts have timestamps.
        suppress_tokens: ids that are never generated; an empty list allows all.
        begin_suppress_tokens: ids that do not begin a text; an empty list allows all.
        languages: ids of the language tokens by code, for weights whose languages are not those of the published models.
        max_length: maximum number of tokens of a transcript, prompt included.
        max_new_tokens: maximum number of tokens of a text.
        max_initial_timestamp_index: largest first timestamp, in steps of 20 ms.
    """

    language: str | None = None
    task: str | None = None
    timestamps: bool | None = None
    suppress_tokens: tuple[int, ...] | None = None
    begin_suppress_tokens: tuple[int, ...] | None = None
    languages: Mapping[str, int] | None = None
    max_length: int | None = None
    max_new_tokens: int | None = None
    max_initial_timestamp_index: int | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any] | None) -> "Generation":
        """Return the settings of a mapping, as ``processor.json`` has it.

        Raises:
            ConfigError: a key is unknown, or a value has the wrong type.
        """
        given: dict[str, Any] = {key: value for key, value in (settings or {}).items() if value is not None}
        for key, value in given.items():
            if key not in _KINDS:
                raise ConfigError(f"generation: there is no key {key!r}; {name_choices(str(key), tuple(_KINDS))}")
            is_legal, legal = _KINDS[key]
            if not is_legal(value):
                raise ConfigError(f"generation.{key}: {value!r}; allowed is {legal}")
        if "language" in given:
            given["language"] = language_code(given["language"])
        for key in ("suppress_tokens", "begin_suppress_tokens"):
            if key in given:
                given[key] = tuple(given[key])
        return cls(**given)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that are known, as plain values."""
        found = {key: value for key, value in asdict(self).items() if value is not None}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_ids(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_id, value))


def _are_languages(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(word, str) for word in value) and all(map(_is_id, value.values()))


_TEXT, _NUMBER = (lambda value: isinstance(value, str), "a text"), (_is_id, "a whole number of 0 or more")
_IDS = (_are_ids, "a list of token ids")
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("language", "task"), _TEXT),
    "timestamps": (lambda value: isinstance(value, bool), "true or false"),
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens"), _IDS),
    "languages": (_are_languages, "token ids by language code"),
    **dict.fromkeys(("max_length", "max_new_tokens", "max_initial_timestamp_index"), _NUMBER),
}
