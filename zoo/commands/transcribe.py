"""``zoo transcribe``: transcribe recordings, to the terminal or to files.

A file ``transcribe.json`` beside the transcripts records the model and the settings. The job can be killed at any time: each transcript is
written atomically, and the same command continues with the remaining recordings.
"""

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from zoo.assembly.save_load import load
from zoo.commands.display import print_json
from zoo.commands.live import refuse_live_options, transcribe_live
from zoo.commands.model_options import placement
from zoo.commands.plain import say
from zoo.commands.recordings import Item, given_recordings
from zoo.commands.worker_options import shares_work
from zoo.commands.workers import Advance, ListJob, has_parts, parts_folder, run_shared
from zoo.downloads.fetching import is_cached
from zoo.downloads.table import find_asset
from zoo.errors import ConfigError, DataError, name_choices
from zoo.language.transcription.decoding import Recogniser
from zoo.language.transcription.settings import Settings
from zoo.language.transcription.subtitles import Layout
from zoo.language.transcription.transcribe import recogniser_of
from zoo.language.transcription.windows import OnProgress, transcribe_each
from zoo.language.transcription.writers import WRITERS, format_time, written
from zoo.processors.media.audio_file import Track, seconds_in_header
from zoo.runs.jobs.parts import PATIENCE_S
from zoo.storage.files import write_text_atomically
from zoo.storage.lock import alone
from zoo.storage.outside import printable
from zoo.storage.places import cache_directory
from zoo.training.fingerprint import hash_parameters
from zoo.types import Transcript, verbs_of

DEFAULT_MODEL = "whisper_tiny_en"  # downloaded by ``zoo fetch``
NOTE_FILE = "transcribe.json"  # in the output folder: model and settings of the transcripts


def transcribe_command(options: Namespace) -> int:
    """Run the command and return the exit status: 0, 1 if a recording could not be read, or 130 if the user interrupted it."""
    formats, layout = _formats(options.format), _layout(options)
    settings = _settings(options)
    if options.live or options.microphone:
        refuse_live_options(options)
        return transcribe_live(open_recogniser(options, settings)[1], options)
    with given_recordings(options.paths) as items:
        if shares_work(options) or (options.output and has_parts(Path(options.output) / NOTE_FILE)):
            return run_shared(TranscribeJob(options, formats, layout, settings, items), options)
        return _transcribe(options, formats, layout, settings, items)


class TranscribeJob(ListJob):
    """Transcription shared among workers; it needs ``--output``, and recordings that are files.

    Raises:
        ConfigError: ``--output`` is missing, a recording comes through a pipe, or finished parts belong to another job.
    """

    def __init__(self, options: Namespace, formats: list[str], layout: Layout, settings: Settings, items: list[Item]) -> None:
        if options.output is None:
            raise ConfigError("--output: missing; several workers need a folder to write, for example --output transcripts")
        if piped := [item.name for item in items if str(item.path) != item.name]:
            raise ConfigError(f"{piped[0]}: a pipe can be read once, by one process; leave out --workers and --shard")
        self.formats, self.layout, self.settings, self.items = formats, layout, settings, items
        self.directory = Path(options.output)
        job = {**asdict(settings), "model": options.model, "formats": formats, "track": options.track, "precision": options.precision}
        job |= {"batch_size": options.batch_size, "overwrite": options.overwrite, **_limits(layout)}
        super().__init__("transcribe", parts_folder(self.directory / NOTE_FILE), job, [item.name for item in items], options)

    def open(self) -> Callable[[range, Advance], Iterator[dict[str, Any]]]:
        """Load the model; return a function that transcribes recordings and writes their transcripts."""
        system, recogniser = open_recogniser(self.options, self.settings)
        facts = _facts(system, recogniser, self.options, self.layout)
        self.parts.agree("weights", facts["weights"])
        with alone(self.directory / ".lock", f"--output: {self.directory}: another worker is preparing it", patience_s=PATIENCE_S):
            _prepare(self.directory, facts, self.items, self.formats, overwrite=self.options.overwrite)

        def run(span: range, advance: Advance) -> Iterator[dict[str, Any]]:
            items = self.items[span.start : span.stop]
            lines: dict[str, dict[str, Any]] = {}
            todo = [item for item in items if self.options.overwrite or not item.is_done(self.directory, self.formats)]
            report = _Report(todo, self.directory, self.formats, self.layout, as_json=True, print_line=_kept_in(lines, advance))
            for number, transcript in transcribe_each(recogniser, _paths(todo, self.options), batch_size=self.options.batch_size):
                report.take(number, transcript, lambda text: None)
            return (lines.get(item.name, {"path": item.name, "exists": True}) for item in items)

        return run

    def join(self) -> int:
        """Count and show the results of all parts; the transcripts are there already."""
        failed, seconds, existed = 0, 0.0, 0
        for line in self.parts.lines():
            failed += self.is_fault(line)
            existed += "exists" in line
            seconds += line.get("duration_s", 0.0)
            if self.options.json and "exists" not in line:
                print_json(line)
            elif self.is_fault(line):
                say(f"zoo: {line['error']}", file=sys.stderr)
        if existed:
            _say_existing(existed, len(self.items))
        status = _show_counts(self.directory, self.formats, len(self.items) - existed, failed, seconds, as_json=self.options.json)
        self.parts.remove()
        return status


def _kept_in(lines: dict[str, dict[str, Any]], advance: Advance) -> Callable[[dict[str, Any]], None]:
    """Return a function that keeps a recording's line by its path."""

    def keep(line: dict[str, Any]) -> None:
        lines[line["path"]] = line
        advance(1)

    return keep


def _paths(items: Sequence[Item], options: Namespace) -> Iterator[Path | Track]:
    return (item.path if options.track is None else Track(item.path, options.track) for item in items)


def _say_existing(existed: int, count: int) -> None:
    say(f"zoo: {existed} of {count} transcripts exist already; --overwrite transcribes again", file=sys.stderr)


def _facts(system: Any, recogniser: Recogniser, options: Namespace, layout: Layout) -> dict[str, Any]:
    """Return what the transcripts of a folder have in common."""
    return {"weights": hash_parameters(system), **asdict(recogniser.settings), "track": options.track, **_limits(layout)}


def open_recogniser(options: Namespace, settings: Settings) -> tuple[Any, Recogniser]:
    """Load the model of the command line; return it and its recogniser.

    Raises:
        ConfigError: the device or the model cannot be used.
    """
    place = placement(options)
    system: Any = load(_chosen_model(options.model), **place)
    if "transcribe" not in verbs_of(system):
        raise ConfigError(f"--model: {options.model} cannot transcribe; it needs a head 'whisper' (see: zoo list 'whisper_*')")
    return system, recogniser_of(system, settings)


def _transcribe(options: Namespace, formats: list[str], layout: Layout, settings: Settings, items: list[Item]) -> int:
    system, recogniser = open_recogniser(options, settings)
    directory = None if options.output is None else Path(options.output)
    todo = items
    if directory is not None:
        _prepare(directory, _facts(system, recogniser, options, layout), items, formats, overwrite=options.overwrite)
        todo = [item for item in items if options.overwrite or not item.is_done(directory, formats)]
        if len(todo) < len(items):
            _say_existing(len(items) - len(todo), len(items))
    report = _Report(todo, directory, formats, layout, as_json=options.json)
    try:
        with seconds_progress(todo, as_json=options.json) as (on_progress, print_text):
            paths = _paths(todo, options)
            for number, transcript in transcribe_each(recogniser, paths, batch_size=options.batch_size, on_progress=on_progress):
                report.take(number, transcript, print_text)
    except KeyboardInterrupt:
        kept = f"; finished transcripts are kept in {directory}, and the same command resumes the job" if directory is not None else ""
        say(f"zoo: stopped{kept}", file=sys.stderr)
        return 130
    return report.finish()


class _Report:
    """Writer or printer of transcripts as they are finished; counts failures and seconds of audio."""

    def __init__(
        self,
        items: Sequence[Item],
        directory: Path | None,
        formats: Sequence[str],
        layout: Layout,
        *,
        as_json: bool,
        print_line: Callable[[dict[str, Any]], None] = print_json,
    ) -> None:
        self.items, self.directory, self.formats, self.layout, self.as_json = items, directory, formats, layout, as_json
        self.print_line = print_line
        self.failed, self.seconds = 0, 0.0

    def take(self, number: int, transcript: Transcript | DataError, print_text: Callable[[str], None]) -> None:
        item = self.items[number]
        if isinstance(transcript, DataError):
            self.failed += 1
            message = str(transcript).replace(str(item.path), item.name)
            message = message if item.name in message else f"{item.name}: {message}"
            self.print_line({"path": item.name, "error": message}) if self.as_json else say(f"zoo: {message}", file=sys.stderr)
            return
        self.seconds += transcript.duration_s
        written = [] if self.directory is None else self._write(item, transcript, self.directory)
        if self.as_json:
            files = {"written": [str(file) for file in written]} if written else {}
            self.print_line({"path": item.name, **files, **transcript.as_json()})
        elif self.directory is None:
            print_text(self._formatted(item, transcript))

    def _write(self, item: Item, transcript: Transcript, directory: Path) -> list[Path]:
        files = item.files(directory, self.formats)
        try:
            for file, format in zip(files, self.formats, strict=True):
                file.parent.mkdir(parents=True, exist_ok=True)
                write_text_atomically(file, written(format, transcript, self.layout))
        except OSError as error:
            raise DataError(f"--output: {error.filename or directory} cannot be written ({error.strerror}); give another folder") from error
        return files

    def _formatted(self, item: Item, transcript: Transcript) -> str:
        """Format a transcript for the terminal: text with times, or the chosen formats."""
        title = f"{item.name}:\n" if len(self.items) > 1 else ""
        if self.formats != ["txt"]:
            return title + "\n".join(written(format, transcript, self.layout) for format in self.formats)
        spoken = [segment for segment in transcript.segments if segment.text.strip()]
        lines = [f"[{format_time(s.start)} --> {format_time(s.end)}] {s.text.strip()}\n" for s in spoken]
        return title + ("".join(lines) or "(no speech)\n")

    def finish(self) -> int:
        """Print a summary and return the exit status: 0, or 1 if a recording could not be read."""
        return _show_counts(self.directory, self.formats, len(self.items), self.failed, self.seconds, as_json=self.as_json)


def _show_counts(directory: Path | None, formats: Sequence[str], items: int, failed: int, seconds: float, *, as_json: bool) -> int:
    """Print a summary and return the exit status: 0, or 1 if a recording could not be read."""
    if directory is not None and not as_json:
        say(f"{directory}: {items - failed} transcripts of {seconds / 60:.1f} minutes ({', '.join(formats)})")
    if failed:
        say(f"zoo: {failed} of {items} recordings could not be read; the others were transcribed", file=sys.stderr)
    return 1 if failed else 0


def _settings(options: Namespace) -> Settings:
    """Return the decoding settings of the command line.

    Raises:
        ConfigError: a value is not allowed; the message names the option.
    """
    if options.batch_size < 1:
        raise ConfigError(f"--batch-size: {options.batch_size}; allowed is 1 or more windows")
    return Settings(
        language=options.language,
        task=options.task,
        suppress_tokens=None if options.suppress_tokens is None else _ids("--suppress-tokens", options.suppress_tokens),
        temperatures=tuple(_number("--temperatures", word) or 0.0 for word in options.temperatures.split(","))
        if options.temperatures is not None
        else Settings.temperatures,
        num_beams=options.num_beams,
        best_of=options.best_of,
        patience=options.patience,
        length_penalty=options.length_penalty,
        compression_ratio_threshold=_number("--compression-ratio-threshold", options.compression_ratio_threshold),
        log_probability_threshold=_number("--log-probability-threshold", options.log_probability_threshold),
        no_speech_threshold=_number("--no-speech-threshold", options.no_speech_threshold),
        timestamps=False if options.no_timestamps else None,
        word_timestamps=options.word_timestamps,
        initial_prompt=options.initial_prompt,
        condition_on_previous_text=not options.no_previous_text,
        windows=options.windows,
        vad_filter=options.vad_filter,
        short=True if options.short else None,
        seed=options.seed,
    )


def _layout(options: Namespace) -> Layout:
    """Return the limits of subtitles.

    Raises:
        ConfigError: a limit is not allowed, or has no effect with these options.
    """
    layout = Layout(options.max_line_width, options.max_line_count, options.max_words_per_line)
    if not layout.is_plain and not options.word_timestamps:
        raise ConfigError(f"--{next(iter(_limits(layout))).replace('_', '-')}: needs the times of words; add --word-timestamps")
    return layout


def _limits(layout: Layout) -> dict[str, int]:
    """Return the limits that are set."""
    return {key: value for key, value in asdict(layout).items() if value is not None}


def _number(option: str, word: str) -> float | None:
    if word.strip().lower() == "none":
        return None
    try:
        return float(word)
    except ValueError as error:
        raise ConfigError(f"{option}: {word!r} is not a number; allowed are numbers, and none for thresholds") from error


def _ids(option: str, words: str) -> list[int]:
    try:
        return [int(word) for word in words.split(",") if word.strip()]
    except ValueError as error:
        raise ConfigError(f"{option}: {words!r}; allowed are token ids separated by commas, -1, and an empty text for none") from error


def _formats(given: str) -> list[str]:
    words = list(WRITERS) if given == "all" else list(dict.fromkeys(word.strip() for word in given.split(",")))
    for word in words:
        if word not in WRITERS:
            raise ConfigError(f"--format: there is no {word!r}; {name_choices(word, [*WRITERS, 'all'])}")
    return words


def _chosen_model(given: str | None) -> str:
    """Return the given model, or the path of the default model if it is in the cache.

    Raises:
        ConfigError: no model is given, and the default model was not downloaded.
    """
    if given is not None:
        return given
    default = cached_default()
    if default is None:
        raise ConfigError(
            f"--model: missing, and the default {DEFAULT_MODEL} (English, 71 MB) is not in {cache_directory()}; get it with: zoo fetch "
            f"{DEFAULT_MODEL}"
        )
    say(f"zoo: no --model given; using {DEFAULT_MODEL}, which supports only English", file=sys.stderr)
    return default


def cached_default() -> str | None:
    """Return the path of the default model if ``zoo fetch`` has downloaded it."""
    folder = cache_directory() / DEFAULT_MODEL
    return str(folder) if is_cached(find_asset(DEFAULT_MODEL), folder) else None


def _prepare(directory: Path, facts: dict[str, Any], items: Sequence[Item], formats: Sequence[str], *, overwrite: bool) -> None:
    """Create the output folder, with a note of the model and the settings.

    If ``overwrite`` changes the model or the settings, the old transcripts of these items are removed before the note is written: after
    a kill, the same job without ``--overwrite`` would otherwise count them as its own.

    Raises:
        ConfigError: the folder holds transcripts of another model or other settings, or files that would be overwritten.
        DataError: the folder cannot be written.
    """
    facts = json.loads(json.dumps(facts))
    note = directory / NOTE_FILE
    try:
        directory.mkdir(parents=True, exist_ok=True)
        before = json.loads(note.read_text(encoding="utf-8")) if note.exists() else None
        # An older version's note lacks settings that were added since; they had no value then.
        changed = [key for key in {**(before or {}), **facts} if before is not None and before.get(key) != facts.get(key)]
        if not overwrite and changed:
            changes = ", ".join(
                f"{key} {(before or {}).get(key)!r} is now {facts.get(key)!r}" if key != "weights" else "another model" for key in changed
            )
            raise ConfigError(f"--output: transcripts in {directory} have other settings ({changes}); give another folder, or --overwrite")
        if not overwrite and before is None:
            existing = [file for item in items for file in item.files(directory, formats) if file.exists()]
            if existing:
                raise ConfigError(
                    f"--output: {existing[0]} exists and was not written by zoo transcribe; give another folder, or --overwrite"
                )
        if overwrite and (before is None or changed):
            for item in items:
                for file in item.files(directory, formats):
                    file.unlink(missing_ok=True)
        write_text_atomically(note, json.dumps(facts, indent=1) + "\n")
    except OSError as error:
        raise DataError(f"--output: {directory} cannot be written ({error.strerror}); give another folder") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"--output: {note} is damaged ({error}); give another folder, or delete it") from error


@contextmanager
def seconds_progress(items: Sequence[Item], *, as_json: bool) -> Iterator[tuple[OnProgress | None, Callable[[str], None]]]:
    """Show a progress bar in seconds of audio; yields its update callback, and a function that prints text above the bar."""
    if as_json or not sys.stderr.isatty():
        yield None, lambda text: say(text, end="", flush=True)
        return
    lengths, done = [seconds_in_header(item.path) for item in items], [0.0] * len(items)
    columns = (
        TextColumn("{task.fields[name]}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[position]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("transcribe", total=sum(lengths) or None, name="", position="")

        def on_progress(number: int, seconds: float, length: float) -> None:
            done[number], lengths[number] = seconds, length
            position = f"{format_time(sum(done)).partition('.')[0]} of {format_time(sum(lengths)).partition('.')[0]}"
            bar.update(task, completed=sum(done), total=sum(lengths), name=printable(Path(items[number].name).name[:30]), position=position)

        def print_text(text: str) -> None:
            bar.stop()  # otherwise rich redraws the bar into the text
            say(text, end="", flush=True)
            bar.start()

        yield on_progress, print_text
