"""Converter of the words and glosses of WordNet to lines of plain text, to train or distil a text encoder on.

Source: wndb(5WN), "Data File Format": the gloss after ``|`` is a definition with examples in quotes.
"""

import re
from collections.abc import Iterator
from pathlib import Path

PARTS = ("noun", "verb", "adj", "adv")
LINES = "lines.txt"


def convert(source: Path, target: Path) -> None:
    """Write ``lines.txt``: the words of each meaning, its definition and its examples, one text per line, without duplicates.

    Args:
        source: folder that contains ``data.noun``, ``data.verb``, ``data.adj`` and ``data.adv``.
    """
    texts = (text for part in PARTS for line in _lines(source / f"data.{part}") for text in texts_of(line))
    (target / LINES).write_text("".join(f"{text}\n" for text in dict.fromkeys(texts)), encoding="utf-8")


def texts_of(line: str) -> list[str]:
    """Return the words, "word: definition" and the examples of one line of a data file."""
    facts, _, gloss = line.partition(" | ")
    fields = facts.split(" ")
    count = int(fields[3], 16)  # number of words, in hexadecimal; each word is followed by one more field
    words = [re.sub(r"\((?:a|p|ip)\)$", "", word).replace("_", " ") for word in fields[4 : 4 + 2 * count : 2]]
    definition = re.sub(r';?\s*"[^"]*"?', "", gloss).strip(" ;\n")
    examples = re.findall(r'"([^"]+)"', gloss)
    return [*words, *([f"{words[0]}: {definition}"] if definition else []), *(example.strip() for example in examples)]


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from (line for line in file if not line.startswith("  "))  # the licence at the top is indented by two spaces
