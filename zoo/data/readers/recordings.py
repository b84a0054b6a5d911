"""Readers of speech data sets (table, LJSpeech, LibriSpeech, Common Voice), and the cutting of long recordings into windows.

A reader yields a ``Clip`` for each usable entry, and a string for each entry that cannot be used: its position and the reason.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from zoo.data.readers.table import CSV_SUFFIXES, Row, missing_key, read_table
from zoo.errors import DataError, name_choices
from zoo.processors.media.sound_kinds import AUDIO_SUFFIXES
from zoo.storage.outside import refuse_special

SPLIT_WORDS = {"train": "train", "validation": "validation", "val": "validation", "dev": "validation", "test": "test"}
SEGMENT_KEYS = ("start", "end", "text")
FURTHER_KEYS = ("language", "task", "previous")  # optional columns: language and task of the text, and the text spoken before it
# Names of the columns in the tables of publishers, in the order in which they are tried: ours, NeMo's manifests, Hugging Face's folders.
AUDIO_KEYS = ("path", "audio_filepath", "file_name", "audio_path", "audio", "wav")
TEXT_KEYS = ("text", "sentence", "transcription", "transcript", "normalized_text")
SECONDS_KEYS = ("seconds", "duration")
COMMON_VOICE_SPLITS = {"train": "train", "dev": "validation", "test": "test"}  # name of the .tsv file -> split

Segment = tuple[float, float | None, str]


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording, or a window of one, with its transcript.

    Attributes:
        split: None chooses the split by a hash of the text.
        segments: (start, end, text) of each segment, in seconds from the beginning of the clip. An end of None means that the segment ends
            after the clip; its text is then empty.
        further: values of the optional columns ``FURTHER_KEYS``.
        place: (reading, number): the reading, for example a chapter, and the position in it. Number n follows number n - 1 in time.
        seconds: duration, or None if it is not known.
        start: start of a window, in seconds from the beginning of the recording; None means the whole recording.
    """

    path: Path
    id: str
    text: str
    split: str | None = None
    kind: str = ""
    segments: tuple[Segment, ...] = ()
    further: Mapping[str, str] = field(default_factory=dict)
    place: tuple[str, int] | None = None
    seconds: float | None = None
    start: float | None = None


def table_clips(table: Path, audio_key: str | None, text_key: str | None) -> Iterator[Clip | str]:
    """Yield the clips of a CSV or JSON-lines table; paths are relative to the table. JSON lines may have segments and no text.

    Args:
        audio_key: column of the paths; None takes the first of ``AUDIO_KEYS`` that a row has.
        text_key: column of the transcripts; None takes the first of ``TEXT_KEYS`` that a row has. An empty text is legal: the
            recording contains no speech.
    """
    is_csv = table.suffix.lower() in CSV_SUFFIXES
    needed = [key for key in (audio_key, text_key if is_csv else None) if key is not None]
    for row in read_table(table, needed):
        try:
            if row.fault is not None:
                raise DataError(row.fault)
            yield _row_clip(row, table.parent, audio_key, text_key)
        except DataError as fault:
            yield f"{table.name}, row {row.number}: {fault}"


def _row_clip(row: Row, folder: Path, audio_key: str | None, text_key: str | None) -> Clip:
    """Return the clip of a row.

    Raises:
        DataError: the row cannot be used; the message gives the reason.
    """
    values, segments = row.values, _segments(row.values.get("segments"))
    audio_key, text_key = audio_key or _present(values, AUDIO_KEYS), text_key or _present(values, TEXT_KEYS)
    said = " ".join(text.strip() for _, _, text in segments)
    text = _text(values, text_key) if text_key in values or not said.strip() else said
    name, split = _words(values, audio_key), values.get("split") or None
    if split is not None and split not in SPLIT_WORDS:
        raise DataError(f"split is {split!r}; {name_choices(str(split), SPLIT_WORDS)}")
    path = Path(os.path.normpath(folder / name))
    if not path.is_file():
        raise DataError(f"there is no file {name!r}")
    further = {key: _words(values, key) for key in FURTHER_KEYS if values.get(key)}
    kind = str(values.get("kind") or "")
    return Clip(path, name, text, SPLIT_WORDS.get(split or ""), kind, segments, further, seconds=_seconds(values))


def _present(values: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Return the first of several column names that a row has, else the first one, which a message then says is missing."""
    return next((key for key in keys if key in values), keys[0])


def _seconds(values: Mapping[str, Any]) -> float | None:
    seconds = values.get(_present(values, SECONDS_KEYS))
    return float(seconds) if isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds > 0 else None


def _text(values: Mapping[str, Any], key: str) -> str:
    """Return the transcript of a row; empty if the recording contains no speech."""
    value = values.get(key)
    return value.strip() if isinstance(value, str) else _words(values, key)


def _words(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        raise DataError(missing_key(key, list(values)))
    value = values[key]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{key} is {'empty' if isinstance(value, str) else repr(value)}, where a text is expected")
    return value.strip()


def _segments(raw: Any) -> tuple[Segment, ...]:
    """Parse ``[{"start": 0.0, "end": 1.5, "text": "Hello."}, ...]``: times in seconds, in rising order.

    Raises:
        DataError: the value has another form, or segments overlap.
    """
    if raw in (None, "", []):
        return ()
    if not isinstance(raw, list) or not all(isinstance(each, dict) and set(SEGMENT_KEYS) <= set(each) for each in raw):
        raise DataError(f"segments are {str(raw)[:60]!r}, where a list of objects with {', '.join(SEGMENT_KEYS)} is expected")
    found, latest = [], 0.0
    for each in raw:
        start, end, text = (each[key] for key in SEGMENT_KEYS)
        if not all(isinstance(time, int | float) and not isinstance(time, bool) for time in (start, end)) or not isinstance(text, str):
            raise DataError(f"segments: {str(each)[:60]} needs 'start' and 'end' as numbers (seconds) and 'text' as a string")
        if not latest <= start <= end:
            raise DataError(f"segments: {start:g} to {end:g} s comes after {latest:g} s; times must rise, and segments must not overlap")
        found.append((float(start), float(end), text.strip()))
        latest = float(end)
    return tuple(found)


def ljspeech_clips(root: Path) -> Iterator[Clip | str] | None:
    """Read LJSpeech: ``metadata.csv`` with lines ``id|text|normalised text``, beside ``wavs/``; None if the folder has another layout.

    If the normalised text is empty or missing, the text is taken.
    """
    return _ljspeech_lines(root) if (root / "metadata.csv").is_file() and (root / "wavs").is_dir() else None


def _ljspeech_lines(root: Path) -> Iterator[Clip | str]:
    for number, line in enumerate(text_lines(root / "metadata.csv"), start=1):
        fields = line.split("|")  # not a quoted CSV: quotation marks are part of the text
        path, text = root / "wavs" / f"{fields[0]}.wav", next((text for part in fields[:0:-1] if (text := part.strip())), "")
        if len(fields) in (2, 3) and text and path.is_file():
            chapter = fields[0].rpartition("-")[0]  # LJ001-0007 is the seventh utterance of chapter LJ001
            yield Clip(path, fields[0], text, place=(chapter, number))
            continue
        shape = f"{len(fields)} fields between |, where 2 or 3 are expected"
        fault = shape if len(fields) not in (2, 3) else "no text" if not text else f"there is no file wavs/{path.name}"
        yield f"metadata.csv, line {number}: {fault}"


def librispeech_clips(root: Path) -> Iterator[Clip | str] | None:
    """Read LibriSpeech: ``SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt`` beside recordings; None if the folder has another layout.

    The first word of a subset's name gives the split ("dev-clean" is validation), and the whole name is the clip's ``kind``. ``root`` may
    be a subset itself.
    """
    files = sorted(root.rglob("*.trans.txt"))
    return _librispeech_lines(root, files) if files else None


def _librispeech_lines(root: Path, files: Sequence[Path]) -> Iterator[Clip | str]:
    for file in files:
        folders = [*file.relative_to(root).parts[:-1], root.absolute().name]
        subset = next((part for part in folders if part.partition("-")[0] in SPLIT_WORDS), "")
        split, chapter = SPLIT_WORDS.get(subset.partition("-")[0]), str(file.relative_to(root))
        for number, line in enumerate(text_lines(file), start=1):
            name, _, text = line.strip().partition(" ")
            path = next((p for s in AUDIO_SUFFIXES if (p := file.parent / f"{name}{s}").is_file()), None)
            if path is not None and text.strip():
                yield Clip(path, name, text.strip(), split, subset, place=(chapter, number))
            else:
                yield f"{file.name}, line {number}: {'no text' if path else f'there is no recording {name!r}'}"


def common_voice_clips(root: Path) -> Iterator[Clip | str] | None:
    """Read Common Voice: ``train.tsv``, ``dev.tsv`` and ``test.tsv`` beside ``clips/``; None if the folder has another layout.

    If none of the three exists, ``validated.tsv`` is read, and splits are chosen by the texts. Cells are not quoted. The columns ``path``
    and ``sentence`` are needed; ``locale`` gives the language of the text.
    """
    if not (root / "clips").is_dir():
        return None
    files = [root / f"{name}.tsv" for name in COMMON_VOICE_SPLITS if (root / f"{name}.tsv").is_file()]
    files = files or [path for path in [root / "validated.tsv"] if path.is_file()]
    return _common_voice_lines(root, files) if files else None


def _common_voice_lines(root: Path, files: Sequence[Path]) -> Iterator[Clip | str]:
    for file in files:
        header, *lines = text_lines(file) or [""]
        columns = header.split("\t")
        missing = [key for key in ("path", "sentence") if key not in columns]
        if missing:
            yield f"{file.name}, line 1: {missing_key(missing[0], columns)}"
            continue
        for number, line in enumerate(lines, start=2):
            cells = line.split("\t")  # not a quoted table: quotation marks are part of the text
            if len(cells) != len(columns):
                yield f"{file.name}, line {number}: {len(cells)} cells where the header has {len(columns)}"
                continue
            values = dict(zip(columns, map(str.strip, cells), strict=True))
            name, text, language = values["path"], values["sentence"], values.get("locale")
            path = next((p for suffix in ("", ".mp3") if (p := root / "clips" / f"{name}{suffix}").is_file()), None)
            if path is not None and text:
                further = {"language": language} if language else {}
                yield Clip(path, path.stem, text, COMMON_VOICE_SPLITS.get(file.stem), further=further)
            else:
                yield f"{file.name}, line {number}: {'no text' if path else f'there is no file clips/{name}'}"


def windows_of(clip: Clip, seconds: float) -> Iterator[Clip]:
    """Cut a recording with segments into windows of equal length; a segment that does not fit into a window begins the next one.

    If a window cuts a segment, the window gets the segment's start time but neither its end nor its text, as in Whisper's training data.
    Example: with windows of 30 s and segments 0-10, 12-28, 29-35 and 36-40, the windows begin at 0 (segments 0-10, 12-28, 29-) and at 29
    (segments 0-6, 7-11). Windows without a segment are left out.

    Args:
        seconds: length of a window.

    Source: Radford et al. 2022 (arXiv 2212.04356), section 2.3.

    Raises:
        DataError: a segment is longer than a window.
    """
    begin, number = 0.0, 0
    rest = [(start, math.inf if end is None else end, text) for start, end, text in clip.segments]
    while rest:
        begin += max(0.0, (rest[0][0] - begin) // seconds) * seconds  # skip windows without speech
        end = begin + seconds
        held = list(takewhile(lambda each, end=end: each[1] <= end, rest))
        rest = rest[len(held) :]
        cut = rest[0] if rest and rest[0][0] < end else None  # the segment that the end of the window cuts
        if held:
            shown = [(first - begin, last - begin, text) for first, last, text in held] + ([(cut[0] - begin, None, "")] if cut else [])
            text, name = " ".join(text for _, _, text in held), f"{clip.id} at {begin:g} s"
            place = (f"{clip.path} {clip.id}", number)
            yield replace(clip, id=name, text=text, segments=tuple(shown), place=place, seconds=seconds, start=begin)
            number += 1
        elif cut and cut[0] == begin:
            raise DataError(f"{clip.id}: the segment at {begin:g} s is longer than a window of {seconds:g} s; cut it in two")
        begin = cut[0] if cut else end


def text_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not empty.

    Raises:
        DataError: the file cannot be read, or is not UTF-8.
    """
    refuse_special(path)
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); it has to be a UTF-8 text file") from error
