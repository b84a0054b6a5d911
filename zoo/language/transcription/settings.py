"""How a recording is transcribed: what openai-whisper calls the options of ``transcribe`` and of decoding, checked once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zoo.errors import ConfigError, name_choices

TASKS = ("transcribe", "translate")
WINDOWS = ("seek", "fixed")


@dataclass(frozen=True)
class Settings:
    """Defaults are those of openai-whisper's ``transcribe`` in Python.

    Attributes:
        language: its code; None lets the model find it by the first 30 s.
        task: "transcribe", or "translate" into English, which multilingual models can.
        temperatures: the first is tried, and the next where the text fails one of the thresholds below. At 0 the likeliest token is
            taken, or the likeliest of ``num_beams`` texts; above 0 tokens are drawn, of ``best_of`` texts the likeliest is taken.
        patience: a window ends when ``num_beams * patience`` texts have ended (Kasai et al. 2022, arXiv 2204.05424).
        length_penalty: alpha of Wu et al. 2016 (arXiv 1609.08144, equation 14), by which beams and drawn texts are compared; None
            compares log-probabilities per token.
        compression_ratio_threshold: a text that is compressed more repeats itself; None asks nothing. Likewise the next two.
        log_probability_threshold: a text whose tokens are less probable on average fails.
        no_speech_threshold: a window whose first token says so, and whose text fails the threshold before this one, is silence.
        timestamps: without them each window is one segment; None: as the model was trained.
        word_timestamps: find when each word was said, by what the decoder attends to.
        initial_prompt: stands before the first window as if it had been said: names, spelling.
        condition_on_previous_text: what was said before a window stands before it, too.
        windows: "seek": one begins where the last whole segment of the one before ends; "fixed": every 30 s, none knows of the
            others, and those of one recording are decoded together.
        short: the encoder is shown what there is of a window and little silence, not 30 s: faster, with other results; None: as the model's
            processor shows recordings.
        seed: of what is drawn; a window's draws depend on nothing but it and the window's place.

    Raises:
        ConfigError: a value that is not allowed, or one that would have no effect.
    """

    language: str | None = None
    task: str = "transcribe"
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
    initial_prompt: str | None = None
    condition_on_previous_text: bool = True
    windows: str = "seek"
    short: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for key, legal in (("task", TASKS), ("windows", WINDOWS)):
            if (value := getattr(self, key)) not in legal:
                raise ConfigError(f"{key}: there is no {value!r}; {name_choices(str(value), legal)}")
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
            _refuse(key, getattr(self, key), getattr(self, key) is None or _is_number(getattr(self, key)), "a number, or none at all")
        seed = self.seed
        _refuse("seed", seed, isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0, "0 or more")
        self._refuse_without_effect()

    @property
    def tries(self) -> tuple[float, ...]:
        """The temperatures, one after the other."""
        several = self.temperatures
        return (float(several),) if isinstance(several, int | float) else tuple(float(t) for t in several)

    def _refuse_without_effect(self) -> None:
        if self.patience is not None and self.num_beams is None:
            raise ConfigError(f"patience: {self.patience} has no effect without beams; give num_beams, or leave it out")
        if self.num_beams is not None and 0 not in self.tries:
            raise ConfigError(f"num_beams: {self.num_beams} has no effect at temperatures {list(self.tries)}; they need a 0")
        if self.best_of is not None and not any(self.tries):
            raise ConfigError(f"best_of: {self.best_of} has no effect at temperature 0; give one above 0, or num_beams")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _refuse(key: str, value: Any, is_legal: bool, legal: str) -> None:
    if not is_legal:
        raise ConfigError(f"{key}: {value!r}; allowed is {legal}")
