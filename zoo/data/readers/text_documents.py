"""Reader of text documents from files, and a rule-based sentence splitter."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from zoo.data.readers.table import read_table
from zoo.errors import DataError
from zoo.storage.outside import refuse_special

TEXT, TABLES = (".txt", ".md"), (".jsonl", ".ndjson")
# End of a sentence: ".", "?" or "!", optional closing quotes or brackets, white space, and then a character that can begin a sentence (a
# capital letter or a digit, optionally after an opening quote or bracket).
SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]\u2019\u201d]*\s+(?=[\"'(\[\u2018\u201c]*[A-Z0-9\u00c0-\u024f\u0400-\u04ff])")
# A full stop after one of these words, or after a single letter ("J. Smith"), does not end a sentence.
ABBREVIATION = re.compile(r"(?:^|[\s(\"'])(?:[A-Za-z]|e\.g|i\.e|cf|vs|etc|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|No|Fig|al)\.$")


@dataclass(frozen=True, slots=True)
class Document:
    """One text; ``id`` is its file name, followed by ``:LINE`` unless the whole file is one document."""

    id: str
    text: str
    sentences: tuple[str, ...] = ()


def read_documents(path: Path, *, boundary: str, lines: int, text_key: str, faults: list[str]) -> Iterator[Document]:
    """Yield the documents of a file, or of all files of a folder in the order of their names.

    Args:
        boundary: "file", "blank_line" or "lines"; see ``zoo.sources.documents``.
        lines: lines per document if ``boundary`` is "lines".
        text_key: name of the text field in JSON lines.
        faults: output list; one message with the reason is appended for each file or row that cannot be used.

    Raises:
        DataError: the path does not exist, or no file has a supported suffix.
    """
    if not path.exists():
        raise DataError(f"data.path: {path} does not exist; give a file or folder of texts (the current folder is {Path.cwd()})")
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in (*TEXT, *TABLES) and p.is_file()) if path.is_dir() else [path]
    if not files or files[0].suffix.lower() not in (*TEXT, *TABLES):
        raise DataError(f"data.path: {path} holds no file that ends in {' '.join((*TEXT, *TABLES))}")
    for file in files:
        name = file.name if file == path else file.relative_to(path).as_posix()
        if file.suffix.lower() in TABLES:
            yield from _of_table(file, name, text_key, faults)
        else:
            yield from _of_text(file, name, boundary, lines, faults)


def _of_table(file: Path, name: str, text_key: str, faults: list[str]) -> Iterator[Document]:
    for row in read_table(file, [text_key]):
        text = row.values.get(text_key)
        if row.fault is not None:
            faults.append(f"{name}:{row.number}: {row.fault}")
        elif not isinstance(text, str) or not text.strip():
            faults.append(
                f"{name}:{row.number}: {text_key} is {'empty' if isinstance(text, str) else type(text).__name__ + ', not a string'}"
            )
        else:
            yield Document(f"{name}:{row.number}", text)


def _of_text(file: Path, name: str, boundary: str, lines: int, faults: list[str]) -> Iterator[Document]:
    try:
        refuse_special(file)
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        faults.append(f"{name}: not UTF-8 ({error.reason} at byte {error.start})")
        return
    except OSError as error:
        faults.append(f"{name}: cannot be read ({error.strerror})")
        return
    except DataError as error:
        faults.append(f"{name}: {error}")
        return
    if not text.strip():
        faults.append(f"{name}: empty")
    elif boundary == "file":
        yield Document(name, text)
    else:
        numbered = [(number, line) for number, line in enumerate(text.splitlines(), 1)]
        full = [pair for pair in numbered if pair[1].strip()]
        groups = [full[i : i + lines] for i in range(0, len(full), lines)] if boundary == "lines" else _blocks(numbered)
        for group in groups:
            yield Document(f"{name}:{group[0][0]}", "\n".join(line for _, line in group))


def _blocks(numbered: list[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Yield groups of adjacent lines that are not empty; each line is (line number, text)."""
    for is_full, group in groupby(numbered, key=lambda pair: bool(pair[1].strip())):
        if is_full:
            yield list(group)


def cut_sentences(document: Document, *, each_line: bool) -> Iterator[str]:
    """Yield the sentences of a document.

    Args:
        each_line: if True, every line is one sentence. If False, single line breaks are treated as wrapped text, and an empty line ends a
            paragraph.
    """
    if each_line:
        yield from filter(None, (line.strip() for line in document.text.splitlines()))
        return
    for paragraph in re.split(r"\n\s*\n", document.text):
        yield from _sentences_of(" ".join(paragraph.split()))


def _sentences_of(paragraph: str) -> Iterator[str]:
    start = 0
    for match in SENTENCE_END.finditer(paragraph):
        sentence = paragraph[start : match.end()].strip()
        if not ABBREVIATION.search(sentence):
            yield sentence
            start = match.end()
    if paragraph[start:].strip():
        yield paragraph[start:].strip()
