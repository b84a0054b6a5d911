"""Parser that extracts the running text and the images of an HTML page; menus, scripts and forms are removed."""

import re
from collections.abc import Sequence
from html.parser import HTMLParser

# VOID: elements without an end tag (HTML standard, section 13.1.2). SKIPPED: elements whose content is not text of the page.
VOID = frozenset("area base br col embed hr img input link meta param source track wbr".split())
SKIPPED = frozenset("script style noscript template head nav footer form button select option textarea svg math iframe object".split())
BLOCKS = frozenset(
    "address article aside blockquote body caption center dd details div dl dt fieldset figcaption figure h1 h2 h3 h4 h5 h6 header hr "
    "html li main ol p pre section summary table tbody tfoot thead tr ul".split()
)
CELLS = frozenset("td th".split())
# HTML allows these end tags to be omitted: each element is also closed by the start of one of the listed elements.
CLOSED_BY_NEXT = {
    "p": BLOCKS,
    "li": {"li"},
    "dt": {"dt", "dd"},
    "dd": {"dt", "dd"},
    "tr": {"tr"},
    "td": {"td", "th", "tr"},
    "th": {"td", "th", "tr"},
}
_SPACE = re.compile(r"[ \t\r\f\v\n\u00a0]+")


class _Page(HTMLParser):
    """HTML parser of one page. ``parts`` holds ("text", text) and ("image", address) in the order of the page.

    Args:
        skipped: tags, classes, ids and roles of elements that are left out with their content.
    """

    def __init__(self, skipped: Sequence[str]) -> None:
        super().__init__(convert_charrefs=True)
        self.skipped = frozenset(skipped)
        self.open: list[tuple[str, bool]] = []  # open elements, outermost first, each with True if its content is left out
        self.parts: list[tuple[str, str]] = []
        self.lines: list[str] = [""]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = {name: value or "" for name, value in attrs}  # an attribute without a value is None
        if self.open and tag in CLOSED_BY_NEXT.get(self.open[-1][0], ()):
            self.open.pop()
        words = {tag, *facts.get("class", "").split(), facts.get("id", ""), facts.get("role", "")}
        hidden = self.is_hidden or tag in SKIPPED or bool(words & self.skipped)
        if tag not in VOID:
            self.open.append((tag, hidden))
        if hidden:
            return
        if tag == "img":
            self.image(facts)
        elif tag in BLOCKS or tag == "br":
            self.lines.append("")
        elif tag in CELLS and self.lines[-1].strip():
            self.lines[-1] = self.lines[-1].rstrip() + " | "

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if not any(name == tag for name, _ in self.open):
            return  # an end tag without a start tag: browsers ignore it too
        while self.open and self.open.pop()[0] != tag:
            pass  # inner elements whose end tags are missing are closed with it
        if tag in BLOCKS and not self.is_hidden:
            self.lines.append("")

    def handle_data(self, data: str) -> None:
        if self.is_hidden:
            return
        if any(name == "pre" for name, _ in self.open):  # preformatted text keeps its line breaks and spaces
            first, *rest = data.expandtabs(4).split("\n")
            self.lines[-1] += first
            self.lines += rest
            return
        data = _SPACE.sub(" ", data)
        self.lines[-1] += data.lstrip() if not self.lines[-1] or self.lines[-1].endswith(" ") else data

    def image(self, facts: dict[str, str]) -> None:
        """Add an image; the text before it becomes a part that ends here."""
        self.finish()
        self.parts.append(("image", facts.get("src") or facts.get("data-src") or ""))  # data-src: pages that load images lazily

    def finish(self) -> None:
        """Add the text read since the last image as one part."""
        lines = (line.rstrip() for line in self.lines)
        text = "\n".join(line for line in lines if line.strip(" |"))
        if text:
            self.parts.append(("text", text))
        self.lines = [""]

    @property
    def is_hidden(self) -> bool:
        """True if the content at the current position is left out."""
        return bool(self.open) and self.open[-1][1]


def parts_of_html(html: str, skipped: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Return the texts and image addresses of a page in order, as ("text", text) and ("image", address).

    Args:
        skipped: tags, classes, ids and roles of elements to leave out with their content, in addition to scripts, menus and forms.

    Returns:
        Parts; a text has one line for each block element (paragraph, heading, list item, table row).
    """
    page = _Page(skipped)
    page.feed(html)
    page.close()
    page.finish()
    return page.parts
