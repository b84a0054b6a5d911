"""Converter of icon collections whose icon names are words, to PNGs and one table.

If a collection has an icon in several weights or sizes, one of them is used. Names become labels: ``tree-palm-02`` -> "tree palm".
"""

import re
from pathlib import Path

from zoo.downloads.drawings import draw, write_table
from zoo.downloads.iconify import read_icons
from zoo.storage.progress import counted

SIDE = 128  # pixels
COLLECTIONS = {  # pattern of the icon names to use, by collection; the first group of the pattern becomes the label
    "flat-color-icons": r"(.+)",
    "fluent-color": r"(.+?)-(?:16|20|24|28|32|48)",
    "game-icons": r"(?!abstract-)(.+)",
    "icon-park": r"(.+)",
    "ph": r"(.+)-duotone",
    "streamline-freehand-color": r"(.+)",
    "streamline-ultimate-color": r"(.+)",
}
NUMBERING = re.compile(r"(?:[- ](?:\d+|one|two|three|four|five|alternate))+$")  # number of a variant of an icon


def convert(source: Path, target: Path) -> None:
    """Write a folder of PNGs for each collection, and ``table.jsonl``.

    Args:
        source: folder that contains a folder for each collection.
    """
    rows = []
    for collection, pattern in COLLECTIONS.items():
        for name, svg in counted(labelled_icons(source / collection, pattern).values(), f"draw {collection}"):
            path = f"{collection}/{name}.png"
            draw(svg, target / path, side=SIDE)
            rows.append({"path": path, "style": collection, "label": label_of(name, pattern), "tags": []})
    write_table(target, rows)


def labelled_icons(folder: Path, pattern: str) -> dict[str, tuple[str, str]]:
    """Return name and SVG of the icons whose names match a pattern, by label; of several sizes the last, which is the largest."""
    found = {}
    for name, svg in sorted(read_icons(folder).items()):
        if match := re.fullmatch(pattern, name):
            found[match[1]] = (name, svg)
    return found


def label_of(name: str, pattern: str) -> str:
    """Return an icon's name as words, without the number of a variant."""
    match = re.fullmatch(pattern, name)
    stem = match[1] if match else name
    return (NUMBERING.sub("", stem) or stem).replace("-", " ")
