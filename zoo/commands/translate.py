"""``zoo translate``: translate a text, or a file with one text per line, with any text-to-text model.

A line that is too long for the model is reported and left empty in the output; the exit status is then 1.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.commands.display import counting_progress, print_json
from zoo.commands.model_options import load_chosen
from zoo.commands.plain import say
from zoo.errors import ConfigError, DataError
from zoo.storage.files import create_folder_of, write_text_atomically
from zoo.storage.outside import refuse_special
from zoo.types import verbs_of

LINES_AT_ONCE = 64


def translate_command(options: Namespace) -> int:
    """Run the command and return the exit status: 0, or 1 if a line was too long."""
    if options.batch_size < 1:
        raise ConfigError(f"--batch-size: {options.batch_size}; allowed is 1 or more")
    lines = _lines(options.text)
    if options.output is not None:
        create_folder_of(Path(options.output))
    system: Any = load_chosen(options.model, options)
    if "generate" not in verbs_of(system) or set(system.encoders) != {"text"}:
        raise ConfigError(
            f"--model: {options.model} does not write texts from texts; it needs a text encoder and a head 'seq2seq' (see: zoo list --kind "
            "system)"
        )
    texts = [f"{options.prefix}{line}" if line else "" for line in lines]
    part = system.processor["text"]
    lengths = [_num_tokens(part, text) for text in texts]
    long = [number for number, length in enumerate(lengths) if length > part.context_length]
    done = dict.fromkeys(range(len(lines)), "")
    rows = [number for number, text in enumerate(texts) if text and number not in long]
    with counting_progress("translate", len(rows), as_json=options.json) as advance:
        for start in range(0, len(rows), LINES_AT_ONCE):
            some = rows[start : start + LINES_AT_ONCE]
            found = system.generate([texts[row] for row in some], batch_size=options.batch_size, **_settings(options, system))
            done.update(zip(some, found, strict=True))
            advance(len(some))
    _write([done[number] for number in range(len(lines))], lines, options)
    for number in long:
        message = f"line {number + 1}: {lengths[number]} tokens; the model's context_length allows {part.context_length}: split it"
        print_json({"line": number + 1, "error": message}) if options.json else say(f"zoo: {message}", file=sys.stderr)
    return 1 if long else 0


def _num_tokens(part: Any, text: str) -> int:
    tokenizer = part.tokenizer
    if tokenizer is None:
        return len(part.item(text))  # raises the error that explains how to get a tokenizer
    return len(tokenizer.encode(part.clean(text)).ids)


def _settings(options: Namespace, system: Any) -> dict[str, Any]:
    """Return the settings of the beam search; the model's own unless the user gives some or it has none."""
    own = system.processor["target_text"].generation
    beams = options.num_beams if options.num_beams is not None else own.get("num_beams", 4)
    if beams == 1:
        return {"num_beams": 1}
    if options.length_penalty is None and "length_penalty" in own:
        return {"num_beams": beams}
    return {"num_beams": beams, "length_form": "gnmt", "length_penalty": 0.6 if options.length_penalty is None else options.length_penalty}


def _lines(given: str) -> list[str]:
    try:
        is_file = Path(given).is_file()
    except (OSError, ValueError):  # a text that is too long for a file name
        is_file = False
    if not is_file:
        if not given.strip():
            raise DataError("TEXT: is empty; give a text, or a file with one text per line")
        return [given.strip()]
    refuse_special(Path(given), lambda message: DataError(f"FILE: {message}"))
    try:
        return [line.strip() for line in Path(given).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"FILE: {given} cannot be read ({error}); give a UTF-8 text file with one text per line") from error


def _write(translations: Sequence[str], lines: Sequence[str], options: Namespace) -> None:
    if options.output is not None:
        try:
            write_text_atomically(Path(options.output), "".join(f"{text}\n" for text in translations))
        except OSError as error:
            raise DataError(f"--output: {options.output} cannot be written ({error.strerror}); give another file") from error
        if not options.json:
            say(f"{options.output}: {len(translations)} lines")
        return
    for line, text in zip(lines, translations, strict=True):
        print_json({"text": line, "translation": text}) if options.json else say(text)
