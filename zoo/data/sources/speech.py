"""Recordings with what is said in them: a table of paths and texts, LJSpeech, LibriSpeech, or the prompts of Asterisk.

Layouts: a CSV or JSON-lines table (``zoo fetch asterisk_sounds`` gives one); LJSpeech 1.1, ``metadata.csv`` of ``id|text|normalised text``
beside ``wavs/``; LibriSpeech (Panayotov et al. 2015), ``SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt`` beside FLAC files.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.data.audio_file import AUDIO_SUFFIXES, require_audio
from zoo.data.sources._captions import stable_group
from zoo.data.sources._table import SUFFIXES, Row, read_table
from zoo.errors import ConfigError, DataError, ItemError, name_choices
from zoo.registry import register
from zoo.types import Sample

SPLITS = ("train", "validation", "test")
SPLIT_WORDS = {"train": "train", "validation": "validation", "val": "validation", "dev": "validation", "test": "test"}
LAYOUTS = ("auto", "table", "ljspeech", "librispeech")
TABLES = ("table.jsonl", "table.csv", "metadata.jsonl", "metadata.csv")  # looked for where none is named
POLICIES = ("error", "skip")
FAULTS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording and its text; ``split`` None means by a hash of the text."""

    path: Path
    id: str
    text: str
    split: str | None = None


@register("source")
class Speech:
    """Recordings, which are read when they are asked for, and their texts.

    Where nothing says which split a recording is of, a hash of its text does, so that no text is in two splits. Recordings of equal
    texts, but for case and spaces, are of one group.

    Args:
        path: the folder, or a table.
        layout: "table", "ljspeech", "librispeech", or "auto" to look which it is.
        table: CSV or JSON lines, in ``path`` or elsewhere; paths in it are relative to it. A column ``split`` says which split a
            row belongs to.
        audio_key: column of the paths.
        split_fractions: shares of train, validation and test where nothing else says it.
        on_bad: "error" refuses a table with faults, "skip" leaves such rows out; ``skipped`` lists them.

    Raises:
        ConfigError: an unknown word, fractions that are not allowed, or libraries that read recordings are not installed.
        DataError: there is no such folder, nothing in it, or it has faults.
    """

    modalities = ("audio", "text")
    splits = SPLITS
    class_names: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        path: str | Path,
        layout: str = "auto",
        table: str | Path | None = None,
        audio_key: str = "path",
        text_key: str = "text",
        split_fractions: Sequence[float] = (0.9, 0.05, 0.05),
        on_bad: str = "error",
    ) -> None:
        for key, value, legal in (("layout", layout, LAYOUTS), ("on_bad", on_bad, POLICIES)):
            if value not in legal:
                raise ConfigError(f"{key}: there is no {value!r}; {name_choices(value, legal)}")
        require_audio()
        self.path, self.fractions, self.skipped = Path(path), _checked_fractions(split_fractions), []
        self.layout, clips = self._found(layout, None if table is None else Path(table), (audio_key, text_key))
        self._clips: dict[str, list[Clip]] = {split: [] for split in SPLITS}
        for clip in clips:
            self._clips[clip.split or _hashed_split(clip.text, self.fractions)].append(clip)
        self._settle(on_bad)

    def split(self, name: str) -> "SpeechSplit":
        """The samples of one split.

        Raises:
            ConfigError: no such split.
            DataError: nothing fell into it.
        """
        if name not in SPLITS:
            raise ConfigError(f"split: there is no {name!r}; {name_choices(name, SPLITS)}")
        if not self._clips[name]:
            counts = ", ".join(f"{split} {len(clips)}" for split, clips in self._clips.items())
            raise DataError(f"{self.path}: no recording fell into {name!r} ({counts}); add some, or change split_fractions")
        return SpeechSplit(self._clips[name])

    def captions(self) -> list[str]:
        """The texts of training, each once, to train a tokenizer on."""
        return list(dict.fromkeys(clip.text for clip in self._clips["train"]))

    def _found(self, layout: str, table: Path | None, keys: tuple[str, str]) -> tuple[str, Iterator[Clip]]:
        """The layout, and the clips as they are read."""
        if self.path.is_file():
            table, root = self.path, self.path.parent
        elif self.path.is_dir():
            root = self.path
        else:
            raise DataError(f"data.path: {self.path} does not exist; give a folder of recordings (the current folder is {Path.cwd()})")
        if table is not None:
            found = root / table if (root / table).is_file() else table
            return "table", self._table_clips(found, keys)
        known: dict[str, Callable[[], Iterator[Clip] | None]] = {
            "ljspeech": lambda: self._ljspeech(root),
            "table": lambda: next((self._table_clips(root / name, keys) for name in TABLES if (root / name).is_file()), None),
            "librispeech": lambda: self._librispeech(root),
        }
        for name, read in known.items():
            clips = read() if layout in ("auto", name) else None
            if clips is not None:
                return name, clips
        wanted = {
            "table": f"a table ({', '.join(TABLES)})",
            "ljspeech": "metadata.csv beside wavs/",
            "librispeech": "*.trans.txt in its folders",
        }
        missing = " nor ".join(wanted.values()) if layout == "auto" else wanted[layout]
        raise DataError(f"data.path: {self.path} holds {'neither' if layout == 'auto' else 'no'} {missing}; name the file with data.table=")

    def _table_clips(self, table: Path, keys: tuple[str, str]) -> Iterator[Clip]:
        if not table.is_file():
            raise DataError(f"data.table: there is no file {table}; its name ends in one of {' '.join(SUFFIXES)}")
        for row in read_table(table, keys):
            clip = row.fault or self._row_clip(row, table.parent, keys)
            if isinstance(clip, Clip):
                yield clip
            else:
                self.skipped.append(f"{table.name}, row {row.number}: {clip}")

    def _row_clip(self, row: Row, folder: Path, keys: tuple[str, str]) -> Clip | str:
        """The clip of a row, or what is wrong with the row."""
        for key in keys:
            value = row.values[key]
            if not isinstance(value, str) or not value.strip():
                return f"{key} is {'empty' if isinstance(value, str) else repr(value)}, where a text is expected"
        name, split = row.values[keys[0]].strip(), row.values.get("split") or None
        if split is not None and split not in SPLIT_WORDS:
            return f"split is {split!r}; {name_choices(str(split), SPLIT_WORDS)}"
        path = Path(os.path.normpath(folder / name))
        if not path.is_file():
            return f"there is no file {name!r}"
        return Clip(path, name, row.values[keys[1]].strip(), SPLIT_WORDS.get(split or ""))

    def _ljspeech(self, root: Path) -> Iterator[Clip] | None:
        """None where it is not laid out so."""
        return self._ljspeech_clips(root) if (root / "metadata.csv").is_file() and (root / "wavs").is_dir() else None

    def _ljspeech_clips(self, root: Path) -> Iterator[Clip]:
        for number, line in enumerate(_lines(root / "metadata.csv"), start=1):
            fields = line.split("|")  # no quotes: a quotation mark is one
            path, text = root / "wavs" / f"{fields[0]}.wav", fields[-1].strip()
            if len(fields) in (2, 3) and text and path.is_file():
                yield Clip(path, fields[0], text)
                continue
            shape = f"{len(fields)} fields between |, where 2 or 3 are expected"
            fault = shape if len(fields) not in (2, 3) else "no text" if not text else f"there is no file wavs/{path.name}"
            self.skipped.append(f"metadata.csv, line {number}: {fault}")

    def _librispeech(self, root: Path) -> Iterator[Clip] | None:
        """None where it is not laid out so."""
        files = sorted(root.rglob("*.trans.txt"))
        return self._librispeech_clips(root, files) if files else None

    def _librispeech_clips(self, root: Path, files: Sequence[Path]) -> Iterator[Clip]:
        for file in files:
            subset = next((part for part in file.relative_to(root).parts[:-1] if part.partition("-")[0] in SPLIT_WORDS), "")
            for number, line in enumerate(_lines(file), start=1):
                name, _, text = line.strip().partition(" ")
                path = next((p for s in AUDIO_SUFFIXES if (p := file.parent / f"{name}{s}").is_file()), None)
                if path is not None and text.strip():
                    yield Clip(path, name, text.strip(), SPLIT_WORDS.get(subset.partition("-")[0]))
                else:
                    self.skipped.append(f"{file.name}, line {number}: {'no text' if path else f'there is no recording {name!r}'}")

    def _settle(self, on_bad: str) -> None:
        """Refuse faults, or a source without recordings."""
        count, shown = len(self.skipped), "".join(f"\n  {fault}" for fault in self.skipped[:FAULTS_SHOWN])
        if count and on_bad == "error":
            raise DataError(f"{self.path}: {count} bad row{'' if count == 1 else 's'}; mend, or leave out with on_bad=skip{shown}")
        if not any(self._clips.values()):
            raise DataError(f"{self.path}: no recording that can be used ({self.layout}){shown}")


class SpeechSplit:
    """One split; a sample holds the path of its recording, which the processor reads as far as it needs."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def identities(self, modality: str) -> list[str] | None:
        """Which recording each item holds, as rows of a table may share one; None where every item is one of its own."""
        paths = [str(clip.path) for clip in self.clips]
        return paths if modality == "audio" and max(Counter(paths).values()) > 1 else None

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Item ``index``."""
        clip = self.clips[index]
        if not clip.path.is_file():
            raise ItemError(f"item {clip.id}: {clip.path} is not there any more; restore it", "audio")
        return Sample(clip.id, {"audio": clip.path, "text": clip.text}, group=_group(clip.text))


def _group(text: str) -> int:
    return stable_group(" ".join(text.lower().split()))


def _hashed_split(text: str, fractions: tuple[float, ...]) -> str:
    """With (0.9, 0.05, 0.05): below 0.9 train, below 0.95 validation, else test."""
    position = _group(text) / 2**63
    if position < fractions[0]:
        return "train"
    in_test = fractions[2] > 0 and position >= fractions[0] + fractions[1]
    return "test" if in_test or fractions[1] == 0 else "validation"


def _checked_fractions(fractions: Sequence[float]) -> tuple[float, ...]:
    if isinstance(fractions, str) or len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ConfigError(f"split_fractions: {fractions!r}; three shares of train, validation and test that sum to 1, as [0.9, 0.05, 0.05]")
    return tuple(map(float, fractions))


def _lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); it has to be a UTF-8 text file") from error
