"""Speech recordings with transcripts: a table of paths and texts, LJSpeech, LibriSpeech, Common Voice, or the prompts of Asterisk.

Layouts: a CSV or JSON-lines table (``zoo fetch asterisk_sounds`` writes one; NeMo's manifests and Hugging Face's audio folders are such
tables too); LJSpeech 1.1, ``metadata.csv`` with lines ``id|text|normalised text`` beside ``wavs/``; LibriSpeech (Panayotov et al. 2015),
``SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt`` beside FLAC files; Common Voice (Ardila et al. 2020), ``train.tsv``, ``dev.tsv`` and
``test.tsv`` beside ``clips/``.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float

from zoo.data.groups import stable_group
from zoo.data.order import Order, bucketed
from zoo.data.readers.recordings import Clip, common_voice_clips, librispeech_clips, ljspeech_clips, table_clips, windows_of
from zoo.data.readers.table import SUFFIXES
from zoo.errors import ConfigError, DataError, ItemError, name_choices
from zoo.processors.media.audio_file import read_piece, require_audio, seconds_in_header
from zoo.registry import register
from zoo.types import Sample, Source, Split

SPLITS = ("train", "validation", "test")
LAYOUTS = ("auto", "table", "ljspeech", "librispeech", "common_voice")
TABLES = ("table.jsonl", "table.csv", "metadata.jsonl", "metadata.csv", "manifest.json")  # names tried in this order if no table is given
POLICIES = ("error", "skip")
FAULTS_SHOWN = 5
PREVIOUS_CHARACTERS = 1000  # of preceding text; more than the 223 tokens that fit into Whisper's prompt


@register("source")
class Speech(Source):
    """Speech recordings and their transcripts; recordings are read lazily.

    Recordings without a given split are assigned by a hash of their text, so that no text is in two splits. Recordings whose texts are
    equal (ignoring case and spaces) share a group.

    Args:
        path: the folder, or a table file.
        layout: "table", "ljspeech", "librispeech", "common_voice", or "auto" to detect it.
        table: CSV or JSON-lines file, in ``path`` or elsewhere; paths in it are relative to it. Optional columns: ``split``; ``kind``, for
            which evaluation reports separate results (LibriSpeech's subsets are kinds); ``previous``, the text spoken before; ``language``
            and ``task`` of the text; ``seconds`` or ``duration``. JSON lines may also have ``segments``, a list of objects with ``start``,
            ``end`` (in seconds) and ``text``.
        audio_key: column of the paths. None takes the first that exists: path, audio_filepath, file_name, audio_path, audio, wav.
        text_key: column of the transcripts. None takes the first that exists: text, sentence, transcription, transcript, normalized_text.
            An empty text means a recording without speech; all words that a model writes for it count as insertions.
        split_fractions: shares of train, validation and test for recordings without a given split.
        window_seconds: cut recordings with segments into windows of this length (Whisper: 30), each with its segments; None keeps them
            whole.
        previous_share: share of the training samples that get the preceding text as ``previous``: the window before, the earlier utterances
            of the same chapter (LJSpeech, LibriSpeech), or the column ``previous``. Whisper was trained with 0.5.
        batch_size: number of neighbouring training items of nearly equal length (use the value of training.batch_size); 1 gives a random
            order.
        on_bad: "error" raises DataError for faulty rows; "skip" leaves them out and lists them in ``skipped``.

    Raises:
        ConfigError: a value is not allowed, or the libraries that read audio are not installed.
        DataError: the path does not exist, has no usable recording, or has faulty rows and ``on_bad`` is "error".
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
        audio_key: str | None = None,
        text_key: str | None = None,
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
                f"window_seconds {window_seconds}, previous_share {previous_share}, batch_size {batch_size}; "
                "allowed are above 0, from 0 to 1, and 1 or more"
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
        """Return the samples of one split.

        Raises:
            ConfigError: no such split.
            DataError: the split is empty.
        """
        if name not in SPLITS:
            raise ConfigError(f"split: there is no {name!r}; {name_choices(name, SPLITS)}")
        if not self._clips[name]:
            counts = ", ".join(f"{split} {len(clips)}" for split, clips in self._clips.items())
            raise DataError(f"{self.path}: the split {name!r} has no recording ({counts}); add recordings, or change split_fractions")
        return SpeechSplit(self._clips[name], self.previous_share, self.batch_size)

    def captions(self) -> list[str]:
        """Return the transcripts of the training split without duplicates, as text to train a tokenizer on."""
        return list(dict.fromkeys(clip.text for clip in self._clips["train"]))

    def _found(self, layout: str, table: Path | None, keys: tuple[str | None, str | None]) -> tuple[str, Iterator[Clip | str]]:
        """Detect the layout, and return its name and an iterator over clips and faults.

        Args:
            keys: columns of the audio path and of the text in a table.

        Raises:
            DataError: the path or the table does not exist, or the folder has none of the layouts.
        """
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
            "common_voice": lambda: common_voice_clips(root),
        }
        for name, read in known.items():
            clips = read() if layout in ("auto", name) else None
            if clips is not None:
                return name, clips
        wanted = {
            "table": f"a table ({', '.join(TABLES)})",
            "ljspeech": "metadata.csv beside wavs/",
            "librispeech": "*.trans.txt in its folders",
            "common_voice": "train.tsv, dev.tsv or test.tsv beside clips/",
        }
        missing = " nor ".join(wanted.values()) if layout == "auto" else wanted[layout]
        raise DataError(
            f"data.path: {self.path} holds {'neither' if layout == 'auto' else 'no'} {missing}; give a table with data.source.table=FILE"
        )

    def _add(self, clip: Clip) -> None:
        """Add a clip, or its windows, to its split."""
        split = clip.split or _hashed_split(clip.text, self.fractions)
        if self.window_seconds is None or not clip.segments:
            self._clips[split].append(clip)
            return
        try:
            self._clips[split] += windows_of(clip, self.window_seconds)
        except DataError as fault:
            self.skipped = [*self.skipped, str(fault)]

    def _settle(self, on_bad: str) -> None:
        """Raise DataError if there are faults and ``on_bad`` is "error", or if no recording is left."""
        count, shown = len(self.skipped), "".join(f"\n  {fault}" for fault in self.skipped[:FAULTS_SHOWN])
        if count and on_bad == "error":
            raise DataError(
                f"{self.path}: {count} bad row{'' if count == 1 else 's'}; correct them, or skip them with data.source.on_bad=skip{shown}"
            )
        if not any(self._clips.values()):
            raise DataError(f"{self.path}: no recording that can be used ({self.layout}){shown}")


class SpeechSplit(Split):
    """One split of recordings; a sample holds the path of its recording, which the processor reads, or the waveform of a window."""

    def __init__(self, clips: Sequence[Clip], previous_share: float = 0.0, batch_size: int = 1) -> None:
        self.clips, self.previous_share, self.batch_size = clips, previous_share, batch_size

    def __len__(self) -> int:
        return len(self.clips)

    def identities(self, modality: str) -> list[str] | None:
        """Return an identifier of each item's recording if some items share a recording, else None."""
        paths = [str(clip.path) if clip.start is None else f"{clip.path} at {clip.start}" for clip in self.clips]
        return paths if modality == "audio" and max(Counter(paths).values()) > 1 else None

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Return item ``index``; with a generator, a share of the samples also gets the preceding text as ``previous``.

        Raises:
            ItemError: the recording does not exist any more.
        """
        clip = self.clips[index]
        if not clip.path.is_file():
            raise ItemError(f"item {clip.id}: {clip.path} does not exist any more; restore it", "audio")
        audio = clip.path if clip.start is None else read_piece(clip.path, clip.start, clip.seconds or 0.0)
        inputs = {"audio": audio, "text": clip.text, **{key: clip.further[key] for key in ("language", "task") if key in clip.further}}
        if clip.segments:
            inputs["segments"] = list(clip.segments)
        if generator is not None and self.previous_share and generator.random() < self.previous_share and (before := self._before(index)):
            inputs["previous"] = before
        return Sample(clip.id, inputs, group=_group(clip.text), kind=clip.kind)

    def order(self, seed: int, epoch: int) -> Order:
        """Return a random order, or batches of nearly equal length in random order to reduce padding."""
        if self.batch_size == 1:
            return np.random.default_rng((seed, epoch)).permutation(len(self.clips))
        return bucketed(self._seconds, self.batch_size, seed, epoch)

    @cached_property
    def _seconds(self) -> Float[np.ndarray, " items"]:
        return np.array([clip.seconds or seconds_in_header(clip.path) for clip in self.clips])

    def _before(self, index: int) -> str:
        """Return the text before an item in the same reading, as far back as this split has no gap; else the column ``previous``."""
        texts, place, told = [], self.clips[index].place, self.clips[index].further.get("previous", "")
        while place is not None and index > 0 and sum(map(len, texts)) < PREVIOUS_CHARACTERS:
            index, place = index - 1, (place[0], place[1] - 1)
            if self.clips[index].place != place:
                break
            texts.append(self.clips[index].text)
        return " ".join(reversed(texts)) or told


def _group(text: str) -> int:
    """Hash a text so that case and spaces do not matter."""
    return stable_group(" ".join(text.lower().split()))


def _hashed_split(text: str, fractions: tuple[float, ...]) -> str:
    """Choose the split by a hash of the text: with (0.9, 0.05, 0.05), below 0.9 is train, below 0.95 validation, else test."""
    position = _group(text) / 2**63
    if position < fractions[0]:
        return "train"
    in_test = fractions[2] > 0 and position >= fractions[0] + fractions[1]
    return "test" if in_test or fractions[1] == 0 else "validation"


def _checked_fractions(fractions: Sequence[float]) -> tuple[float, ...]:
    if isinstance(fractions, str) or len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ConfigError(f"split_fractions: {fractions!r}; three shares of train, validation and test that sum to 1, as [0.9, 0.05, 0.05]")
    return tuple(map(float, fractions))
