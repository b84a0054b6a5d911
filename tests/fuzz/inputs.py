"""Targets of the fuzz harness: what is read of an input, through the interface that a user has."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zoo
from zoo.assembly.compose import apply_overrides, compose
from zoo.assembly.hydra_jobs import run_with_hydra
from zoo.commands.index.store import Index
from zoo.data.readers.table import read_table
from zoo.processors.media.audio_file import read_audio
from zoo.processors.media.image_file import open_image, read_pixels
from zoo.processors.tokenizers.chat_tokenizer import read_language_tokenizer
from zoo.processors.tokenizers.library_tokenizers import read_tokenizer
from zoo.registry import find_part
from zoo.runs.check import check
from zoo.runs.run_directory import read_run_config


def _load(folder: Path) -> None:
    model: Any = zoo.load(folder)
    processor = getattr(model, "processor", None)
    if processor is not None:
        _ = processor.is_fitted


def _load_file(folder: Path) -> None:
    """Load a file of weights into a model given by name."""
    zoo.create_model("vit_nano", weights=folder / "weights.pt")


def _load_whisper(folder: Path) -> None:
    zoo.load(folder / "tiny.pt")


def _read_index(folder: Path) -> None:
    index = Index(folder)
    index.describe([0, 1])
    for chunk in index.chunks():
        _ = chunk.sum()


def _read_tokens(folder: Path) -> None:
    """Load a chat model, and render a prompt with the template beside it."""
    model: Any = zoo.load(folder)
    if model.processor is not None and model.processor.get("conversation") is not None:
        model.generate(["hi"], max_new_tokens=2)


def _read_words(folder: Path) -> None:
    """Load a text encoder, and encode a text with the tokenizer beside it."""
    model: Any = zoo.load(folder)
    if model.processor is not None and model.processor.is_fitted:
        model(model.processor(text=["a b"]).inputs["text"])


def _read_tokenizers(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        for read in (read_tokenizer, read_language_tokenizer):
            try:
                found: Any = read(path)
                if found is not None:
                    found.tokenizer.decode(found.tokenizer.encode("a photo").ids)
            except zoo.WeightsError:
                pass


def _compose(folder: Path) -> None:
    check(compose("train", ["system=clip_vit_nano", "data=digits", *_overrides(folder)]))


def _sweep(folder: Path) -> None:
    """Let Hydra start two jobs that do nothing, with YAML files of a search path."""
    os.chdir(folder)
    given = ["system=clip_vit_nano", "data=digits", f"hydra.searchpath=[file://{folder}/extra]", *_overrides(folder)]
    run_with_hydra(["-m", "run_dir=runs", *given], lambda config: 0)


def _overrides(folder: Path) -> list[str]:
    return [*filter(None, (folder / "overrides.txt").read_text(encoding="utf-8", errors="surrogateescape").split("\n"))]


def _resume(folder: Path) -> None:
    apply_overrides(read_run_config(folder), ["training.max_steps=3"])


def _read_rows(folder: Path) -> None:
    for name in ("rows.jsonl", "rows.csv"):
        list(read_table(folder / name, ["a", "b"]))


def _read_chats(folder: Path) -> None:
    source: Any = find_part("source", "instruct")(path=str(folder / "chats.json"))
    split = source.split("train")
    for number in range(len(split)):
        split.sample(number)


def _read_shards(folder: Path) -> None:
    source: Any = find_part("source", "shards")(path=str(folder / "a.tar"), test=str(folder / "a.tar"))
    split = source.split("test")
    for number in range(len(split)):
        split.sample(number)


def _read_pictures(folder: Path) -> None:
    for path in sorted(folder.glob("*.*")):
        try:
            open_image(path)
            read_pixels(path)
        except zoo.DataError:
            pass


def _read_recordings(folder: Path) -> None:
    for path in sorted(folder.glob("*.*")):
        try:
            read_audio(path)
        except zoo.DataError:
            pass


TARGETS: dict[str, Callable[[Path], None]] = {
    "saved": _load,
    "bert": _read_words,
    "clip": _load,
    "vit": _load,
    "sharded": _load,
    "llama": _read_tokens,
    "adapter": _load,
    "gguf": _read_tokens,
    "llava": _load,
    "kosmos2": _load,
    "whisper": _load,
    "openai_whisper": _load_whisper,
    "ctranslate2": _load,
    "pickle": _load,
    "torchscript": _load_file,
    "tokenizers": _read_tokenizers,
    "index": _read_index,
    "compose": _compose,
    "sweep": _sweep,
    "run": _resume,
    "rows": _read_rows,
    "chats": _read_chats,
    "shards": _read_shards,
    "pictures": _read_pictures,
    "recordings": _read_recordings,
}


SLOW = ("whisper", "openai_whisper", "ctranslate2", "sweep")  # a second of computing each; drawn one time in twenty


def warm_up(folder: Path) -> None:
    """Read each original once, so that the forks find every module imported."""
    here = Path.cwd()
    for name, read in TARGETS.items():
        try:
            read(folder / name)
        except zoo.ZooError:  # told by --intact
            pass
    os.chdir(here)
    shutil.rmtree(folder / "shards" / "cache", ignore_errors=True)
    shutil.rmtree(folder / "sweep" / "runs", ignore_errors=True)
