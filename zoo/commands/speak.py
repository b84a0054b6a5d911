"""``zoo speak``: text to a recording, sentence by sentence; what went wrong in an utterance is said, and the exit status tells it."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from zoo.assembly.bundled import DEFAULT_VOICE, chosen_model
from zoo.assembly.save_load import load
from zoo.commands.display import counting_progress, print_json
from zoo.errors import ConfigError, DataError
from zoo.evaluation.tts import draw_speech
from zoo.processors.media.read_aloud import split_sentences
from zoo.types import Speech

SUFFIXES = (".wav", ".flac", ".ogg")
PAUSE_SECONDS = 0.25  # between sentences
FAILURES_SHOWN = 20
SHORTER = 0.6  # of what the model takes, because numbers grow when they are read aloud


def speak_command(options: Namespace) -> int:
    """Run the command; returns the exit status: 1 where an alignment failed."""
    texts = _texts(options)
    output = Path(options.output)
    if output.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--output: {output} is no recording; allowed are {', '.join(SUFFIXES)}")
    if not output.absolute().parent.is_dir():
        raise ConfigError(f"--output: there is no folder {output.absolute().parent}; make it first")
    system: Any = load(chosen_model(options.model, DEFAULT_VOICE))
    if "synthesize" not in getattr(getattr(system, "head", None), "verbs", ()):
        raise ConfigError(
            f"--model: {options.model} does not speak; it needs a head 'tacotron' or 'tacotron2' (see: zoo list '*tacotron*')"
        )
    longest = max(8, int(SHORTER * system.processor["text"].context_length))
    sentences = [sentence for text in texts for sentence in split_sentences(text, longest)]
    if not sentences:
        raise DataError("TEXT: there is nothing to say in it; give words or numbers")
    said = _say(system, sentences, options)
    _write(said, output)
    if options.plots is not None:
        _draw(said, Path(options.plots))
    _show(said, output, as_json=options.json)
    return 1 if any(speech.faults for speech in said) else 0


def _texts(options: Namespace) -> list[str]:
    """The texts of the command line, or of a file.

    Raises:
        ConfigError: both or none.
        DataError: the file cannot be read.
    """
    if (options.text is None) == (options.file is None):
        raise ConfigError("TEXT: give a text, or a file of texts with --file; one of the two")
    if options.file is None:
        return [options.text]
    try:
        content = sys.stdin.read() if options.file == "-" else Path(options.file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--file: {options.file} cannot be read ({error}); give a UTF-8 text file, or - for standard input") from error
    return [content]


def _say(system: Any, sentences: Sequence[str], options: Namespace) -> list[Speech]:
    words = {"seed": options.seed, "max_seconds": options.max_seconds}
    if options.speaker is not None:
        words["speaker"] = options.speaker
    if options.batch_size < 1:
        raise ConfigError(f"--batch-size: {options.batch_size}; allowed is 1 or more")
    said: list[Speech] = []
    with counting_progress("speak", len(sentences), as_json=options.json) as advance:
        for start in range(0, len(sentences), options.batch_size):
            chunk = list(sentences[start : start + options.batch_size])
            said += system.synthesize(chunk, batch_size=options.batch_size, vocoder=options.vocoder, **words)
            advance(len(chunk))
    return said


def _write(said: Sequence[Speech], output: Path) -> None:
    try:
        import soundfile
    except ImportError as error:
        raise ConfigError("--output: recordings are written by soundfile; pip install 'multimodal-zoo[audio]'") from error
    rate = said[0].sample_rate_hz
    pause = torch.zeros(round(PAUSE_SECONDS * rate))
    pieces = [piece for speech in said for piece in (speech.waveform, pause)][:-1]
    try:
        soundfile.write(str(output), torch.cat(pieces).numpy(), rate)
    except (OSError, soundfile.SoundFileError) as error:
        raise DataError(f"--output: {output} cannot be written ({error}); give another place") from error


def _draw(said: Sequence[Speech], folder: Path) -> None:
    """Alignment and mels of each sentence, as ``001.png`` and so on."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, speech in enumerate(said, 1):
            draw_speech([speech], folder / f"{number:03}.png")
    except OSError as error:
        raise DataError(f"--plots: {folder} cannot be written ({error}); give another folder") from error


def _show(said: Sequence[Speech], output: Path, *, as_json: bool) -> None:
    if as_json:
        for speech in said:
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
    failed = [speech for speech in said if speech.faults]
    for speech in failed[:FAILURES_SHOWN]:
        print(f"zoo: failed alignment in {speech.text[:60]!r}: {'; '.join(speech.faults)} ({speech.stop_reason})", file=sys.stderr)
    if len(failed) > FAILURES_SHOWN:
        print(f"zoo: and {len(failed) - FAILURES_SHOWN} more", file=sys.stderr)
    seconds = sum(speech.seconds for speech in said)
    mean = sum(speech.diagonality for speech in said) / len(said)
    reasons = ", ".join(sorted({speech.stop_reason for speech in said}))
    print(f"{output}: {seconds:.1f} s, {len(said)} sentences, diagonality {mean:.2f}, stopped by {reasons}, {len(failed)} failed")
