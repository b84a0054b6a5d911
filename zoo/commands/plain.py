"""Output for people: names and texts from outside are escaped, so that no terminal and no library interprets them."""

import json
import sys
from typing import Any

from zoo.storage.outside import DIRECTIONS, printable

KEEP = "\n\t"
# JSON escapes control characters below 32 itself; those from 127 to 159 and the marks of direction it does not.
JSON_ESCAPES = {ord(letter): f"\\u{ord(letter):04x}" for letter in (*map(chr, range(127, 160)), *DIRECTIONS, "\u2028", "\u2029")}
JSON_ESCAPES |= {code: f"\\u{code:04x}" for code in range(0xD800, 0xE000)}  # bytes of a file name that are not UTF-8


def say(text: object = "", *, file: Any = None, end: str = "\n", flush: bool = False) -> None:
    """Print a text with control characters escaped, except line breaks and tabs; the arguments are those of ``print``."""
    print(printable(str(text), KEEP), file=sys.stdout if file is None else file, end=end, flush=flush)


def json_line(value: Any) -> str:
    """Return one line of JSON, in which no character can control a terminal."""
    return json.dumps(value, ensure_ascii=False).translate(JSON_ESCAPES)
