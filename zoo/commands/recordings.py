"""Recordings that the command line names: files, folders, and pipes."""

import os
import shutil
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from zoo.commands.plain import say
from zoo.errors import DataError
from zoo.processors.media.image_file import walk_files
from zoo.processors.media.sound_kinds import AUDIO_SUFFIXES, looks_like_sound

STANDARD_INPUT = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
DESCRIPTORS = ("/dev/fd/", "/proc/self/fd/")  # what a shell puts in place of <(COMMAND)


@dataclass(frozen=True)
class Item:
    """Recording, the relative path of its transcripts without suffix, and its name for messages."""

    path: Path
    stem: Path
    name: str

    def files(self, directory: Path, formats: Sequence[str]) -> list[Path]:
        """Return the paths of its transcripts, one per format."""
        return [directory / f"{self.stem}.{format}" for format in formats]

    def is_done(self, directory: Path, formats: Sequence[str]) -> bool:
        """Return True if all transcripts exist and none is older than the recording."""
        try:
            recorded = self.path.stat().st_mtime_ns
            return all(file.stat().st_mtime_ns >= recorded for file in self.files(directory, formats))
        except OSError:
            return False


@contextmanager
def given_recordings(given: Sequence[str]) -> Iterator[list[Item]]:
    """Yield the recordings that the command line names; the bytes of a pipe are kept in a temporary file until the end.

    Raises:
        DataError: as ``list_recordings``, or nothing comes through a pipe.
    """
    if not given:
        raise DataError("no recordings; give files, folders, or - for standard input")
    with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
        piped = [Item(_kept(name, said, Path(folder) / said.replace("/", " ")), Path(stem), said) for name, stem, said in _pipes(given)]
        others = [name for name in given if not _is_pipe(name)]
        yield piped + (list_recordings(others) if others else [])


def _pipes(given: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return path, name of the transcripts and name for messages of each pipe among the given paths, standard input once."""
    found = {}
    for name in filter(_is_pipe, given):
        standard = name in STANDARD_INPUT
        found["-" if standard else name] = (name, "stdin" if standard else f"pipe{Path(name).name}", "standard input" if standard else name)
    return list(found.values())


def _is_pipe(name: str) -> bool:
    """Return True for standard input and for the file descriptors of a shell; a named pipe elsewhere is no recording."""
    if name in STANDARD_INPUT:
        return True
    try:
        return name.startswith(DESCRIPTORS) and stat.S_ISFIFO(os.stat(name).st_mode)
    except OSError:
        return False


def _kept(name: str, said: str, file: Path) -> Path:
    """Copy a pipe to a file up to its end."""
    if name in STANDARD_INPUT and sys.stdin.isatty():
        raise DataError(f"{said}: is a terminal; pipe a recording into it, or use --microphone")
    try:
        if name in STANDARD_INPUT:
            with file.open("wb") as copy:
                shutil.copyfileobj(sys.stdin.buffer, copy, 2**20)
        else:
            with open(name, "rb") as source, file.open("wb") as copy:
                shutil.copyfileobj(source, copy, 2**20)
    except OSError as error:
        raise DataError(f"{said}: cannot be read into a temporary file ({error.strerror}); save it to a file first") from error
    if not file.stat().st_size:
        raise DataError(f"{said}: nothing came; check the command before the pipe")
    return file


def list_recordings(given: Sequence[str]) -> list[Item]:
    """List the given files, and all recordings below the given folders, each once.

    A transcript has the name of its recording without the suffix; if two recordings differ only in the suffix, both keep it.

    Raises:
        DataError: a path does not exist, a folder holds no recordings, or two recordings would have the same transcript.
    """
    found: dict[Path, Path] = {}
    for name in given:
        path = Path(name)
        if path.is_dir():
            for file in _recordings_in(path):
                found.setdefault(file, file.relative_to(path))
        elif path.exists():
            found.setdefault(path, Path(path.name))
        else:
            raise DataError(f"{path}: no such file or folder; check the path (the current folder is {Path.cwd()})")
    short = Counter(place.with_suffix("") for place in found.values())
    whole = Counter(found.values())
    if duplicates := [place for place, count in whole.items() if count > 1]:
        raise DataError(f"{duplicates[0]}: {whole[duplicates[0]]} recordings have this name; transcribe their folders separately")
    stems = {path: place if short[place.with_suffix("")] > 1 else place.with_suffix("") for path, place in found.items()}
    return [Item(path, stem, str(path)) for path, stem in stems.items()]


def _recordings_in(folder: Path) -> list[Path]:
    """Return the recordings in a folder and below, by suffix or content; the number of the other files is printed.

    Raises:
        DataError: there are none.
    """
    files = list(walk_files(folder))
    inside = [file for file in files if looks_like_sound(file)]
    if not inside:
        raise DataError(f"{folder}: no recordings in this folder or below; allowed are {', '.join(AUDIO_SUFFIXES)}")
    others = Counter(file.suffix.lower() or "no suffix" for file in files if file not in set(inside))
    if others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in others.most_common(8))
        say(f"zoo: {folder}: {others.total()} files are no recordings and were left out ({kinds})", file=sys.stderr)
    return inside
