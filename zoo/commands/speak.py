"""``zoo speak``: synthesize speech from text, sentence by sentence, into one audio file.

Sentences with a failed attention alignment (skipped or repeated words), and sentences that cannot be spoken, are reported; the exit status
is then 1. Letters that the model has no symbol for are reported with their line.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from zoo.assembly.bundled import DEFAULT_VOICE, chosen_model
from zoo.commands.display import counting_progress, print_json
from zoo.commands.model_options import load_chosen
from zoo.commands.plain import say
from zoo.errors import ConfigError, DataError
from zoo.evaluation.results.html_report import draw_speech
from zoo.processors.media.read_aloud import split_sentences
from zoo.storage.files import create_folder_of
from zoo.storage.outside import refuse_special
from zoo.types import Speech, verbs_of

SUFFIXES = (".wav", ".flac", ".ogg")
PAUSE_SECONDS = 0.25  # between sentences
FAILURES_SHOWN = 20


@dataclass
class Plan:
    """Pieces of a text that are spoken one after the other, and what cannot be spoken.

    Attributes:
        pieces: (number of the line, text) of each piece.
        left_out: (number of the line, sentence, its symbols that cannot be spoken); without symbols, nothing of the sentence is spoken.
        unspoken: number of sentences of which nothing can be spoken.
    """

    pieces: list[tuple[int, str]] = field(default_factory=list)
    left_out: list[tuple[int, str, str]] = field(default_factory=list)
    unspoken: int = 0


def speak_command(options: Namespace) -> int:
    """Run the command and return the exit status: 0, or 1 if an alignment failed."""
    text = _text(options)
    output = Path(options.output)
    if output.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--output: {output} is not an audio file; allowed suffixes are {', '.join(SUFFIXES)}")
    system: Any = load_chosen(chosen_model(options.model, DEFAULT_VOICE), options)
    if "synthesize" not in verbs_of(system):
        raise ConfigError(
            f"--model: {options.model} cannot synthesize speech; it needs a head 'tacotron' or 'tacotron2' (see: zoo list '*tacotron*')"
        )
    plan = plan_speech(text, system.processor["text"])
    _show_left_out(plan, as_json=options.json)
    if not plan.pieces:
        raise DataError("TEXT: contains nothing that can be spoken; give words or numbers in Latin letters")
    create_folder_of(output)
    speeches = _synthesize(system, [text for _, text in plan.pieces], options)
    _write(speeches, output)
    if options.plots is not None:
        _draw(speeches, Path(options.plots))
    _show(speeches, plan, output, as_json=options.json)
    return 1 if plan.unspoken or any(speech.faults for speech in speeches) else 0


def plan_speech(text: str, processor: Any) -> Plan:
    """Split a text into pieces that the model can speak."""
    plan = Plan()
    for number, line in enumerate(text.splitlines(), start=1):
        for sentence in split_sentences(line):
            pieces, missing = processor.speakable_pieces(sentence), processor.unspoken(sentence)
            plan.pieces += [(number, piece) for piece in pieces]
            plan.unspoken += not pieces
            if missing or not pieces:
                plan.left_out.append((number, sentence, missing if pieces else ""))
    return plan


def _text(options: Namespace) -> str:
    """Return the text of the command line, or of a file.

    Raises:
        ConfigError: both or neither are given.
        DataError: the file cannot be read.
    """
    if (options.text is None) == (options.file is None):
        raise ConfigError("TEXT: give a text, or a text file with --file, but not both")
    if options.file is None:
        return options.text
    if options.file != "-":
        refuse_special(Path(options.file), lambda message: DataError(f"--file: {message}, or - for standard input"))
    try:
        return sys.stdin.read() if options.file == "-" else Path(options.file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--file: {options.file} cannot be read ({error}); give a UTF-8 text file, or - for standard input") from error


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
        raise ConfigError("--output: soundfile is not installed; install it with: zoo install audio") from error
    try:
        soundfile.write(str(output), joined(speeches).numpy(), speeches[0].sample_rate_hz)
    except (OSError, soundfile.SoundFileError) as error:
        raise DataError(f"--output: {output} cannot be written ({error}); give another file") from error


def joined(speeches: Sequence[Speech]) -> Float[Tensor, " samples"]:
    """Return the waveforms of sentences one after the other, with a pause between them."""
    pause = torch.zeros(round(PAUSE_SECONDS * speeches[0].sample_rate_hz))
    return torch.cat([piece for speech in speeches for piece in (speech.waveform, pause)][:-1])


def _draw(speeches: Sequence[Speech], folder: Path) -> None:
    """Plot alignment and mel spectrogram of each sentence into ``001.png``, ``002.png``, ..."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, speech in enumerate(speeches, 1):
            draw_speech([speech], folder / f"{number:03}.png")
    except OSError as error:
        raise DataError(f"--plots: {folder} cannot be written ({error}); give another folder") from error


def _show_left_out(plan: Plan, *, as_json: bool) -> None:
    if as_json:
        for line, sentence, missing in plan.left_out:
            print_json({"line": line, "sentence": sentence, "left_out": missing or sentence})
        return
    for line, sentence, missing in plan.left_out[:FAILURES_SHOWN]:
        what = f"{missing!r} cannot be spoken and is left out of {sentence[:60]!r}" if missing else f"{sentence[:60]!r} cannot be spoken"
        say(f"zoo: line {line}: {what}", file=sys.stderr)
    if len(plan.left_out) > FAILURES_SHOWN:
        say(f"zoo: and {len(plan.left_out) - FAILURES_SHOWN} more sentences with symbols that are left out", file=sys.stderr)


def _show(speeches: Sequence[Speech], plan: Plan, output: Path, *, as_json: bool) -> None:
    if as_json:
        for (line, _), speech in zip(plan.pieces, speeches, strict=True):
            print_json(
                {
                    "line": line,
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
    ends = f"{len(failed)} failed" + (f", {plan.unspoken} not spoken" if plan.unspoken else "")
    say(f"{output}: {seconds:.1f} s, {num_sentences(len(speeches))}, diagonality {mean:.2f}, stopped by {reasons}, {ends}")


def num_sentences(count: int) -> str:
    """Return a number of sentences in words: "1 sentence", "2 sentences"."""
    return f"{count} sentence{'' if count == 1 else 's'}"
