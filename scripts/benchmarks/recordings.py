"""Transcribe one long recording with zoo and with its peers: word errors, decoder steps and CPU seconds, with equal weights and options.

    python scripts/benchmarks/recordings.py                      # 3 minutes of telephone prompts, greedy, without temperature fallback
    python scripts/benchmarks/recordings.py --seconds 75 --fallback --rounds 3
    python scripts/benchmarks/recordings.py --precisions fp32,bf16 --rounds 3

The weights are Whisper tiny.en (``zoo fetch whisper_tiny_en``), the recording joins prompts of four words and more of Asterisk's test and
validation splits (``zoo fetch asterisk_sounds``) with pauses. Peers: openai-whisper, and faster-whisper where installed (``zoo install
bench``). All decode greedily with the text before as prompt, and look for speech first only with fixed windows and in faster-whisper's
batched pipeline, which writes no timestamps. Rounds alternate between all of them; the seconds are medians of CPU time on one thread.
A step is one call of the decoder for the next token of all windows of a batch; faster-whisper does not tell its steps.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from zoo.assembly.save_load import load
from zoo.downloads.fetching import fetched
from zoo.errors import ZooError
from zoo.evaluation.measures.wer import WordErrorCounter
from zoo.interop.base.rules import from_zoo, under
from zoo.interop.whisper.names import OPENAI
from zoo.layers.whisper_decoder import WhisperDecoder
from zoo.processors.media.audio_file import read_audio

SPLITS, FEWEST_WORDS, RATE_HZ, BATCH = ("test", "validation"), 4, 16000, 8
FALLBACK = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass
class Runner:
    """One way to transcribe: a function from samples to the text and the number of decoder steps."""

    name: str
    run: Callable[[np.ndarray], tuple[str, int | None]]
    seconds: list[float] = field(default_factory=list)
    text: str = ""
    steps: int | None = None

    def go(self, waveform: np.ndarray) -> None:
        """Transcribe once, and note the CPU time."""
        start = time.process_time()
        self.text, self.steps = self.run(waveform)
        self.seconds.append(time.process_time() - start)


def recording(seconds: float, pause_s: float) -> tuple[np.ndarray, str]:
    """Return joined prompts with pauses between them, at most ``seconds`` long, and their texts."""
    folder = Path(fetched("asterisk_sounds"))
    rows = [json.loads(line) for line in (folder / "table.jsonl").read_text(encoding="utf-8").splitlines()]
    parts, texts, count = [], [], 0
    for row in rows:
        if row["split"] not in SPLITS or len(row["text"].split()) < FEWEST_WORDS:
            continue
        part = np.concatenate([read_audio(folder / row["path"])[0], np.zeros(round(pause_s * RATE_HZ), dtype=np.float32)])
        if (count := count + len(part)) > seconds * RATE_HZ:
            break
        parts, texts = [*parts, part], [*texts, row["text"]]
    return np.concatenate(parts), " ".join(texts)


def counted(owner: type, name: str) -> list[int]:
    """Replace a method by one that counts its calls in the returned list."""
    calls, method = [0], getattr(owner, name)

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        return method(*args, **kwargs)

    setattr(owner, name, counting)
    return calls


def zoo_runner(system: Any, precision: str, temperatures: Any, calls: list[int], **options: Any) -> Runner:
    """Return the runner of ``system.transcribe`` with options."""

    def run(waveform: np.ndarray) -> tuple[str, int]:
        calls[0] = 0
        return system.transcribe(waveform, temperatures=temperatures, batch_size=BATCH, **options).text, calls[0]

    return Runner(f"zoo {precision} " + " ".join(f"{key}={value}" for key, value in options.items()), run)


def openai_runner(system: Any, temperatures: Any) -> Runner:
    """Return the runner of openai-whisper with the weights of the system."""
    import whisper

    state = from_zoo(system.encoders["audio"].state_dict(), under("encoder.", "", OPENAI.encoder_rules), origin=OPENAI.name)
    state |= from_zoo(system.head.decoder.state_dict(), under("decoder.", "", OPENAI.decoder_rules), origin=OPENAI.name)
    model = whisper.model.Whisper(whisper.model.ModelDimensions(80, 1500, 384, 6, 4, 51864, 448, 384, 6, 4)).eval()
    model.load_state_dict(state)
    calls = counted(whisper.decoding.PyTorchInference, "logits")

    def run(waveform: np.ndarray) -> tuple[str, int]:
        calls[0] = 0
        return whisper.transcribe(model, waveform, temperature=temperatures, fp16=False)["text"], calls[0]

    return Runner("openai-whisper", run)


def faster_runner(kind: str, temperatures: Any, *, batched: bool = False) -> Runner:
    """Return the runner of faster-whisper with the fetched weights; batched, it finds speech by Silero's model and cuts there."""
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    model = WhisperModel(str(fetched("whisper_tiny_en")), device="cpu", compute_type=kind, cpu_threads=1)
    pipeline = BatchedInferencePipeline(model) if batched else model
    options: dict[str, Any] = {"batch_size": BATCH} if batched else {}

    def run(waveform: np.ndarray) -> tuple[str, None]:
        segments, _ = pipeline.transcribe(waveform, beam_size=1, temperature=temperatures, language="en", **options)
        return "".join(segment.text for segment in segments), None

    return Runner(f"faster-whisper {kind}{', batched' if batched else ''}", run)


def runners(temperatures: Any, precisions: Sequence[str]) -> list[Runner]:
    """Return all ways to transcribe that are installed."""
    calls = counted(WhisperDecoder, "logits")
    systems: dict[str, Any] = {precision: load(str(fetched("whisper_tiny_en")), precision=precision) for precision in precisions}
    found = []
    for precision, system in systems.items():
        for windows, vad in (("seek", "none"), ("fixed", "auto")):
            found.append(zoo_runner(system, precision, temperatures, calls, windows=windows, vad_filter=vad))
    if "fp32" in systems:
        found.append(openai_runner(systems["fp32"], temperatures))
    try:
        return found + [faster_runner(kind, temperatures, batched=batched) for kind in ("float32", "int8") for batched in (False, True)]
    except ImportError as error:
        print(f"recordings: without faster-whisper ({error}); install it with: zoo install bench", file=sys.stderr)
        return found


def main(arguments: list[str]) -> int:
    """Run the comparison, print a table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180.0, help="longest recording (default: 180)")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds of silence after each prompt (default: 0.5)")
    parser.add_argument("--rounds", type=int, default=1, help="timed rounds (default: 1)")
    parser.add_argument("--fallback", action="store_true", help="try higher temperatures, as all of them do by default")
    parser.add_argument("--precisions", default="fp32", help="precisions of zoo, comma-separated (default: fp32)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        waveform, text = recording(options.seconds, options.pause)
        every = runners(FALLBACK if options.fallback else 0.0, options.precisions.split(","))
    except ZooError as error:
        print(f"recordings: {error}", file=sys.stderr)
        return 2
    for _ in range(options.rounds):
        for runner in every:
            runner.go(waveform)
    count = WordErrorCounter()
    table = Table(f"{len(waveform) / RATE_HZ:.0f} s, {len(text.split())} words", "word errors", "WER", "steps", "CPU s")
    for runner in every:
        words = count(text, runner.text).words
        steps = "-" if runner.steps is None else str(runner.steps)
        table.add_row(runner.name, str(words.errors), f"{100 * words.rate:.2f} %", steps, f"{statistics.median(runner.seconds):.1f}")
    Console(width=120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
