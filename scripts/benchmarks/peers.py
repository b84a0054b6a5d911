"""The table of speed beside outside libraries: its rows, one process for each, the stored figures, the page and the cards."""

import datetime
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from benchmarks import clip, image_peers, images, language, speech, speech_peers, text_peers
from benchmarks.comparison import NOTE_FUSED, Row, build, measure, row_of

from zoo.errors import ZooError
from zoo.evaluation.results.card_families import family_of
from zoo.layers.low_precision.cpu import has_amx, has_bf16, has_vnni

OPTIMIZERS = ("AdamW", NOTE_FUSED)
PAIRS = clip.ENTRIES | images.ENTRIES | language.ENTRIES | speech.ENTRIES
ROWS: dict[str, Row] = {
    **image_peers.ROWS,
    **text_peers.ROWS,
    **speech_peers.ROWS,
    **{
        name: row_of(PAIRS[name], title, PAIRS[name].size, optimizers=OPTIMIZERS if "step" in name else ("", ""))
        for name, title in (
            ("clip_training_step", "training step of CLIP B/32, {size} captions of real lengths"),
            ("vig_training_step", "training step of ViG-Ti, batch {size}"),
            ("pvig_training_step", "training step of Pyramid ViG-Ti, batch {size}"),
            ("generation", "64 tokens to a prompt of 320, SmolLM2-135M, batch {size}"),
            ("kosmos", "forward and backward of a small Kosmos-2, {size} documents"),
            ("whisper_decode", "64 tokens of Whisper base, {size} window"),
            ("tacotron2_inference", "200 frames of Tacotron 2, {size} text"),
        )
    },
}
DEFAULT, KEPT = "default", "kept"
ALLOCATORS: dict[str, dict[str, str]] = {
    DEFAULT: {},
    KEPT: {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "8000000000", "MALLOC_TOP_PAD_": "256000000"},
}
PACKAGES = """torch timm open_clip_torch transformers sentence-transformers onnxruntime openvino faster-whisper openai-whisper xllamacpp
torchvision pillow simplejpeg torchaudio""".split()


def run_here(name: str, size: int | None, rounds: int) -> dict[str, Any]:
    """Measure one row in this process and return its figures.

    Raises:
        ConfigError: no library of the row is installed.
    """
    row = ROWS[name]
    candidates, left_out = build(row, size or row.size)
    results = measure(candidates, min(rounds, row.rounds), lambda text: print(f"{name}: {text}", file=sys.stderr, flush=True))
    return {
        "name": name,
        "title": row.title.format(size=size or row.size),
        "measure": row.measure,
        "shown": row.shown,
        "rounds": min(rounds, row.rounds),
        "threads": torch.get_num_threads(),
        "left_out": left_out,
        "results": [{key: value for key, value in asdict(each).items() if key != "times"} for each in results],
    }


def run_apart(name: str, size: int | None, rounds: int, threads: int, allocator: str) -> dict[str, Any]:
    """Measure one row in a process of its own and return its figures.

    Raises:
        ZooError: the process failed.
    """
    script = Path(__file__).resolve().parents[1] / "bench.py"
    command = [sys.executable, str(script), name, "--peers", "--here", "--rounds", str(rounds), "--threads", str(threads)]
    command += [] if size is None else ["--size", str(size)]
    environment = {**os.environ, **ALLOCATORS[allocator], "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        raise ZooError(f"{name} with allocator {allocator!r}: the process ended with status {done.returncode}; its messages are above")
    return json.loads(done.stdout.splitlines()[-1])


def run_row(name: str, size: int | None, rounds: int, threads: int, allocators: Sequence[str]) -> dict[str, Any]:
    """Measure one row with each allocator, and return the figures with date, commit, machine and versions."""
    first, *others = (run_apart(name, size, rounds, threads, allocator) for allocator in allocators)
    for other, allocator in zip(others, allocators[1:], strict=True):
        for result, again in zip(first["results"], other["results"], strict=True):
            result[f"ratio_{allocator}"] = again["ratio"]
    command = f"python scripts/bench.py {name} --peers --rounds {rounds} --threads {threads}" + (f" --size {size}" if size else "")
    return {
        **first,
        "allocator": allocators[0],
        "command": command,
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
    }


def commit() -> str:
    """Return the current git commit; empty outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def machine() -> str:
    """Return the CPU's model, family and number, and those of its instructions that decide the speed of low precisions."""
    fields = dict(map(str.strip, line.split(":", 1)) for line in _cpuinfo() if ":" in line)
    name = f"{fields.get('model name', 'unknown CPU')} (family {fields.get('cpu family', '?')}, model {fields.get('model', '?')})"
    flags = {"AVX-512": "avx512f" in fields.get("flags", "").split(), "VNNI": has_vnni(), "bf16": has_bf16(), "AMX": has_amx()}
    have, lacks = ([word for word, there in flags.items() if there is wanted] for wanted in (True, False))
    return name + (f", with {', '.join(have)}" if have else "") + (f", without {', '.join(lacks)}" if lacks else "")


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").partition("\n\n")[0].splitlines() if path.is_file() else []


def versions() -> dict[str, str]:
    """Return the versions of the installed libraries of the table."""
    installed = {each.metadata["Name"].lower(): each.version for each in importlib.metadata.distributions()}
    return {name: installed[name] for name in PACKAGES if name in installed}


def card_lines(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Return the line "speed" of each family's card from stored rows.

    A line names zoo's ratio to the reference library of each row, in equal precision, or in fp32 if the reference has a format of its own.
    Its status is "failed" if outputs differ, and "not verified" with the figures as the reason if zoo is slower in every round of a row
    (ratios of single rounds differ by a tenth and more on a shared machine).
    """
    chosen: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["name"] in ROWS and (card := ROWS[row["name"]].card) and (family := family_of(card)):
            chosen.setdefault(family, []).append(row)
    return {family: _card_line(each) for family, each in chosen.items()}


def _card_line(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    texts, agrees, slower = [], True, False
    for row in rows:
        reference, *others = row["results"]
        own = {each["precision"]: each for each in reversed(others) if each["library"].startswith("zoo")}
        ours = own.get(reference["precision"]) or own["fp32"]
        ratio = f"x{ours['ratio']:.2f} ({ours['smallest_ratio']:.2f} to {ours['largest_ratio']:.2f})"
        other = "" if ours["precision"] == reference["precision"] else f" {reference['precision']}"
        texts.append(f"{row['title']}: {ours['precision']} {ratio} of {reference['library']}{other}")
        if None not in (ours["quality"], reference["quality"]):
            agrees &= abs(ours["quality"] - reference["quality"]) <= ROWS[row["name"]].tolerance
        slower |= ours["largest_ratio"] < 1
    figure = "; ".join(texts) + f" (CPU seconds, {rows[0]['machine']})"
    date, commit = max((row["date"], row["commit"]) for row in rows)
    facts = {"command": "; ".join(row["command"] for row in rows), "date": date, "commit": commit}
    if agrees and slower:
        return {"status": "not verified", "reason": f"measured, and slower than the other library: {figure}", **facts}
    return {"status": "verified" if agrees else "failed", "figure": figure, **facts}
