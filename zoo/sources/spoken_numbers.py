"""Synthetic speech corpus: numbers, dates and commands spoken by a text-to-speech engine.

The audio is synthesised once and cached under a hash of all settings and texts. A fresh process synthesises it in a fixed order, because
the output of an engine can depend on earlier calls.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int16, Int64

from zoo.data.groups import stable_group
from zoo.data.order import Order, bucketed
from zoo.errors import ConfigError, DataError, name_choices
from zoo.processors.media.read_aloud import read_aloud
from zoo.processors.media.voices import ENGINES, find_voice
from zoo.processors.spoken.dates import MONTHS
from zoo.processors.spoken.numbers import number_words
from zoo.registry import register
from zoo.storage.places import cache_directory
from zoo.types import Sample, Source, Split

KINDS = ("numbers", "dates", "commands")
VALIDATION_SHARE, TEST_SHARE = 0.03, 0.05
COMMANDS = ("turn on the light", "turn off the radio", "open the door", "close the window", "play the next song", "set an alarm")
VERSION = 1  # of the synthesis; part of the cache key: increase it to make all audio again


@dataclass(frozen=True)
class _Corpus:
    """Texts and their audio, concatenated.

    Attributes:
        ends: index after the last audio sample of each text; it is the first one of the next text.
        samples: 16-bit audio samples of all texts.
    """

    texts: list[str]
    kinds: list[str]
    ends: Int64[np.ndarray, " items"]
    samples: Int16[np.ndarray, " total"]
    sample_rate_hz: int


@register("source")
class SpokenNumbers(Source):
    """Audio and text of numbers up to ``highest``, of dates, and of commands with a number.

    A hash of the number chooses the split of a sentence, so that no number of validation or test occurs in any training sentence. Texts are
    spelled out in words.

    Args:
        engine: "flite" (``zoo fetch flite``) or "espeak" (extra ``speech``).
        voice: voice of the engine: "slt", "rms", "awb", "kal16" or "kal" for flite; "en-us" and others for espeak.
        kinds: kinds of sentences, of "numbers", "dates" and "commands".
        highest: the largest number, from 9 to 999999.
        size: sentences of each kind, drawn with a fixed seed; None takes every number.
        path: folder of the cached audio; None takes the cache of zoo.
        batch_size: number of neighbouring training items of nearly equal length (use the value of training.batch_size); 1 gives a random
            order.

    Raises:
        ConfigError: the engine or a kind is unknown, or a number is out of range.
    """

    modalities = ("audio", "text")
    splits = ("train", "validation", "test")
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        engine: str = "flite",
        voice: str = "slt",
        kinds: Sequence[str] = ("numbers",),
        highest: int = 9999,
        size: int | None = None,
        path: str | Path | None = None,
        batch_size: int = 1,
    ) -> None:
        if engine not in ENGINES:
            raise ConfigError(f"engine: there is no {engine!r}; {name_choices(engine, ENGINES)}")
        unknown = sorted(set(kinds) - set(KINDS)) if not isinstance(kinds, str) else [kinds]
        if unknown or not kinds:
            raise ConfigError(f"kinds: got {list(kinds)!r}; allowed is a list of {', '.join(KINDS)}")
        if not 9 <= highest <= 999_999 or batch_size < 1 or (size is not None and size < 1):
            raise ConfigError(f"highest {highest}, size {size}, batch_size {batch_size}; allowed are 9 to 999999, and 1 or more")
        self.settings = {"engine": engine, "voice": voice, "kinds": list(kinds), "highest": highest, "size": size, "version": VERSION}
        self.batch_size = batch_size
        self.folder = Path(path) if path is not None else cache_directory() / "spoken_numbers"

    def split(self, name: str) -> "SpokenNumbersSplit":
        """Return one split; audio that is not cached is synthesised first, which takes minutes for all numbers.

        Raises:
            ConfigError: no such split, the voice is unknown, or the engine is not installed.
            DataError: the split is empty, the engine failed, or the cache cannot be written or read.
        """
        if name not in self.splits:
            raise ConfigError(f"split: there is no {name!r}; {name_choices(name, self.splits)}")
        sentences = [each for each in _sentences(self.settings) if split_of(each[2]) == name]
        if not sentences:
            raise DataError(f"data.source: the split {name!r} is empty; raise highest or size")
        return SpokenNumbersSplit(_made(self.folder, self.settings, name, sentences), self.batch_size)

    def captions(self) -> list[str]:
        """Return the texts of the training split, as text to train a tokenizer on."""
        return [text for _, text, number in _sentences(self.settings) if split_of(number) == "train"]


class SpokenNumbersSplit(Split):
    """One split of the synthetic corpus; the audio is memory-mapped from disk."""

    def __init__(self, corpus: _Corpus, batch_size: int) -> None:
        self.corpus, self.batch_size = corpus, batch_size
        self.starts = np.concatenate([[0], corpus.ends[:-1]])

    def __len__(self) -> int:
        return len(self.corpus.texts)

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Return item ``index``: its audio with the sample rate in Hz, and its text in words."""
        found = self.corpus
        sound = np.array(found.samples[self.starts[index] : found.ends[index]])
        text = found.texts[index]
        return Sample(f"{text!r}", {"audio": (sound, found.sample_rate_hz), "text": text}, kind=found.kinds[index])

    def order(self, seed: int, epoch: int) -> Order:
        """Return batches of nearly equal length in random order, to reduce padding."""
        return bucketed(self.corpus.ends - self.starts, self.batch_size, seed, epoch)


def split_of(number: int) -> str:
    """Return the split that a number belongs to."""
    place = stable_group(f"number {number}") / 2**63
    return "validation" if place < VALIDATION_SHARE else "test" if place < VALIDATION_SHARE + TEST_SHARE else "train"


def _sentences(settings: dict) -> list[tuple[str, str, int]]:
    """Return (kind, text in words, number) of all sentences; the number decides the split."""
    generator = np.random.default_rng(0)
    found = []
    for kind in settings["kinds"]:
        highest = settings["highest"]
        numbers = np.arange(highest + 1)
        if settings["size"] is not None and settings["size"] < len(numbers):
            numbers = np.sort(generator.choice(numbers, settings["size"], replace=False))
        found += [(kind, text, int(number)) for number in numbers for text in [_sentence(kind, int(number), highest)]]
    return found


def _sentence(kind: str, number: int, highest: int) -> str:
    if kind == "numbers":
        return number_words(number)
    if kind == "commands":
        return f"{COMMANDS[number % len(COMMANDS)]} {number_words(number)}"
    year, month, day = 1900 + number * 199 // max(highest, 1), number % 12, 1 + number % 28
    return re.sub(r",", "", read_aloud(f"{MONTHS[month]} {day}, {year}")).lower()


def _made(folder: Path, settings: dict, split: str, sentences: list[tuple[str, str, int]]) -> _Corpus:
    """Return the corpus of a split from the cache; synthesise it first if it is not there."""
    key = json.dumps({**settings, "split": split, "texts": [text for _, text, _ in sentences]}, sort_keys=True)
    place = folder / f"{settings['engine']}_{settings['voice']}_{split}_{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if not (place / "corpus.json").is_file():
        _make(place, settings, sentences)
    try:
        facts = json.loads((place / "corpus.json").read_text(encoding="utf-8"))
        samples = np.load(place / "samples.npy", mmap_mode="r")
        ends = np.load(place / "ends.npy")
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{place}: cannot be read ({error}); delete it, and it is synthesised again") from error
    kinds, texts = [kind for kind, _, _ in sentences], [text for _, text, _ in sentences]
    return _Corpus(texts, kinds, ends, samples, int(facts["sample_rate_hz"]))


def _make(place: Path, settings: dict, sentences: list[tuple[str, str, int]]) -> None:
    """Synthesise every sentence in a new process and move the result into the cache.

    Raises:
        ConfigError: the voice is unknown, or the engine is not installed.
        DataError: the engine failed, or the cache cannot be written.
    """
    find_voice(settings["engine"], settings["voice"])  # a missing engine raises its own error here, before the process starts
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as unfinished:
            work = json.dumps([unfinished, settings, [text for _, text, _ in sentences]])
            done = subprocess.run([sys.executable, "-c", _WORKER], input=work, capture_output=True, text=True, check=False)
            if done.returncode:
                raise DataError(f"{place.name}: speech synthesis failed (exit status {done.returncode}): {done.stderr.strip()[-300:]}")
            # The rename makes the folder appear whole or not at all; another process may have finished first.
            if not place.exists():
                shutil.copytree(unfinished, unfinished + ".whole")
                Path(unfinished + ".whole").rename(place)
    except OSError as error:
        raise DataError(f"data.path: {place.parent} cannot be written ({error}); set data.source.path or ZOO_CACHE") from error


_WORKER = f"import json, sys; from {__name__} import _say_all; _say_all(*json.load(sys.stdin))"


def _say_all(folder: str, settings: dict, texts: list[str]) -> None:
    voice = find_voice(settings["engine"], settings["voice"])
    said = [voice(text) for text in texts]
    np.save(Path(folder) / "samples.npy", np.concatenate(said))
    np.save(Path(folder) / "ends.npy", np.cumsum([len(each) for each in said]))
    facts = {**settings, "sample_rate_hz": voice.sample_rate_hz, "origin": "synthetic: said by a machine, not recorded"}
    (Path(folder) / "corpus.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
