"""Converter of LibreOffice's help in two languages to aligned texts: paragraphs with equal ids on pages with equal paths.

Source: wiki.documentfoundation.org/Documentation, pages of the package ``libreoffice-help-*``. Blocks of BASIC code, texts that are equal
in both languages, single words and repeated pairs are left out. A page holds the words of every operating system and module ("Preferences",
"Tools - Options"); its style sheet hides all but one. The text here has the default, or the first if there is none.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from zoo.storage.progress import counted

FILE = "pairs.jsonl"
FOLDERS = {"en": "en-US", "de": "de"}
BLOCKS = ("p", "h1", "h2", "h3", "h4", "h5", "h6")
CODE = "bascode"
SWITCH = "switchinline"  # class of a span whose hidden children are the words of one system or module each
DEFAULT = "default"  # beginning of the id of the child that is shown if no other fits


@dataclass
class Span:
    """An open span: a switch with the pieces of text of its cases, one such case, or neither."""

    cases: dict[str, list[str]] | None = None
    pieces: list[str] | None = None


class Blocks(HTMLParser):
    """Texts of the paragraphs and headings of one page that have an id, by id."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: dict[str, str] = {}
        self._id: str | None = None
        self._tag = ""
        self._pieces: list[str] = []
        self._code_depth = 0
        self._spans: list[Span] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a block, or a part of code."""
        given = dict(attrs)
        if tag == "div" and (self._code_depth or CODE in (given.get("class") or "")):
            self._code_depth += 1
        if tag in BLOCKS:
            self._close()
            known = given.get("id") or ""
            code = self._code_depth or CODE in (given.get("class") or "")
            self._id, self._tag = (known if known.startswith(("par_id", "hd_id")) and not code else None), tag
        if tag == "span":
            self._open_span(given)
        if tag == "br":
            self._place().append(" ")

    def handle_endtag(self, tag: str) -> None:
        """End a block."""
        if tag == "div" and self._code_depth:
            self._code_depth -= 1
        if tag == "span" and self._spans:
            self._close_span()
        if tag == self._tag:
            self._close()

    def handle_data(self, data: str) -> None:
        """Collect text."""
        if self._id is not None:
            self._place().append(data)

    def _place(self) -> list[str]:
        """Return the list that the next text belongs to: the innermost case of a switch, or the block."""
        return next((span.pieces for span in reversed(self._spans) if span.pieces is not None), self._pieces)

    def _open_span(self, given: dict[str, str | None]) -> None:
        switch = next((span for span in reversed(self._spans) if span.cases is not None), None)
        if given.get("class") == SWITCH:
            self._spans.append(Span(cases={}))
        elif switch is not None and switch.cases is not None and "hidden" in given:
            name = given.get("id") or ""
            pieces = switch.cases.setdefault(DEFAULT if name.startswith(DEFAULT) else name, [])
            self._spans.append(Span(pieces=pieces))
        else:
            self._spans.append(Span())

    def _close_span(self) -> None:
        cases = self._spans.pop().cases
        if cases:
            self._place().extend(cases.get(DEFAULT, next(iter(cases.values()))))

    def _close(self) -> None:
        if self._id is not None:
            text = " ".join("".join(self._pieces).split())
            if text:
                self.texts[self._id] = text
        self._id, self._tag, self._pieces, self._spans = None, "", [], []


def blocks_of(page: str) -> dict[str, str]:
    """Return the texts of a page's blocks by id, with single spaces."""
    reader = Blocks()
    reader.feed(page)
    reader.close()
    reader._close()
    return reader.texts


def convert(source: Path, target: Path) -> None:
    """Write ``pairs.jsonl``: one object with "en", "de", "page" and "id" per line.

    Args:
        source: folder that contains ``help`` with a folder for each language.
    """
    with (target / FILE).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(source / "help"))


def _rows(folder: Path) -> Iterator[dict[str, str]]:
    (first, ours), (second, theirs) = FOLDERS.items()
    seen = set()
    for path in counted(sorted((folder / ours).rglob("*.html")), "read pages"):
        page = path.relative_to(folder / ours)
        other = folder / theirs / page
        if not other.is_file():
            continue
        left, right = (blocks_of(each.read_text(encoding="utf-8", errors="replace")) for each in (path, other))
        for known, text in left.items():
            translated = right.get(known)
            pair = (text, translated)
            if translated is None or text == translated or " " not in text or pair in seen:
                continue
            seen.add(pair)
            yield {first: text, second: translated, "page": page.as_posix(), "id": known}
