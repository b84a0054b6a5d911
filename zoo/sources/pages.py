"""HTML and Markdown pages on disk as interleaved image-text documents: manuals, documentation, books.

Paper: the web-page documents of Kosmos-1 (arXiv 2302.14045, section 3.1), whose filters are the defaults here. Where we differ: all pages
with one image are kept unless ``single_image_share`` is below 1, and images must be local files.
"""

import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from zoo.data.readers.document_filter import ADDRESSES, Document, DocumentFilter
from zoo.data.readers.html import parts_of_html
from zoo.data.readers.interleaved_rows import SPLITS, DocumentsSplit, checked_fractions, share_out
from zoo.errors import ConfigError, DataError, ItemError
from zoo.registry import register
from zoo.sources.wording.splits import refuse_split
from zoo.storage.outside import refuse_special
from zoo.types import Source

HTML, MARKDOWN = (".html", ".htm", ".xhtml"), (".md", ".markdown")
# Names of navigation elements that documentation tools put into every page; the first three are DocBook's.
SKIP = ("navheader", "navfooter", "toc", "indexterm", "sidebar", "breadcrumbs", "navigation")
FAULTS_SHOWN = 3
_CHARSET = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?([\w-]+)""", re.IGNORECASE)


@register("source")
class Pages(Source):
    """Pages of a folder and its subfolders, in the order of their names.

    Pages and images that are left out are counted by reason: ``report()`` returns the counts, and ``skipped`` lists the pages.

    Args:
        path: a folder, or a single page.
        pages: patterns of page paths relative to the folder; a page is used if one of them matches.
        exclude_pages: patterns of pages to leave out, for example ``gfdl*``, ``*/index.html``.
        skip: tags, classes, ids and roles of elements to leave out with their content, in addition to scripts, menus, footers and forms.
        exclude_images, max_images, min_size, min_words, single_image_share, deduplicate, similarity: filters, see
            ``zoo.data.readers.document_filter.DocumentFilter``.
        split_fractions: shares of the pages in train, validation and test, by a hash of their content.

    Raises:
        ConfigError: a value is not allowed, or the package markdown-it-py is missing and a page is Markdown.
        DataError: the folder does not exist, or no page is left to train on.
    """

    modalities = ("image", "conversation")
    splits = SPLITS
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        path: str | Path,
        pages: Sequence[str] = ("*",),
        exclude_pages: Sequence[str] = (),
        skip: Sequence[str] = SKIP,
        exclude_images: Sequence[str] = (),
        max_images: int | None = 5,
        min_size: int = 64,
        min_words: int = 20,
        single_image_share: float = 1.0,
        deduplicate: str = "exact",
        similarity: float = 0.8,
        split_fractions: Sequence[float] = (0.9, 0.05, 0.05),
    ) -> None:
        for key, value in (("pages", pages), ("exclude_pages", exclude_pages), ("skip", skip)):
            if isinstance(value, str):
                raise ConfigError(f"{key}: {value!r} is one string; give a list of strings")
        fractions, self.path = checked_fractions(split_fractions), Path(path)
        self.sieve = DocumentFilter(
            max_images=max_images,
            min_size=min_size,
            exclude_images=exclude_images,
            min_words=min_words,
            single_image_share=single_image_share,
            deduplicate=deduplicate,
            similarity=similarity,
        )
        self._documents: dict[str, list[Document]] = {name: [] for name in SPLITS}
        for file in find_pages(self.path, pages, exclude_pages):
            name = file.name if file == self.path else file.relative_to(self.path).as_posix()
            try:
                document = self.sieve.keep(read_page(file, name, skip))
            except ItemError as error:
                self.sieve.refuse(name, error.reason, str(error))
                continue
            if document is not None:
                self._documents[share_out(document.key, fractions)].append(document)
        if not self._documents["train"]:
            why = f" ({'; '.join(self.skipped[:FAULTS_SHOWN])})" if self.skipped else ""
            raise DataError(f"data.path: {path} holds no page to train on{why}; lower data.source.min_words, or change split_fractions")

    @property
    def skipped(self) -> list[str]:
        """Pages that are left out, each with the reason."""
        return self.sieve.dropped

    def report(self) -> dict[str, dict[str, int]]:
        """Return the numbers of pages and images that were kept, and that were dropped for each reason."""
        return self.sieve.report()

    def split(self, name: str) -> DocumentsSplit:
        """Return the pages of one split.

        Raises:
            DataError: no such split, or it is empty.
        """
        refuse_split(name, SPLITS)
        if not self._documents[name]:
            raise DataError(f"data.{name}: the split has no page; change data.source.split_fractions")
        return DocumentsSplit(self._documents[name], _itself, self.sieve)

    def captions(self) -> list[str]:
        """Return the texts of the training split, as text to train a tokenizer on."""
        return [value for document in self._documents["train"] for kind, value in document.parts if kind == "text"]


def _itself(document: Document) -> Document:
    return document


def find_pages(path: Path, patterns: Sequence[str], exclude: Sequence[str]) -> list[Path]:
    """Return the pages of a folder, sorted by name; if ``path`` is a file, return this file.

    Args:
        patterns: a page must match one of them.
        exclude: a page must match none of them.

    Raises:
        DataError: the path does not exist, or no page matches.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"data.path: {path} does not exist; give a folder of pages (the current folder is {Path.cwd()})")
    found = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in (*HTML, *MARKDOWN) and file.is_file()]
    names = {file: file.relative_to(path).as_posix() for file in found}
    chosen = [
        file
        for file, name in names.items()
        if any(fnmatch.fnmatchcase(name, p) for p in patterns) and not any(fnmatch.fnmatchcase(name, p) for p in exclude)
    ]
    if not chosen:
        raise DataError(
            f"data.path: {path} holds {len(found)} pages ({' '.join((*HTML, *MARKDOWN))}), and none of them is selected; "
            "change data.source.pages or data.source.exclude_pages"
        )
    return chosen


def read_page(file: Path, name: str, skip: Sequence[str]) -> Document:
    """Return a page as a document; its images are paths, or addresses if they are not local.

    Args:
        name: id of the document.
        skip: tags, classes, ids and roles of elements to leave out.

    Raises:
        ItemError: the page cannot be read or decoded.
        ConfigError: the page is Markdown, and the package markdown-it-py is missing.
    """
    refuse_special(file, lambda message: ItemError(f"page {name}: {message}", "unreadable"))
    try:
        content = file.read_bytes()
        declared = _CHARSET.search(content[:1024]) if file.suffix.lower() in HTML else None
        text = content.decode("utf-8-sig" if declared is None else declared[1].decode("ascii"))
    except (OSError, UnicodeDecodeError, LookupError) as error:
        raise ItemError(f"page {name} cannot be read ({error})", "unreadable") from error
    html = _of_markdown(text) if file.suffix.lower() in MARKDOWN else text
    parts: list[tuple[str, Any]] = [
        (kind, _located(value, file.parent) if kind == "image" else value) for kind, value in parts_of_html(html, skip)
    ]
    return Document(name, tuple(parts))


def _of_markdown(text: str) -> str:
    try:
        from markdown_it import MarkdownIt
    except ImportError as error:
        raise ConfigError(f"path: Markdown needs markdown-it-py ({error}); zoo install documents") from error
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(text)


def _located(address: str, folder: Path) -> Any:
    """Convert an image address of a page to a path in its folder; a web address is returned unchanged."""
    if address.startswith(ADDRESSES) or "://" in address:
        return address
    return folder / unquote(re.split(r"[?#]", address)[0])
