"""Recordings with what is said in them: a table of paths and texts, LJSpeech, LibriSpeech, or the prompts of Asterisk.

Layouts: a CSV or JSON-lines table (``zoo fetch asterisk_sounds`` gives one); LJSpeech 1.1, ``metadata.csv`` of ``id|text|normalised text``
beside ``wavs/``; LibriSpeech (Panayotov et al. 2015), ``SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt`` beside FLAC files.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float

from zoo.data.order import Order, bucketed
from zoo.data.readers.recordings import Clip, librispeech_clips, ljspeech_clips, table_clips, windows_of
from zoo.data.readers.table import SUFFIXES
from zoo.errors import ConfigError, DataError, ItemError, name_choices
from zoo.processors.media.audio_file import read_piece, require_audio, seconds_in_header
from zoo.registry import register
from zoo.sources.wording.captions import stable_group
from zoo.types import Sample

SPLITS = ("train", "validation", "test")
LAYOUTS = ("auto", "table", "ljspeech", "librispeech")
TABLES = ("table.jsonl", "table.csv", "metadata.jsonl", "metadata.csv")  # looked for where none is named
POLICIES = ("error", "skip")
FAULTS_SHOWN = 5
PREVIOUS_CHARACTERS = 1000  # of what was said before: more than the 223 tokens that Whisper takes


@register("source")
class Speech:
    """Recordings, which are read when they are asked for, and their texts.

    Where nothing says which split a recording is of, a hash of its text does, so that no text is in two splits. Recordings of equal
    texts, but for case and spaces, are of one group.

    Args:
        path: the folder, or a table.
        layout: "table", "ljspeech", "librispeech", or "auto" to look which it is.
        table: CSV or JSON lines, in ``path`` or elsewhere; paths in it are relative to it. A column ``split`` says which split a
            row belongs to, and a column ``kind`` gives figures of its own; LibriSpeech's subsets are kinds. ``previous`` is what was
            said before, ``language`` and ``task`` are the text's, ``seconds`` the recording's; ``segments`` of JSON lines, a list of
            objects with ``start``, ``end`` (in seconds) and ``text``, tells when what is said.
        audio_key: column of the paths.
        split_fractions: shares of train, validation and test where nothing else says it.
        window_seconds: cut recordings with segments into windows of this length (Whisper: 30), each with its segments; None: leave them
            whole.
        previous_share: of the samples of training that hold, as ``previous``, what was said before them: in the window or the table's
            row, or the utterances before it in a chapter of LJSpeech or LibriSpeech. Whisper was trained with 0.5.
        batch_size: in training so many neighbours are of nearly equal length (as training.batch_size); 1 leaves them in random order.
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
        window_seconds: float | None = None,
        previous_share: float = 0.0,
        batch_size: int = 1,
        on_bad: str = "error",
    ) -> None:
        for key, value, legal in (("layout", layout, LAYOUTS), ("on_bad", on_bad, POLICIES)):
            if value not in legal:
                raise ConfigError(f"{key}: there is no {value!r}; {name_choices(value, legal)}")
        if (window_seconds is not None and window_seconds <= 0) or not 0 <= previous_share <= 1 or batch_size < 1:
            raise ConfigError(
                f"window_seconds {window_seconds}, previous_share {previous_share}, batch_size {batch_size}; allowed are above 0, 0 to 1, "
                "and 1 or more"
            )
        require_audio()
        self.path, self.fractions, self.skipped = Path(path), _checked_fractions(split_fractions), []
        self.window_seconds, self.previous_share, self.batch_size = window_seconds, previous_share, batch_size
        self.layout, clips = self._found(layout, None if table is None else Path(table), (audio_key, text_key))
        self._clips: dict[str, list[Clip]] = {split: [] for split in SPLITS}
        for clip in clips:
            if isinstance(clip, str):
                self.skipped.append(clip)
            else:
                self._add(clip)
        self._settle(on_bad)
        self.kinds = sorted({clip.kind for clips in self._clips.values() for clip in clips if clip.kind})

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
        return SpeechSplit(self._clips[name], self.previous_share, self.batch_size)

    def captions(self) -> list[str]:
        """The texts of training, each once, to train a tokenizer on."""
        return list(dict.fromkeys(clip.text for clip in self._clips["train"]))

    def _found(self, layout: str, table: Path | None, keys: tuple[str, str]) -> tuple[str, Iterator[Clip | str]]:
        """The layout, and the clips and faults as they are read."""
        if self.path.is_file():
            table, root = self.path, self.path.parent
        elif self.path.is_dir():
            root = self.path
        else:
            raise DataError(f"data.path: {self.path} does not exist; give a folder of recordings (the current folder is {Path.cwd()})")
        if table is not None:
            found = root / table if (root / table).is_file() else table
            if not found.is_file():
                raise DataError(f"data.table: there is no file {found}; its name ends in one of {' '.join(SUFFIXES)}")
            return "table", table_clips(found, *keys)
        known: dict[str, Callable[[], Iterator[Clip | str] | None]] = {
            "ljspeech": lambda: ljspeech_clips(root),
            "table": lambda: next((table_clips(root / name, *keys) for name in TABLES if (root / name).is_file()), None),
            "librispeech": lambda: librispeech_clips(root),
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

    def _add(self, clip: Clip) -> None:
        """Put a clip, or its windows, into its split."""
        split = clip.split or _hashed_split(clip.text, self.fractions)
        if self.window_seconds is None or not clip.segments:
            self._clips[split].append(clip)
            return
        try:
            self._clips[split] += windows_of(clip, self.window_seconds)
        except DataError as fault:
            self.skipped.append(str(fault))

    def _settle(self, on_bad: str) -> None:
        """Refuse faults, or a source without recordings."""
        count, shown = len(self.skipped), "".join(f"\n  {fault}" for fault in self.skipped[:FAULTS_SHOWN])
        if count and on_bad == "error":
            raise DataError(f"{self.path}: {count} bad row{'' if count == 1 else 's'}; mend, or leave out with on_bad=skip{shown}")
        if not any(self._clips.values()):
            raise DataError(f"{self.path}: no recording that can be used ({self.layout}){shown}")


class SpeechSplit:
    """One split; a sample holds the path of its recording, which the processor reads as far as it needs, or the samples of a window."""

    def __init__(self, clips: Sequence[Clip], previous_share: float = 0.0, batch_size: int = 1) -> None:
        self.clips, self.previous_share, self.batch_size = clips, previous_share, batch_size

    def __len__(self) -> int:
        return len(self.clips)

    def identities(self, modality: str) -> list[str] | None:
        """Which recording each item holds, as rows of a table may share one; None where every item is one of its own."""
        paths = [str(clip.path) if clip.start is None else f"{clip.path} at {clip.start}" for clip in self.clips]
        return paths if modality == "audio" and max(Counter(paths).values()) > 1 else None

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Item ``index``; in training some are given what was said before them."""
        clip = self.clips[index]
        if not clip.path.is_file():
            raise ItemError(f"item {clip.id}: {clip.path} is not there any more; restore it", "audio")
        audio = clip.path if clip.start is None else read_piece(clip.path, clip.start, clip.seconds or 0.0)
        inputs = {"audio": audio, "text": clip.text, **{key: clip.further[key] for key in ("language", "task") if key in clip.further}}
        if clip.segments:
            inputs["segments"] = list(clip.segments)
        if generator is not None and self.previous_share and generator.random() < self.previous_share and (before := self._before(index)):
            inputs["previous"] = before
        return Sample(clip.id, inputs, group=_group(clip.text), kind=clip.kind)

    def order(self, seed: int, epoch: int) -> Order:
        """At random, or batches of nearly equal length in random order, so that little is padded."""
        if self.batch_size == 1:
            return np.random.default_rng((seed, epoch)).permutation(len(self.clips))
        return bucketed(self._seconds, self.batch_size, seed, epoch)

    @cached_property
    def _seconds(self) -> Float[np.ndarray, " items"]:
        return np.array([clip.seconds or seconds_in_header(clip.path) for clip in self.clips])

    def _before(self, index: int) -> str:
        """What was said before an item in the same reading, as far as this split has it without a gap; or what the table says."""
        texts, place, told = [], self.clips[index].place, self.clips[index].further.get("previous", "")
        while place is not None and index > 0 and sum(map(len, texts)) < PREVIOUS_CHARACTERS:
            index, place = index - 1, (place[0], place[1] - 1)
            if self.clips[index].place != place:
                break
            texts.append(self.clips[index].text)
        return " ".join(reversed(texts)) or told


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
