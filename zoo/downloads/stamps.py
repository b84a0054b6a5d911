"""Converter of the stamps of Tux Paint: cut-out photos and drawings, each with an English sentence, as PNGs and one table.

Source: tuxpaint.org; a text file beside each picture begins with an English line. Letters, digits, chess pieces and musical notes are
left out.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.downloads.drawings import draw_any, squared, write_table
from zoo.storage.progress import counted

if TYPE_CHECKING:
    from PIL import Image  # not imported at run time, because the list of assets does not need it

SIDE = 224  # pixels
LEFT_OUT = ("symbols/alphabets/", "symbols/chess/", "symbols/math/", "symbols/music/")
LONGEST_LABEL = 5  # words


def convert(source: Path, target: Path) -> None:
    """Write a folder of PNGs and ``table.jsonl``.

    Args:
        source: folder that contains ``stamps``.
    """
    rows = []
    for text in counted(sorted((source / "stamps").rglob("*.txt")), "convert stamps"):
        stem = text.relative_to(source / "stamps").with_suffix("").as_posix()
        with text.open(encoding="utf-8") as file:
            sentence = file.readline().strip()
        image = _picture(text) if sentence and not stem.startswith(LEFT_OUT) else None
        if image is not None:
            path = f"pictures/{stem.replace('/', '--')}.png"
            (target / "pictures").mkdir(exist_ok=True)
            image.save(target / path)
            tags = [part.replace("_", " ") for part in stem.split("/")[:-1]]
            rows.append({"path": path, "style": "tuxpaint", "label": short_label(sentence), "caption": sentence, "tags": tags})
    write_table(target, rows)


def short_label(sentence: str) -> str | None:
    """Return the noun phrase that a sentence consists of, else None: "A blue fedora." -> "blue fedora"."""
    words = re.fullmatch(r"(?:(?:An?|The|Some) )?([^.,;:!?()]+)\.?", sentence)
    return words[1] if words and len(words[1].split()) <= LONGEST_LABEL else None


def _picture(text: Path) -> "Image.Image | None":
    from PIL import Image

    picture = text.with_suffix(".png")
    if picture.is_file():
        with Image.open(picture) as image:
            return squared(image.convert("RGBA"), side=SIDE)
    drawn = draw_any(text.with_suffix(".svg"), side=SIDE) if text.with_suffix(".svg").is_file() else None
    return None if drawn is None else squared(drawn, side=SIDE)
