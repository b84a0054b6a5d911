"""``zoo speak``: synthesize speech from text, sentence by sentence, into one audio file.

Sentences with a failed attention alignment (skipped or repeated words) are reported, and the exit status is then 1.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from zoo.assembly.bundled import DEFAULT_VOICE, chosen_model
from zoo.assembly.save_load import load
from zoo.commands.display import counting_progress, print_json
from zoo.commands.plain import say
from zoo.errors import ConfigError, DataError
from zoo.evaluation.results.html_report import draw_speech
from zoo.processors.media.read_aloud import split_sentences
from zoo.storage.outside import refuse_special
from zoo.types import Speech, verbs_of

SUFFIXES = (".wav", ".flac", ".ogg")
PAUSE_SECONDS = 0.25  # between sentences
FAILURES_SHOWN = 20
SHORTER = 0.6  # fraction of the context length, because numbers become longer when they are spelled out


def speak_command(options: Namespace) -> int:
    """Run the command and return the exit status: 0, or 1 if an alignment failed."""
    texts = _texts(options)
    output = Path(options.output)
    if output.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--output: {output} is not an audio file; allowed suffixes are {', '.join(SUFFIXES)}")
    if not output.absolute().parent.is_dir():
        raise ConfigError(f"--output: the folder {output.absolute().parent} does not exist; create it first")
    system: Any = load(chosen_model(options.model, DEFAULT_VOICE))
    if "synthesize" not in verbs_of(system):
        raise ConfigError(
            f"--model: {options.model} cannot synthesize speech; it needs a head 'tacotron' or 'tacotron2' (see: zoo list '*tacotron*')"
        )
    longest = max(8, int(SHORTER * system.processor["text"].context_length))
    sentences = [sentence for text in texts for sentence in split_sentences(text, longest)]
    if not sentences:
        raise DataError("TEXT: contains nothing that can be spoken; give words or numbers")
    speeches = _synthesize(system, sentences, options)
    _write(speeches, output)
    if options.plots is not None:
        _draw(speeches, Path(options.plots))
    _show(speeches, output, as_json=options.json)
    return 1 if any(speech.faults for speech in speeches) else 0


def _texts(options: Namespace) -> list[str]:
    """Return the text of the command line, or of a file, as a list of one.

    Raises:
        ConfigError: both or neither are given.
        DataError: the file cannot be read.
    """
    if (options.text is None) == (options.file is None):
        raise ConfigError("TEXT: give a text, or a text file with --file, but not both")
    if options.file is None:
        return [options.text]
    if options.file != "-":
        refuse_special(Path(options.file), lambda message: DataError(f"--file: {message}, or - for standard input"))
    try:
        content = sys.stdin.read() if options.file == "-" else Path(options.file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--file: {options.file} cannot be read ({error}); give a UTF-8 text file, or - for standard input") from error
    return [content]


def _synthesize(system: Any, sentences: Sequence[str], options: Namespace) -> list[Speech]:
    settings = {"seed": options.seed, "max_seconds": options.max_seconds}
    if options.speaker is not None:
        settings["speaker"] = options.speaker
    if options.batch_size < 1:
        raise ConfigError(f"--batch-size: {options.batch_size}; allowed is 1 or more")
    speeches: list[Speech] = []
    with counting_progress("speak", len(sentences), as_json=options.json) as advance:
        for start in range(0, len(sentences), options.batch_size):
            chunk = list(sentences[start : start + options.batch_size])
            speeches += system.synthesize(chunk, batch_size=options.batch_size, vocoder=options.vocoder, **settings)
            advance(len(chunk))
    return speeches


def _write(speeches: Sequence[Speech], output: Path) -> None:
    try:
        import soundfile
    except ImportError as error:
        raise ConfigError("--output: soundfile is not installed; install it with: pip install 'multimodal-zoo[audio]'") from error
    rate = speeches[0].sample_rate_hz
    pause = torch.zeros(round(PAUSE_SECONDS * rate))
    pieces = [piece for speech in speeches for piece in (speech.waveform, pause)][:-1]
    try:
        soundfile.write(str(output), torch.cat(pieces).numpy(), rate)
    except (OSError, soundfile.SoundFileError) as error:
        raise DataError(f"--output: {output} cannot be written ({error}); give another file") from error


def _draw(speeches: Sequence[Speech], folder: Path) -> None:
    """Plot alignment and mel spectrogram of each sentence into ``001.png``, ``002.png``, ..."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, speech in enumerate(speeches, 1):
            draw_speech([speech], folder / f"{number:03}.png")
    except OSError as error:
        raise DataError(f"--plots: {folder} cannot be written ({error}); give another folder") from error


def _show(speeches: Sequence[Speech], output: Path, *, as_json: bool) -> None:
    if as_json:
        for speech in speeches:
            print_json(
                {
                    "text": speech.text,
                    "seconds": round(speech.seconds, 3),
                    "stop_reason": speech.stop_reason,
                    "diagonality": round(speech.diagonality, 4),
                    "focus": round(speech.focus, 4),
                    "faults": speech.faults,
                    "output": str(output),
                }
            )
        return
    failed = [speech for speech in speeches if speech.faults]
    for speech in failed[:FAILURES_SHOWN]:
        say(f"zoo: failed alignment in {speech.text[:60]!r}: {'; '.join(speech.faults)} ({speech.stop_reason})", file=sys.stderr)
    if len(failed) > FAILURES_SHOWN:
        say(f"zoo: and {len(failed) - FAILURES_SHOWN} more", file=sys.stderr)
    seconds = sum(speech.seconds for speech in speeches)
    mean = sum(speech.diagonality for speech in speeches) / len(speeches)
    reasons = ", ".join(sorted({speech.stop_reason for speech in speeches}))
    say(f"{output}: {seconds:.1f} s, {len(speeches)} sentences, diagonality {mean:.2f}, stopped by {reasons}, {len(failed)} failed")
