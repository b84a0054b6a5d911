"""Converter of the GIMP manual in English: one HTML page for each section, with its pictures.

Source: gitlab.gnome.org/GNOME/gimp-help. Only pages and pictures are kept. Style sheets and indexes for GIMP's help browser are left out;
so are SVG drawings, because few image libraries decode them.
"""

import shutil
from pathlib import Path

from zoo.storage.progress import counted

FOLDER = "pages"
KEPT = (".html", ".png", ".jpg", ".jpeg")


def convert(source: Path, target: Path) -> None:
    """Write the folder ``pages``, with the pictures at the paths that the pages refer to.

    Args:
        source: folder that contains ``help``.
    """
    folder = source / "help"
    for file in counted(sorted(path for path in folder.rglob("*") if path.suffix.lower() in KEPT), "copy pages"):
        place = target / FOLDER / file.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
