"""The manual of GIMP in English: a page of HTML for each section, with its pictures.

Source: gitlab.gnome.org/GNOME/gimp-help. What is no page and no picture (style sheets, indexes for the program's own browser) is left out,
and so are drawings in SVG, which are seldom decoded.
"""

import shutil
from pathlib import Path

FOLDER = "pages"
KEPT = (".html", ".png", ".jpg", ".jpeg")


def convert(source: Path, target: Path) -> None:
    """Write ``pages``, with pictures in the folders that the pages name.

    Args:
        source: folder with ``help``.
    """
    folder = source / "help"
    for file in sorted(path for path in folder.rglob("*") if path.suffix.lower() in KEPT):
        place = target / FOLDER / file.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
