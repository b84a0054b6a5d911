"""Converter of Open Clip Art drawings, with titles and keywords from their metadata, to PNGs and one table.

Drawings and names are by volunteers, so the quality of the names varies. Left out are flags, cards, patterns and desktop themes, whose
titles name the collection and not the drawing, drawings with Italian names by one contributor, and titles that many drawings share.

Source: openclipart.org, release 0.18; metadata in RDF with Dublin Core terms.
"""

import html
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from zoo.downloads.drawings import draw_any, squared, write_table
from zoo.storage.progress import counted

SIDE = 224  # pixels
LARGEST = 300_000  # bytes; larger files are few, and some of them take minutes to draw
LEFT_OUT = (
    "computer/icons/",
    "recreation/games/cards/",
    "recreation/games/dice/",
    "shapes/stars/",
    "signs_and_symbols/flags/",
    "special/",
    "unsorted/duplicates/",
)
ITALIAN = re.compile("archit|rollandin|francesco", re.IGNORECASE)
MOST_OF_A_TITLE = 30  # maximum number of drawings with the same title
SERIES = re.compile(r"\b(?:cliparts?|clip art|icons?|iconset|illustration|maps?|signs?|sibmission|theme|symbols?|various)\b", re.IGNORECASE)
MOST_OF_A_SERIES = 3  # the same for a title that names a series
EMPTY_WORDS = {"", "hash", "unsorted", "clip art", "clipart", "externalsource", "image", "svg", "png", "wmf"}
_TITLE = "{http://purl.org/dc/elements/1.1/}title"
_RDF_ITEM = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li"


def convert(source: Path, target: Path) -> None:
    """Write a folder of PNGs and ``table.jsonl``.

    Args:
        source: folder that contains ``svg``.
    """
    found = list(described(source / "svg"))
    uses = Counter(title.lower() for _, title, _ in found)
    (target / "pictures").mkdir()
    rows = []
    for name, title, tags in counted(found, "draw pictures"):
        if uses[title.lower()] > (MOST_OF_A_SERIES if SERIES.search(title) else MOST_OF_A_TITLE):
            continue
        drawn = draw_any(source / "svg" / name, side=SIDE)
        image = None if drawn is None else squared(drawn, side=SIDE)
        if image is not None:
            path = f"pictures/{name.removesuffix('.svg').replace('/', '--')}.png"
            image.save(target / path)
            rows.append({"path": path, "style": "openclipart", "label": title, "tags": tags})
    write_table(target, rows)


def described(folder: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Yield path, title and keywords of the drawings that are not left out by folder, contributor, size or missing title."""
    for path in sorted(folder.rglob("*.svg")):
        name = path.relative_to(folder).as_posix()
        if name.startswith(LEFT_OUT) or ITALIAN.search(name) or path.stat().st_size > LARGEST:
            continue
        try:
            root = ElementTree.parse(path).getroot()
        except ElementTree.ParseError:
            continue
        title = clean_title(next((element.text or "" for element in root.iter(_TITLE)), ""))
        words = (element.text or "" for element in root.iter(_RDF_ITEM))
        tags = dict.fromkeys(word.strip().replace("_", " ").lower() for word in words if not ITALIAN.search(word))
        if title:
            yield name, title, [tag for tag in tags if tag not in EMPTY_WORDS]


def clean_title(title: str) -> str:
    """Return a title without contributor, number and underscores: "Clipart by N. B. - palm_tree 02" -> "palm tree".

    Empty if the title has no word of three letters.
    """
    title = re.sub(r"^Clipart by .* - ", "", html.unescape(title).strip())
    title = re.sub(r"(?:[\s_.-]*(?:\d+|\.svg))+$", "", title.replace("_", " "))
    return " ".join(title.split()) if re.search(r"[A-Za-z]{3}", title) else ""
