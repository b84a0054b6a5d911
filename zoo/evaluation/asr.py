"""Speech recognition (ASR): word and character error rates, over all recordings and by kind, and the worst recordings.

Paper: Radford et al. 2022 (Whisper, arXiv 2212.04356), section 4.4 and appendix C, for the normalisation of texts before words are
compared; see ``zoo.evaluation.measures.wer``. Recordings are decoded by the system's ``transcribe``, by default with its temperature
fallback. A recording without words in its reference (silence, noise) adds its inserted words to the errors of the corpus.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from zoo.errors import ConfigError, DataError, ItemError, name_choices
from zoo.evaluation.measures.requirements import checked_limits, refuse_model
from zoo.evaluation.measures.split_reader import Reading, Row
from zoo.evaluation.measures.wer import Compared, WordErrorCounter, summed
from zoo.evaluation.results.answers import sample_rate_of
from zoo.evaluation.results.asr_result import AsrResult, Recognition, audio_of
from zoo.registry import register
from zoo.types import Evaluation, Sample

MODES = {"strict": (False,), "short": (True,), "both": (False, True)}  # the keyword ``short`` of ``transcribe``
FOUND = "found"  # value of ``language`` that lets the model detect the language
DETECT = "auto"  # the word of ``transcribe`` for it; its None would take the language that came with the weights
Times = dict[bool | None, float]  # seconds of computation by the value of ``short``
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@register("evaluation")
class Asr(Evaluation):
    """Word and character error rates of a system that transcribes; the reference is the text of the sample.

    Args:
        normalise: normalisation of both texts before they are compared: "english", "basic", "characters" or "none"; see
            ``WordErrorCounter``.
        mode: "strict": windows of 30 s, as Whisper was trained. "short": windows as short as the clip, which are faster. "both": evaluate
            both, to compare their errors (metrics with the prefix ``short_``). None: as configured in the system's processor.
        language: code of the spoken language; "found" lets a multilingual model detect it for every recording. None: the language in the
            recording's data row; for rows without one, the language that came with the weights, or else "found".
        task: "transcribe", or "translate" if the reference texts are English translations. None: the task in the recording's data row;
            "transcribe" for rows without one.
        temperatures: sampling temperatures, tried in order until a transcript looks right; 0 is without sampling, one value decodes once.
        num_beams: width of the beam search; None decodes greedily.
        timestamps: let the model predict timestamps; None: if it was trained to.
        windows: "seek" or "fixed", as the keyword of ``transcribe``; None: its default.
        vad_filter: detector of speech, "auto", "silero", "energy" or "none", as the keyword of ``transcribe``; None: its default.
        initial_prompt: text that conditions the transcript of every recording.
        examples: number of recordings that the report shows, the worst first.
        batch_size: number of windows processed together.
        limit: maximum number of items, spread over the split; None uses all.
        seed: random seed of sampling at temperatures above 0.

    Raises:
        ConfigError: an unknown option value, a number out of its range, or a library is not installed.
    """

    shares_items = True
    monitor = "word_accuracy"  # the metric that selects the best checkpoint if training.monitor is not set

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
        windows: str | None = None,
        vad_filter: str | None = None,
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
        self.compare, self.mode, self.examples, self.batch_size, self.limit = WordErrorCounter(normalise), mode, examples, batch_size, limit
        self.language, self.task = language, task
        self.options: dict[str, Any] = {"temperatures": tried, "num_beams": num_beams}  # keywords of ``transcribe``
        self.options |= {"timestamps": timestamps, "initial_prompt": initial_prompt, "batch_size": batch_size, "seed": seed}
        self.options |= {key: value for key, value in (("windows", windows), ("vad_filter", vad_filter)) if value is not None}

    def check(self, model: Any, source: Any) -> None:
        """Raise ConfigError if the model cannot transcribe, or if the source lacks recordings or texts."""
        refuse_model(model, ("transcribe",), "asr")
        missing = [modality for modality in ("audio", "text") if modality not in source.modalities]
        if missing:
            raise ConfigError(
                f"evaluation: 'asr' needs recordings with texts; the source gives {', '.join(source.modalities)}: choose data=speech"
            )

    @torch.inference_mode()
    def __call__(self, model: Any, source: Any, split: str, *, advance: Callable[[int], None] = lambda items: None) -> AsrResult:
        """Transcribe the recordings of one split and compute the errors.

        Args:
            advance: progress callback; receives the number of recordings just finished.

        Raises:
            ConfigError: this evaluation cannot use the model or the source.
            DataError: a recording cannot be used, or no reference text has a word after normalisation.
        """
        self.check(model, source)
        rate_hz, samples, found, indices = sample_rate_of(model), source.split(split), [], []
        reading = Reading(samples, limit=self.limit, batch_size=self.batch_size, advance=advance)
        times: Times = dict.fromkeys((None,) if self.mode is None else MODES[self.mode], 0.0)
        for rows_done, seconds in reading(lambda rows: self._transcribe_rows(model, rows, rate_hz, list(times))):
            for short, taken in seconds.items():
                times[short] += taken
            found += [row for row, _ in rows_done]
            indices += [index for _, index in rows_done]
        for place in sorted(range(len(found)), key=lambda place: -found[place].badness)[: self.examples]:  # the page plays these
            found[place].audio = audio_of(samples.sample(indices[place]), rate_hz)
        return self._result(found, reading.details, times, rate_hz)

    def _transcribe_rows(
        self, model: Any, numbered: Sequence[Row], rate: int, modes: Sequence[bool | None]
    ) -> tuple[list[tuple[Recognition, int]], Times]:
        """Transcribe recordings and compare them with their references.

        Returns:
            The transcripts, without recordings, with the indices of their items; and the seconds of computation by mode.
        """
        chunk = [sample for _, sample in numbered]
        audio = [audio_of(sample, rate) for sample in chunk]
        by_mode, times = {}, {}
        for short in modes:
            start = time.perf_counter()
            by_mode[short] = self._transcribe(model, chunk, audio, short)
            times[short] = time.perf_counter() - start
        rows = []
        for position, (index, sample) in enumerate(numbered):
            compared = [self.compare(sample.inputs["text"], transcripts[position].text) for transcripts in by_mode.values()]
            first = next(iter(by_mode.values()))[position]
            rows.append((Recognition(sample.id, sample.kind, None, first.duration_s, first.text.strip(), *compared), index))
        return rows, times

    def _transcribe(self, model: Any, chunk: list[Sample], audio: list[Any], short: bool | None) -> list[Any]:
        """Return transcripts in the order of ``chunk``; recordings of equal language and task share one call."""
        groups: dict[tuple[str | None, str], list[int]] = {}
        for position, sample in enumerate(chunk):
            groups.setdefault(self._language_and_task(sample), []).append(position)
        found = {}
        for (language, task), positions in groups.items():
            try:
                transcripts = model.transcribe(
                    [audio[position] for position in positions], short=short, language=language, task=task, **self.options
                )
            except ConfigError as fault:
                if (self.language and self.task) or not {"language", "task"} & set(chunk[positions[0]].inputs):
                    raise  # the options are wrong, not the row
                raise ItemError(
                    f"item {chunk[positions[0]].id}: its row says language {language!r}, task {task!r}, but {fault}; correct the row, or "
                    "set evaluation.language and evaluation.task for all rows",
                    "language",
                ) from fault
            found |= dict(zip(positions, transcripts, strict=True))
        return [found[position] for position in range(len(chunk))]

    def _language_and_task(self, sample: Sample) -> tuple[str | None, str]:
        """Return language and task of a recording; None as language takes that of the weights or detects it."""
        language = self.language or sample.inputs.get("language")
        return DETECT if language == FOUND else language, self.task or sample.inputs.get("task") or "transcribe"

    def _result(self, found: list[Recognition], left_out: dict[str, Any], times: Times, rate: int) -> AsrResult:
        if not sum(row.compared.words.units for row in found):
            raise DataError(
                f"evaluation: no reference text of the split has a word left after normalisation (normalise={self.compare.normalise}); "
                "give other texts, or set evaluation.normalise=none"
            )
        metrics = figures([row.compared for row in found])
        others = [row.other for row in found if row.other is not None]
        if others:
            metrics |= {f"short_{name}": value for name, value in figures(others).items()}
            metrics["short_equal"] = sum(row.other.heard == row.compared.heard for row in found if row.other is not None) / len(found)
        by_kind = {}
        for kind in sorted({row.kind for row in found}):
            chosen = [row.compared for row in found if row.kind == kind]
            by_kind[kind] = {"items": float(len(chosen)), **_figures_of_kind(chosen)}
        seconds = {("short_" if short and others else "") + "seconds": round(taken, 2) for short, taken in times.items()}
        details = self._details(found) | {"audio_seconds": round(sum(row.seconds for row in found), 2), **seconds} | left_out
        return AsrResult(metrics, found, details, by_kind if len(by_kind) > 1 else {}, self.examples, rate)

    def _details(self, found: list[Recognition]) -> dict[str, Any]:
        """Return the settings that a reader needs to interpret the metrics; unset ones are left out."""
        words, characters = summed([row.compared for row in found])
        details: dict[str, Any] = {"normalise": self.compare.normalise, "words": words.units, "errors": words.errors}
        details |= {"characters": characters.units, "temperatures": list(self.options["temperatures"])}
        silent = [row.compared.words for row in found if not row.compared.words.units]
        if silent:  # their words count as insertions in the corpus
            details |= {"empty_references": len(silent), "words_in_empty_references": sum(edits.insertions for edits in silent)}
        further = {"mode": self.mode, "language": self.language, "task": self.task}
        further |= {name: self.options.get(name) for name in ("timestamps", "num_beams", "initial_prompt", "windows", "vad_filter")}
        return details | {name: value for name, value in further.items() if value is not None}


def _figures_of_kind(several: Sequence[Compared]) -> dict[str, float]:
    """Return the metrics of one kind; without reference words there is no rate, only the number of inserted words."""
    words, _ = summed(several)
    return figures(several) if words.units else {"inserted_words": float(words.insertions)}


def figures(several: Sequence[Compared]) -> dict[str, float]:
    """Return the metrics of a corpus: error rates of words and characters, rates of each kind of word error, share of exact matches."""
    words, characters = summed(several)
    found = {"wer": words.rate, "cer": characters.rate, "word_accuracy": 1 - words.rate}
    found |= {name: words.share(getattr(words, name)) for name in ("substitutions", "deletions", "insertions")}
    return found | {"exact_match": sum(not each.words.errors for each in several) / len(several)}
