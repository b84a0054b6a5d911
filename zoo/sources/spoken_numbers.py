"""A corpus that is made, not recorded: numbers, dates and commands, said by a synthetic voice.

The sound is made once, in a fresh process and in one order, and kept in the cache under a hash of all that it depends on.
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

from zoo.data.order import Order, bucketed
from zoo.errors import ConfigError, DataError, name_choices
from zoo.processors.media.read_aloud import MONTHS, number_words, read_aloud
from zoo.processors.media.voices import ENGINES, find_voice
from zoo.registry import register
from zoo.sources.wording.captions import stable_group
from zoo.storage.places import cache_directory
from zoo.types import Sample

KINDS = ("numbers", "dates", "commands")
VALIDATION_SHARE, TEST_SHARE = 0.03, 0.05
COMMANDS = ("turn on the light", "turn off the radio", "open the door", "close the window", "play the next song", "set an alarm")
VERSION = 1  # of what is made; a higher one makes it again


@dataclass(frozen=True)
class _Corpus:
    """Where the sound of each text begins and ends in one long row of samples."""

    texts: list[str]
    kinds: list[str]
    ends: Int64[np.ndarray, " items"]
    samples: Int16[np.ndarray, " total"]
    sample_rate_hz: int


@register("source")
class SpokenNumbers:
    """Sound and text of numbers up to ``highest``, of dates, and of commands with a number; split by the number.

    Which split a number is in follows from a hash of it: no number of validation or test is ever said in training, in whatever
    sentence. The text is in words already.

    Args:
        engine: "flite" (``zoo fetch flite``) or "espeak" (extra ``speech``).
        voice: of the engine: "slt", "rms", "awb", "kal16", "kal" of flite; "en-us" and others of espeak.
        kinds: of sentences.
        highest: the largest number.
        size: so many sentences of each kind, drawn by a fixed seed; None takes every number.
        path: where the sound is kept; None: the cache of zoo.
        batch_size: in training so many neighbours are of nearly equal length (as training.batch_size); 1 leaves them in random order.

    Raises:
        ConfigError: an engine, a voice or a kind that there is not, numbers out of range, or an engine that is not installed.
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
        """Sound and texts of one split; the sound is made where it is not there yet, which takes minutes for all numbers.

        Raises:
            ConfigError: no such split, or an engine that is not installed.
            DataError: the cache cannot be written or read.
        """
        if name not in self.splits:
            raise ConfigError(f"split: there is no {name!r}; {name_choices(name, self.splits)}")
        sentences = [each for each in _sentences(self.settings) if split_of(each[2]) == name]
        if not sentences:
            raise DataError(f"data.source: the split {name!r} is empty; raise highest or size")
        return SpokenNumbersSplit(_made(self.folder, self.settings, name, sentences), self.batch_size)

    def captions(self) -> list[str]:
        """The texts of training, to train a tokenizer on."""
        return [text for _, text, number in _sentences(self.settings) if split_of(number) == "train"]


class SpokenNumbersSplit:
    """One split; the samples are read from disk as they are asked for."""

    def __init__(self, corpus: _Corpus, batch_size: int) -> None:
        self.corpus, self.batch_size = corpus, batch_size
        self.starts = np.concatenate([[0], corpus.ends[:-1]])

    def __len__(self) -> int:
        return len(self.corpus.texts)

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Item ``index``: its sound, and what is said in words."""
        found = self.corpus
        sound = np.array(found.samples[self.starts[index] : found.ends[index]])
        text = found.texts[index]
        return Sample(f"{text!r}", {"audio": (sound, found.sample_rate_hz), "text": text}, kind=found.kinds[index])

    def order(self, seed: int, epoch: int) -> Order:
        """Batches of nearly equal length in random order, so that little is padded."""
        return bucketed(self.corpus.ends - self.starts, self.batch_size, seed, epoch)


def split_of(number: int) -> str:
    """The split that a number is in."""
    place = stable_group(f"number {number}") / 2**63
    return "validation" if place < VALIDATION_SHARE else "test" if place < VALIDATION_SHARE + TEST_SHARE else "train"


def _sentences(settings: dict) -> list[tuple[str, str, int]]:
    """Kind, text in words, and the number that decides the split."""
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
    """The corpus of a split, out of the cache."""
    words = json.dumps({**settings, "split": split, "texts": [text for _, text, _ in sentences]}, sort_keys=True)
    place = folder / f"{settings['engine']}_{settings['voice']}_{split}_{hashlib.sha256(words.encode()).hexdigest()[:16]}"
    if not (place / "corpus.json").is_file():
        _make(place, settings, sentences)
    try:
        facts = json.loads((place / "corpus.json").read_text(encoding="utf-8"))
        samples = np.load(place / "samples.npy", mmap_mode="r")
        ends = np.load(place / "ends.npy")
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{place}: cannot be read ({error}); remove it, and it is made again") from error
    kinds, texts = [kind for kind, _, _ in sentences], [text for _, text, _ in sentences]
    return _Corpus(texts, kinds, ends, samples, int(facts["sample_rate_hz"]))


def _make(place: Path, settings: dict, sentences: list[tuple[str, str, int]]) -> None:
    """Say every sentence in a process of its own, whose engine has said nothing before, and keep the sound."""
    find_voice(settings["engine"], settings["voice"])  # what is not installed is said here, without a process
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as unfinished:
            work = json.dumps([unfinished, settings, [text for _, text, _ in sentences]])
            done = subprocess.run([sys.executable, "-c", _WORKER], input=work, capture_output=True, text=True, check=False)
            if done.returncode:
                raise DataError(f"{place.name}: the voice gave up (exit status {done.returncode}): {done.stderr.strip()[-300:]}")
            if not place.exists():  # another process may have been faster
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
