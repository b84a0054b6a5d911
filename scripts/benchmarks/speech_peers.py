"""Speech and start-up beside outside libraries: Whisper tiny.en on a recording, and the first answer of a command."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.comparison import Candidate, Make, Row
from benchmarks.job import need
from benchmarks.recordings import Runner, counted, faster_runner, openai_runner, recording, zoo_runner

from zoo.assembly.save_load import load
from zoo.downloads.fetching import fetched
from zoo.evaluation.measures.wer import WordErrorCounter
from zoo.layers.low_precision.cpu import has_bf16
from zoo.layers.whisper_decoder import WhisperDecoder
from zoo.storage.places import packaged_directory

PAUSE_S = 0.5


def whisper(size: int) -> list[Make]:
    """Return the makers of Whisper tiny.en on joined prompts of at most ``size`` seconds: greedy, without temperature fallback."""
    waveform, text = recording(size, PAUSE_S)
    systems: dict[str, Any] = {}
    count, calls = WordErrorCounter(), counted(WhisperDecoder, "logits")

    def candidate(library: str, precision: str, runner: Callable[[], Runner]) -> Candidate:
        chosen = runner()
        return Candidate(library, precision, lambda: chosen.run(waveform), lambda: 100 * count(text, chosen.run(waveform)[0]).words.rate)

    def system(precision: str) -> Any:
        if precision not in systems:
            systems[precision] = load(str(fetched("whisper_tiny_en")), precision=precision)
        return systems[precision]

    def openai() -> Runner:
        need("whisper", "openai-whisper")
        return openai_runner(system("fp32"), 0.0)

    def faster(kind: str, batched: bool) -> Runner:
        need("faster_whisper", "faster-whisper")
        return faster_runner(kind, 0.0, batched=batched)

    def ours(precision: str, windows: str) -> Runner:
        vad = "none" if windows == "seek" else "auto"
        return zoo_runner(system(precision), precision, 0.0, calls, windows=windows, vad_filter=vad)

    peers = [
        ("faster-whisper" + ", batched" * batched, precision, partial(faster, kind, batched))
        for batched in (False, True)
        for precision, kind in (("fp32", "float32"), ("int8", "int8"))
    ]
    own = [
        (f"zoo, {windows} windows", precision, partial(ours, precision, windows))
        for windows in ("seek", "fixed")
        for precision in ("fp32", "bf16" if has_bf16() else "fp16")
    ]
    return [partial(candidate, *each) for each in (*peers, ("openai-whisper", "fp32", openai), *own)]


def start_up(size: int) -> list[Make]:
    """Return the makers of a process that imports torch, and of one that classifies ``size`` bundled pictures."""
    paths = sorted(map(str, (packaged_directory("assets") / "pictures").glob("*.png")))[:size]
    words = ("-m", "zoo", "classify", *paths, "--model", "clip_vit_nano", "--labels", "0,1")

    def candidate(library: str, *arguments: str) -> Candidate:
        def run() -> None:
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

        return Candidate(library, "fp32", run, in_child=True)

    return [partial(candidate, "import torch", "-c", "import torch"), partial(candidate, "zoo classify", *words)]


ROWS = {
    "whisper": Row("Whisper tiny.en, {size} s of speech", whisper, 180, "word errors in %", "{:.1f}", 0.3, card="whisper", rounds=3),
    "start_up": Row("process: start and classify {size} picture", start_up, 1, "", rounds=3),
}
