"""Settings of transcription: openai-whisper's options of ``transcribe`` and of decoding, validated once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zoo.errors import ConfigError, name_choices
from zoo.processors.tokenizers.whisper_languages import language_code

TASKS = ("transcribe", "translate")
WINDOWS = ("seek", "fixed")
VAD_FILTERS = ("auto", "silero", "energy", "none")


@dataclass(frozen=True)
class Settings:
    """Settings of transcription; the defaults are those of openai-whisper's ``transcribe`` in Python.

    Attributes:
        language: code, English name or tag of the language ("de", "German", "de-AT"); "auto" detects it from the first 30 s. None takes
            the language that came with the weights (``generation_config.json``), or else detects it.
        task: "transcribe", or "translate" into English (multilingual models only). None takes the task that came with the weights, or
            else "transcribe".
        temperatures: temperatures to try in order; the next one is tried if the text fails a threshold below. Temperature 0 decodes
            greedily, or by beam search with ``num_beams``; above 0, the best of ``best_of`` sampled texts is taken.
        num_beams: number of beams at temperature 0; None decodes greedily.
        best_of: number of sampled texts at temperatures above 0; None means 1.
        patience: beam search ends after ``num_beams * patience`` finished texts (Kasai et al. 2022, arXiv 2204.05424); None means 1.
        length_penalty: exponent alpha of the length normalisation of beams and sampled texts (Wu et al. 2016, arXiv 1609.08144,
            equation 14); None compares mean log-probabilities per token.
        compression_ratio_threshold: a text with a higher compression ratio (bytes / zlib bytes) repeats itself and fails; None disables
            this test.
        log_probability_threshold: a text with a lower mean log-probability per token fails; None disables this test.
        no_speech_threshold: a window is silent if its no-speech probability is higher and its mean log-probability is not above
            ``log_probability_threshold``; None disables this test.
        timestamps: generate timestamps; without them each window is one segment. None follows the model's training.
        word_timestamps: compute the times of words from the decoder's cross-attention.
        suppress_tokens: ids that are never generated; -1 among them stands for openai-whisper's list of special tokens and non-speech
            symbols, and an empty list allows all. None takes the list that came with the weights, or else [-1].
        begin_suppress_tokens: ids that do not begin a text; an empty list allows all. None takes the list that came with the weights, or
            else a space and the end symbol.
        initial_prompt: text used as previous text of the first window, for example to give names or spelling.
        condition_on_previous_text: use the text of previous windows as prompt of the next one.
        windows: "seek" begins each window at the end of the last complete segment; "fixed" first cuts the recording at pauses into
            sections of at most 2 minutes, so that windows of one recording form a batch; it is faster on long recordings.
        vad_filter: detector of speech (voice activity): pauses of 2 s and more are left out. "silero" is the model of the package
            silero-vad, "energy" a rule by loudness, "none" (or False) transcribes everything; "auto" (or True) is "silero" if it is
            installed, else "energy".
        short: encode only the recorded part of a window and little silence instead of 30 s, which is faster but changes results. None
            follows the model's processor.
        seed: random seed of the sampling; a window's random numbers depend only on the seed and the window's place.

    Raises:
        ConfigError: a value is not allowed or would have no effect.
    """

    language: str | None = None
    task: str | None = None
    temperatures: Sequence[float] | float = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    num_beams: int | None = None
    best_of: int | None = None
    patience: float | None = None
    length_penalty: float | None = None
    compression_ratio_threshold: float | None = 2.4
    log_probability_threshold: float | None = -1.0
    no_speech_threshold: float | None = 0.6
    timestamps: bool | None = None
    word_timestamps: bool = False
    suppress_tokens: Sequence[int] | None = None
    begin_suppress_tokens: Sequence[int] | None = None
    initial_prompt: str | None = None
    condition_on_previous_text: bool = True
    windows: str = "seek"
    vad_filter: str | bool = "auto"
    short: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.language is not None:
            object.__setattr__(self, "language", language_code(self.language))
        if isinstance(self.vad_filter, bool):  # as in faster-whisper
            object.__setattr__(self, "vad_filter", "auto" if self.vad_filter else "none")
        for key, legal in (("task", (None, *TASKS)), ("windows", WINDOWS), ("vad_filter", VAD_FILTERS)):
            if (value := getattr(self, key)) not in legal:
                raise ConfigError(f"{key}: there is no {value!r}; {name_choices(str(value), [word for word in legal if word])}")
        tries = self.tries
        _refuse("temperatures", tries, bool(tries) and all(_is_number(t) and t >= 0 for t in tries), "one number of 0 or more, or several")
        for key in ("num_beams", "best_of"):
            value = getattr(self, key)
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            _refuse(key, value, value is None or whole, "1 or more")
        _refuse("patience", self.patience, self.patience is None or (_is_number(self.patience) and self.patience > 0), "above 0")
        alpha = self.length_penalty
        _refuse("length_penalty", alpha, alpha is None or (_is_number(alpha) and 0 <= alpha <= 1), "0 to 1")
        for key in ("compression_ratio_threshold", "log_probability_threshold", "no_speech_threshold"):
            _refuse(
                key,
                getattr(self, key),
                getattr(self, key) is None or _is_number(getattr(self, key)),
                "a number, or null to disable the test",
            )
        for key, least in (("suppress_tokens", -1), ("begin_suppress_tokens", 0)):
            ids = getattr(self, key)
            right = ids is None or (isinstance(ids, list | tuple) and all(type(each) is int and each >= least for each in ids))
            _refuse(key, ids, right, f"a list of token ids{', in which -1 stands for the usual ones' if least < 0 else ''}, or null")
        seed = self.seed
        _refuse("seed", seed, isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0, "0 or more")
        self._refuse_without_effect()

    @property
    def tries(self) -> tuple[float, ...]:
        """Temperatures to try, in order."""
        several = self.temperatures
        return (float(several),) if isinstance(several, int | float) else tuple(float(t) for t in several)

    def _refuse_without_effect(self) -> None:
        if self.patience is not None and self.num_beams is None:
            raise ConfigError(f"patience: {self.patience} has no effect without beams; set num_beams, or leave patience out")
        if self.num_beams is not None and 0 not in self.tries:
            raise ConfigError(
                f"num_beams: {self.num_beams} has no effect at temperatures {list(self.tries)}; add temperature 0, or leave num_beams out"
            )
        if self.best_of is not None and not any(self.tries):
            raise ConfigError(f"best_of: {self.best_of} has no effect at temperature 0; add a temperature above 0, or set num_beams")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _refuse(key: str, value: Any, is_legal: bool, legal: str) -> None:
    if not is_legal:
        raise ConfigError(f"{key}: {value!r}; allowed is {legal}")
