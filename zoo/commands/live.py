"""``zoo transcribe --live -`` and ``--microphone``: print text while the sound comes in.

On a terminal, one line shows the text that may still change; it is replaced by the final text. Elsewhere, and with ``--json``, each state
is a line.
"""

import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from zoo.commands.display import print_json
from zoo.commands.plain import say
from zoo.commands.recordings import STANDARD_INPUT
from zoo.errors import ConfigError, DataError
from zoo.language.transcription.decoding import Recogniser
from zoo.language.transcription.live import LiveText, LiveTranscription
from zoo.language.transcription.writers import WRITERS, format_time
from zoo.processors.media.live_sound import gathered, microphone_sound, stream_sound
from zoo.storage.files import write_text_atomically
from zoo.storage.outside import printable

CLEAR = "\r\x1b[K"  # to the beginning of the line, and delete it


def refuse_live_options(options: Namespace) -> None:
    """Raise ConfigError if options were given together that exclude each other."""
    if options.microphone and options.paths:
        raise ConfigError(f"--microphone: {options.paths[0]} was given as well; give either")
    if options.live and not options.microphone and (len(options.paths) != 1 or options.paths[0] not in STANDARD_INPUT):
        raise ConfigError(f"--live: reads standard input alone, got {options.paths}; write: zoo transcribe --live -")
    if options.track is not None:
        raise ConfigError("--track: has no effect on sound that comes in; leave it out")


def transcribe_live(recogniser: Recogniser, options: Namespace) -> int:
    """Transcribe until the sound ends or the user stops it; returns the exit status."""
    shown = _Shown(as_json=options.json)
    live = LiveTranscription(recogniser)
    if options.microphone:
        say("zoo: listening; Ctrl-C ends", file=sys.stderr)
    try:
        for piece in gathered(_sound(options)):
            shown.show(live.take(piece))
    except KeyboardInterrupt:
        if not options.microphone:
            say("zoo: stopped", file=sys.stderr)
    shown.show(live.finish())
    if not live.start_s:
        raise DataError("standard input: nothing came; check the command before the pipe")
    _write(live, options)
    return 0


def _sound(options: Namespace) -> Iterator[np.ndarray]:
    # Unbuffered, so that a read returns what is there; and the thread that reads it holds no lock when the process ends.
    return microphone_sound() if options.microphone else stream_sound(open(0, "rb", buffering=0, closefd=False), "standard input")


def _write(live: LiveTranscription, options: Namespace) -> None:
    """Write the transcript to the output folder, in all formats."""
    if options.output is None:
        return
    formats = list(WRITERS) if options.format == "all" else [word.strip() for word in options.format.split(",")]
    name = "microphone" if options.microphone else "stdin"
    try:
        Path(options.output).mkdir(parents=True, exist_ok=True)
        for format in formats:
            write_text_atomically(Path(options.output) / f"{name}.{format}", WRITERS[format](live.transcript()))
    except OSError as error:
        raise DataError(f"--output: {options.output} cannot be written ({error.strerror}); give another folder") from error


class _Shown:
    """Output of the text: final segments as lines, and the open text after them where a terminal can replace it."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json, self.on_terminal = as_json, sys.stdout.isatty() and not as_json
        self.last = ""

    def show(self, text: LiveText | None) -> None:
        if text is None:
            return
        if self.as_json:
            self._show_json(text)
            return
        if self.on_terminal:
            sys.stdout.write(CLEAR)
        for segment in text.final:
            say(f"[{format_time(segment.start)} --> {format_time(segment.end)}] {segment.text.strip()}", flush=True)
        unfinished = f"{text.stable} {text.open}".strip()
        if self.on_terminal:
            room = shutil.get_terminal_size().columns - 1
            sys.stdout.write(printable(unfinished)[-room:])
            sys.stdout.flush()
        elif text.stable and text.stable != self.last:
            say(f"... {text.stable}", flush=True)
        self.last = text.stable

    def _show_json(self, text: LiveText) -> None:
        for segment in text.final:
            print_json({"final": segment.text.strip(), "start": segment.start, "end": segment.end})
        if text.stable or text.open:
            print_json({"stable": text.stable, "open": text.open})
        sys.stdout.flush()
