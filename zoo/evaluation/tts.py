"""Speech synthesis (TTS): faults of the alignment, stop reasons, distance from recordings, and word errors of a speech recogniser.

Mel-cepstral distortion: Kubichek 1993 ("Mel-cepstral distance measure for objective speech quality assessment"), over the best path of
dynamic time warping (Weiss et al. 2021, Wave-Tacotron, arXiv 2011.03568, section 4.2, "MCD with DTW", 13 coefficients). For word errors
another system, the speech recognition model, transcribes the synthesised speech. Its errors on the recordings of the corpus are reported
for comparison, because that model itself makes errors.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zoo.data.loader import spread
from zoo.errors import ConfigError, DataError
from zoo.evaluation.measures.requirements import checked_limits
from zoo.evaluation.measures.shares import of_all_ranks, own_part
from zoo.evaluation.measures.wer import WordErrorCounter
from zoo.evaluation.results.answers import sample_rate_of
from zoo.evaluation.results.asr_result import audio_of
from zoo.evaluation.results.html_report import draw_speech
from zoo.processors.media.audio_file import resample
from zoo.registry import register
from zoo.types import MELS, STOP_TOKEN, Evaluation, Result, Sample, Speech, verbs_of

EXAMPLES = 6  # utterances whose alignments are drawn
COEFFICIENTS = 13  # after the first one, which is loudness and does not count
DECIBEL = 10 / math.log(10) * math.sqrt(2)  # from the Euclidean distance of cepstra in nats to dB (Kubichek 1993)

# Facts of the utterances of a batch, those of them that are drawn, and the items that cannot be used.
Chunk = tuple[list[dict[str, Any]], list[Speech], list[dict[str, str]]]


@dataclass
class TtsResult(Result):
    """Metrics of one split and the utterances that they are computed from.

    Attributes:
        metrics: ``aligned`` (share of utterances without an alignment fault), ``stopped`` (share that ended by the stop token),
            ``diagonality`` and ``focus`` of the attention; against the recording ``mel_cepstral_distortion`` in dB and
            ``length_ratio``. With ``asr_model`` also ``wer`` and ``cer`` of the synthesised speech, ``recorded_wer`` and ``recorded_cer``
            of the recordings.
        utterances: one dict of facts for each utterance; a line of ``utterances.jsonl``.
        examples: the first utterances, whose alignments are drawn.
        left_out: id and reason of items whose text or recording the model cannot use.
    """

    metrics: dict[str, float]
    num_items: int
    details: dict[str, Any] = field(default_factory=dict)
    utterances: list[dict[str, Any]] = field(default_factory=list)
    examples: list[Speech] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)
    numbers = frozenset(("mel_cepstral_distortion", "length_ratio"))  # names of metrics that are not shares

    @property
    def title(self) -> str:
        """A short description of the evaluated data."""
        return f"{self.num_items} texts"

    @property
    def facts(self) -> dict[str, Any]:
        """Further entries of ``metrics.json``, beside metrics and details."""
        return {"failed": [each for each in self.utterances if each["faults"]], "left_out": self.left_out}

    @property
    def tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Tables for the terminal, each with a title, column names and rows of strings."""
        failed = [[each["text"][:60], each["stop_reason"], "; ".join(each["faults"])] for each in self.utterances if each["faults"]]
        found = [("failed alignments", ["text", "stopped by", "fault"], failed[:20])] if failed else []
        if self.left_out:
            found.append(("left out", ["item", "reason"], [[each["id"], each["reason"]] for each in self.left_out[:20]]))
        wrong = [
            [each["text"][:60], each["heard"][:60], each.get("recorded_heard", "")[:60]] for each in self.utterances if each.get("errors")
        ]
        columns = ["text", "transcript", "transcript of the recording"]
        return found + ([("transcribed with errors", columns, wrong[:20])] if wrong else [])

    def draw(self, folder: Path) -> str:
        """Draw the first alignments and write one line of JSON for each utterance into ``folder``; return the file name of the picture."""
        lines = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in self.utterances)
        (folder / "utterances.jsonl").write_text(lines, encoding="utf-8")
        draw_speech(self.examples, folder / "alignments.png")
        return "alignments.png"


@register("evaluation")
class Tts(Evaluation):
    """Quality of the speech that a system synthesises from the texts of a split.

    Args:
        batch_size: number of texts processed together.
        limit: maximum number of texts, spread over the split; None uses all.
        max_seconds: maximum duration of an utterance.
        seed: random seed of synthesis and of the ``asr_model``'s transcription.
        asr_model: a system that transcribes the synthesised speech (``zoo evaluate`` accepts its directory); None skips the word errors.
        language: code of the language that ``asr_model`` expects; None lets a multilingual model detect it.
        normalise: normalisation of texts before words are compared; see ``WordErrorCounter``.

    Raises:
        ConfigError: a number that is not positive, an unknown word, or a library is not installed.
    """

    shares_items = True
    monitor = "aligned"  # the metric that selects the best checkpoint if training.monitor is not set
    renamed = {"judge": "asr_model"}  # the old name, until the next release

    def __init__(
        self,
        *,
        batch_size: int = 32,
        limit: int | None = None,
        max_seconds: float = 15.0,
        seed: int = 0,
        asr_model: Any = None,
        language: str | None = None,
        normalise: str = "english",
    ) -> None:
        checked_limits({"batch_size": batch_size, "limit": limit})
        if max_seconds <= 0:
            raise ConfigError(f"max_seconds: {max_seconds}; allowed is above 0")
        self.batch_size, self.limit, self.max_seconds, self.seed = batch_size, limit, max_seconds, seed
        self.asr_model, self.language, self.compare = asr_model, language, None if asr_model is None else WordErrorCounter(normalise)

    def check(self, model: Any, source: Any) -> None:
        """Raise ConfigError if the model cannot synthesise speech, the source has no texts, or ``asr_model`` cannot transcribe."""
        if "synthesize" not in verbs_of(model):
            raise ConfigError(
                f"evaluation: 'tts' needs a head that synthesises speech (tacotron, tacotron2); this {type(model).__name__} has none"
            )
        if "text" not in source.modalities:
            raise ConfigError(f"evaluation: 'tts' needs texts; the source gives {', '.join(source.modalities)}")
        if self.asr_model is not None and "transcribe" not in verbs_of(self.asr_model):
            got = (
                f"{self.asr_model!r} is a name: load it first (zoo.load)"
                if isinstance(self.asr_model, str)
                else type(self.asr_model).__name__
            )
            raise ConfigError(f"evaluation.asr_model: must be a system with the verb transcribe (whisper); got {got}")

    @torch.inference_mode()
    def __call__(self, model: Any, source: Any, split: str, *, advance: Callable[[int], None] = lambda items: None) -> TtsResult:
        """Evaluate a system on one split.

        Args:
            advance: progress callback; receives the number of items just finished.

        Raises:
            ConfigError: this evaluation cannot use the model or the source.
            DataError: the split is empty, or none of its items can be used.
        """
        self.check(model, source)
        samples = source.split(split)
        chosen = spread(len(samples), self.limit)
        if not len(chosen):
            raise DataError(f"evaluation: the split {split!r} is empty; choose another with data.test_split=...")
        own = chosen[own_part(len(chosen), self.batch_size)]
        chunks = of_all_ranks(lambda: list(self._spoken(model, samples, own, advance)))
        found, speeches, left_out = ([each for chunk in chunks for each in chunk[place]] for place in range(3))
        if not found:
            raise DataError(f"evaluation: no item of the split {split!r} can be used; the first: {left_out[0]['reason']}")
        return _summed(found, speeches[:EXAMPLES], left_out)

    def _spoken(self, model: Any, samples: Any, indices: Sequence[int], advance: Callable[[int], None]) -> Iterator[Chunk]:
        """Yield the utterances of some items, in batches."""
        kept = 0
        for start in range(0, len(indices), self.batch_size):
            rows, left_out = indices[start : start + self.batch_size], []
            chunk = [sample for index in rows if (sample := _usable(samples, index, model, left_out)) is not None]
            advance(len(rows))
            if not chunk:
                yield [], [], left_out
                continue
            voices = {"speaker": chunk[0].label} if model.head.num_speakers else {}
            texts = [sample.inputs["text"] for sample in chunk]
            speeches = model.synthesize(texts, batch_size=self.batch_size, max_seconds=self.max_seconds, seed=self.seed, **voices)
            word_errors = self._transcribe_by_asr_model(speeches, chunk) if self.compare is not None else [{}] * len(speeches)
            found = [self._row(speech, sample, model) | errors for speech, sample, errors in zip(speeches, chunk, word_errors, strict=True)]
            examples = speeches[: EXAMPLES - kept]
            kept += len(examples)
            yield found, examples, left_out

    def _row(self, speech: Speech, sample: Any, model: Any) -> dict[str, Any]:
        row: dict[str, Any] = {
            "id": sample.id,
            "text": speech.text,
            "seconds": round(speech.seconds, 3),
            "stop_reason": speech.stop_reason,
            "diagonality": speech.diagonality,
            "focus": speech.focus,
            "faults": speech.faults,
        }
        processor = model.processor["speech"]
        if "audio" in sample.inputs:
            recorded_mels = processor.item(sample.inputs["audio"])[MELS]
            row["length_ratio"] = speech.mels.shape[1] / recorded_mels.shape[1]
            row["mel_cepstral_distortion"] = mel_cepstral_distortion(processor.log_mels(speech.mels), processor.log_mels(recorded_mels))
        return row

    def _transcribe_by_asr_model(self, speeches: list[Speech], chunk: list[Sample]) -> list[dict[str, Any]]:
        """Return for each utterance the transcripts of it and of its recording, with their errors against the text."""
        rate = sample_rate_of(self.asr_model)
        waveforms = [resample(speech.waveform.numpy().astype(np.float32), speech.sample_rate_hz, rate) for speech in speeches]
        recorded = [row for row, sample in enumerate(chunk) if "audio" in sample.inputs]
        options = {"language": self.language, "batch_size": self.batch_size, "seed": self.seed}
        all_transcripts = self.asr_model.transcribe(waveforms + [audio_of(chunk[row], rate) for row in recorded], **options)
        found: list[dict[str, Any]] = [{} for _ in speeches]
        for prefix, rows, transcripts in (
            ("", range(len(speeches)), all_transcripts),
            ("recorded_", recorded, all_transcripts[len(speeches) :]),
        ):
            for row, transcript in zip(rows, transcripts, strict=False):  # transcripts of the recordings follow those of the utterances
                compared = self.compare(chunk[row].inputs["text"], transcript.text)  # type: ignore[misc]
                figures = {"heard": compared.heard, "errors": compared.words.errors, "words": compared.words.units}
                figures |= {"character_errors": compared.characters.errors, "characters": compared.characters.units}
                found[row] |= {prefix + name: value for name, value in figures.items()}
        return found


def _usable(split: Any, index: int, model: Any, left_out: list[dict[str, str]]) -> Sample | None:
    """Return an item if the model can process its text and its recording; else note the reason in ``left_out`` and return None."""
    name = f"{index}"
    try:
        sample = split.sample(index)
        name = sample.id
        model.processor["text"].item(sample.inputs["text"])
        if "audio" in sample.inputs:
            model.processor["speech"].item(sample.inputs["audio"])
    except DataError as fault:
        left_out.append({"id": str(name), "reason": str(fault)})
        return None
    return sample


def _summed(rows: list[dict[str, Any]], examples: list[Speech], left_out: list[dict[str, str]]) -> TtsResult:
    names = [name for name in ("diagonality", "focus", "mel_cepstral_distortion", "length_ratio") if name in rows[0]]
    metrics = {"aligned": sum(not row["faults"] for row in rows) / len(rows)}
    metrics["stopped"] = sum(row["stop_reason"] == STOP_TOKEN for row in rows) / len(rows)
    metrics |= {name: sum(row[name] for row in rows) / len(rows) for name in names}
    metrics |= _word_errors(rows)
    reasons = dict(Counter(row["stop_reason"] for row in rows))
    faults = dict(Counter(fault.partition(" (")[0] for row in rows for fault in row["faults"]))
    details = {"stop_reasons": reasons, "faults": faults} | ({"left_out": len(left_out)} if left_out else {})
    return TtsResult(metrics, len(rows), details, rows, examples, left_out)


def _word_errors(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return word and character error rates of utterances and recordings; empty without ``asr_model``."""
    found = {}
    for prefix in ("", "recorded_"):
        for rate, units, errors in (("wer", "words", "errors"), ("cer", "characters", "character_errors")):
            count = sum(row.get(prefix + units, 0) for row in rows)
            if count:
                found[prefix + rate] = sum(row.get(prefix + errors, 0) for row in rows) / count
    return found


def mel_cepstral_distortion(first: Float[Tensor, "num_mels frames"], second: Float[Tensor, "num_mels other_frames"]) -> float:
    """Return the mel-cepstral distortion in dB of two natural log-mel spectrograms: the mean over the path of dynamic time warping."""
    one, two = (_cepstra(mels) for mels in (first, second))
    distances = torch.cdist(one, two).double().numpy()  # [frames, other_frames]
    return float(DECIBEL * np.mean([distances[i, j] for i, j in warping_path(distances)]))


def _cepstra(mels: Float[Tensor, "num_mels frames"]) -> Float[Tensor, "frames coefficients"]:
    """Return the orthonormal DCT-II of each frame, without the first coefficient."""
    count = mels.shape[0]
    orders = torch.arange(1, COEFFICIENTS + 1)[:, None]
    basis = torch.cos(math.pi / count * (torch.arange(count) + 0.5) * orders) * math.sqrt(2 / count)  # [coefficients, num_mels]
    return (basis @ mels.float()).T


def warping_path(distances: Float[np.ndarray, "rows columns"]) -> list[tuple[int, int]]:
    """Return the cheapest path from the first pair to the last by steps of one row, one column, or both.

    Costs are accumulated along anti-diagonals, because each one depends only on the two before it and so can be vectorised.
    """
    rows, columns = distances.shape
    cost = np.full((rows + 1, columns + 1), np.inf)
    cost[0, 0] = 0
    for total in range(2, rows + columns + 1):
        i = np.arange(max(1, total - columns), min(rows, total - 1) + 1)
        j = total - i
        best = np.minimum(np.minimum(cost[i - 1, j], cost[i, j - 1]), cost[i - 1, j - 1])
        cost[i, j] = distances[i - 1, j - 1] + best
    i, j = rows, columns
    path = [(i - 1, j - 1)]
    while (i, j) != (1, 1):
        i, j = min(((i - 1, j - 1), (i - 1, j), (i, j - 1)), key=lambda place: cost[place])
        path.append((i - 1, j - 1))
    return path[::-1]
