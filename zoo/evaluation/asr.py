"""Speech that is heard, against what was said: word and character errors, in all and by kind of recording, and the worst of them.

Paper: Radford et al. 2022 (Whisper, arXiv 2212.04356), section 4.4 and appendix C, for the normalisation of texts before words are
compared; see ``zoo.evaluation.measures.wer``. The decoding is that of ``transcribe``, with its fallback unless temperatures say otherwise.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from zoo.errors import ConfigError, DataError, ItemError, name_choices
from zoo.evaluation.measures.split_reader import Reading
from zoo.evaluation.measures.wer import Compared, WordJudge, summed
from zoo.evaluation.results.accuracy import checked_limits, refuse_model
from zoo.evaluation.results.answers import sample_rate_of
from zoo.evaluation.results.asr_result import Heard, HeardResult, audio_of, forget
from zoo.registry import register
from zoo.types import Sample

MODES = {"strict": (False,), "short": (True,), "both": (False, True)}  # the keyword ``short`` of ``transcribe``
FOUND = "found"  # the language is what the model takes it for
Times = dict[bool | None, float]  # seconds that each of these ways took
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@register("evaluation")
class Asr:
    """Word and character error rates of a system that transcribes; what a recording holds is its sample's text.

    Args:
        normalise: how texts are written before they are compared: "english", "basic", "characters" or "none"; see ``WordJudge``.
        mode: "strict" windows of 30 s, as Whisper was trained; "short" ones, which cost what a clip lasts; "both", to see what the short
            ones do to the errors (``short_...`` among the figures); None: as the system's processor shows recordings.
        language: what is spoken, by code; "found" lets a multilingual model find out for every recording; None: as a recording's row of
            data says, and where it does not, as "found".
        task: "transcribe", or "translate" where the texts are English; None: as a recording's row says, else "transcribe".
        temperatures: 0 decodes once; further ones decode again what looks wrong.
        num_beams: None takes the likeliest token each time.
        timestamps: let the model write them; None: if it was trained to.
        initial_prompt: shown before every recording.
        examples: recordings that the report shows, the worst first.
        batch_size: windows at once.
        limit: only so many items, spread over the split; None takes all.
        seed: of temperatures above 0.

    Raises:
        ConfigError: an unknown word, a number out of its range, or a library that is not installed.
    """

    monitor = "word_accuracy"  # what training watches, where nothing else is said

    def __init__(
        self,
        *,
        normalise: str = "english",
        mode: str | None = None,
        language: str | None = None,
        task: str | None = None,
        temperatures: Sequence[float] | float = TEMPERATURES,
        num_beams: int | None = None,
        timestamps: bool | None = None,
        initial_prompt: str | None = None,
        examples: int = 60,
        batch_size: int = 8,
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        if mode is not None and mode not in MODES:
            raise ConfigError(f"mode: there is no {mode!r}; {name_choices(mode, MODES)}")
        tried = (temperatures,) if isinstance(temperatures, float | int) else tuple(temperatures)
        if not tried or min(tried) < 0:
            raise ConfigError(f"temperatures: {temperatures!r}; allowed is one number of 0 or more, or several, for example [0.0]")
        if examples < 0:
            raise ConfigError(f"examples: {examples}; allowed is 0 or more")
        checked_limits({"batch_size": batch_size, "limit": limit, "num_beams": num_beams})
        self.compare, self.mode, self.examples, self.batch_size, self.limit = WordJudge(normalise), mode, examples, batch_size, limit
        self.language, self.task = language, task
        self.words: dict[str, Any] = {"temperatures": tried, "num_beams": num_beams}
        self.words |= {"timestamps": timestamps, "initial_prompt": initial_prompt, "batch_size": batch_size, "seed": seed}

    def check(self, model: Any, source: Any) -> None:
        """Raise ConfigError for a model that does not transcribe, or a source without recordings and texts."""
        refuse_model(model, ("transcribe",), "asr")
        missing = [modality for modality in ("audio", "text") if modality not in source.modalities]
        if missing:
            raise ConfigError(
                f"evaluation: 'asr' needs recordings with texts; the source gives {', '.join(source.modalities)}: choose data=speech"
            )

    @torch.inference_mode()
    def __call__(self, model: Any, source: Any, split: str, *, advance: Callable[[int], None] = lambda items: None) -> HeardResult:
        """Let a system transcribe one split.

        Args:
            advance: told how many more recordings are done.

        Raises:
            ConfigError: the model or the source cannot be evaluated so.
            DataError: a recording cannot be used, or no text holds a word.
        """
        self.check(model, source)
        rate, found = sample_rate_of(model), []
        reading = Reading(source.split(split), limit=self.limit, batch_size=self.batch_size, advance=advance)
        times: Times = dict.fromkeys((None,) if self.mode is None else MODES[self.mode], 0.0)
        for heard in reading(lambda rows: self._heard(model, [sample for _, sample in rows], rate, times)):
            found += heard
            forget(found, self.examples)
        return self._result(found, reading.details, times, rate)

    def _heard(self, model: Any, chunk: list[Sample], rate: int, times: Times) -> list[Heard]:
        """What the model hears of each recording; the seconds that it took are added to ``times``."""
        audio = [audio_of(sample, rate) for sample in chunk]
        told, took = {}, {}
        for short in times:
            start = time.perf_counter()
            told[short] = self._transcribed(model, chunk, audio, short)
            took[short] = time.perf_counter() - start
        rows = []
        for place, (sample, sound) in enumerate(zip(chunk, audio, strict=True)):
            compared = [self.compare(sample.inputs["text"], transcripts[place].text) for transcripts in told.values()]
            first = next(iter(told.values()))[place]
            rows.append(Heard(sample.id, sample.kind, sound, first.duration_s, first.text.strip(), *compared))
        for short, seconds in took.items():
            times[short] += seconds
        return rows

    def _transcribed(self, model: Any, chunk: list[Sample], audio: list[Any], short: bool | None) -> list[Any]:
        """Transcripts in the chunk's order, of recordings in one language and of one task together."""
        alike: dict[tuple[str | None, str], list[int]] = {}
        for place, sample in enumerate(chunk):
            alike.setdefault(self._spoken(sample), []).append(place)
        found = {}
        for (language, task), places in alike.items():
            try:
                heard = model.transcribe([audio[place] for place in places], short=short, language=language, task=task, **self.words)
            except ConfigError as fault:
                if (self.language and self.task) or not {"language", "task"} & set(chunk[places[0]].inputs):
                    raise
                raise ItemError(
                    f"item {chunk[places[0]].id}: its row says language {language!r}, task {task!r}, and {fault}; correct the row, or set "
                    "evaluation.language and evaluation.task for all",
                    "language",
                ) from fault
            found |= dict(zip(places, heard, strict=True))
        return [found[place] for place in range(len(chunk))]

    def _spoken(self, sample: Sample) -> tuple[str | None, str]:
        """The language, or None where the model finds it, and the task of a recording."""
        language = self.language or sample.inputs.get("language")
        return None if language == FOUND else language, self.task or sample.inputs.get("task") or "transcribe"

    def _result(self, found: list[Heard], left_out: dict[str, Any], times: Times, rate: int) -> HeardResult:
        if not sum(row.compared.words.units for row in found):
            raise DataError(f"evaluation: no text of the split holds a word (normalise={self.compare.normalise}); give other texts")
        metrics = figures([row.compared for row in found])
        others = [row.other for row in found if row.other is not None]
        if others:
            metrics |= {f"short_{name}": value for name, value in figures(others).items()}
            metrics["short_equal"] = sum(row.other.heard == row.compared.heard for row in found if row.other is not None) / len(found)
        by_kind = {}
        for kind in sorted({row.kind for row in found}):
            chosen = [row.compared for row in found if row.kind == kind]
            by_kind[kind] = {"items": float(len(chosen)), **figures(chosen)}
        seconds = {("short_" if short and others else "") + "seconds": round(taken, 2) for short, taken in times.items()}
        details = self._details(found) | {"audio_seconds": round(sum(row.seconds for row in found), 2), **seconds} | left_out
        return HeardResult(metrics, found, details, by_kind if len(by_kind) > 1 else {}, self.examples, rate)

    def _details(self, found: list[Heard]) -> dict[str, Any]:
        """What a reader of the figures must know of how they were made."""
        words, characters = summed([row.compared for row in found])
        told: dict[str, Any] = {"normalise": self.compare.normalise, "words": words.units, "errors": words.errors}
        told |= {"characters": characters.units, "temperatures": list(self.words["temperatures"])}
        further = {"mode": self.mode, "language": self.language, "task": self.task}
        further |= {name: self.words[name] for name in ("timestamps", "num_beams", "initial_prompt")}
        return told | {name: value for name, value in further.items() if value is not None}


def figures(several: Sequence[Compared]) -> dict[str, float]:
    """Of a corpus: word and character error rates, the three kinds of word errors, and the share of texts without any."""
    words, characters = summed(several)
    found = {"wer": words.rate, "cer": characters.rate, "word_accuracy": 1 - words.rate}
    found |= {name: words.share(getattr(words, name)) for name in ("substitutions", "deletions", "insertions")}
    return found | {"exact_match": sum(not each.words.errors for each in several) / len(several)}
