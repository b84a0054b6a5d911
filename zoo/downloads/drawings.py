"""Shared parts of the converters of drawings: SVG to PNG, and the table of the pictures.

Each row of ``table.jsonl`` is one picture: ``path`` in the folder, ``style`` (its collection), ``label`` (its name in words) or
``caption`` (a sentence) or both, ``tags`` (further words), and further columns of the data set. Transparency is kept, so that the reader
of the data can choose the background.
"""

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image  # not imported at run time, because the list of assets does not need it

TABLE = "table.jsonl"
LONGEST_RATIO = 4  # largest ratio of the longer to the shorter side; narrower drawings are left out
WIDEST = 3000  # pixels; limits memory and time
DOTS_PER_INCH = 96  # the CSS value; without a value resvg refuses sizes in millimetres
MARGIN = 0.04  # empty border around the drawing, as share of the side


def draw(svg: str, path: Path, *, side: int) -> None:
    """Draw a square SVG as a PNG of ``side`` x ``side`` pixels.

    Raises:
        ValueError: resvg cannot draw the SVG.
    """
    import resvg_py  # optional dependency that only the converters of drawings need

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, skip_system_fonts=True))


def draw_any(svg: Path, *, side: int) -> "Image.Image | None":
    """Draw an SVG file of any shape, so large that the longer side of the drawn part has at least ``side`` pixels, if possible.

    Returns:
        An RGBA image; None if the file cannot be drawn.
    """
    width = side + side // 2
    first = _drawn(svg, width=width)
    box = None if first is None else first.getchannel("A").getbbox()
    if box is None or (longest := max(box[2] - box[0], box[3] - box[1])) >= side:
        return first
    return _drawn(svg, width=min(WIDEST, width * side // longest))  # the drawing covers a small part of its page: draw again, larger


def _drawn(svg: Path, *, width: int) -> "Image.Image | None":
    import resvg_py
    from PIL import Image

    try:
        drawn = resvg_py.svg_to_bytes(svg_path=str(svg), width=width, dpi=DOTS_PER_INCH, skip_system_fonts=True)
    except ValueError:  # resvg: not an SVG file, or one that it does not support
        return None
    return Image.open(io.BytesIO(drawn)).convert("RGBA")


def squared(image: "Image.Image", *, side: int) -> "Image.Image | None":
    """Crop an RGBA image to its visible part, scale it and centre it on a transparent square.

    Returns:
        An RGBA image of ``side`` x ``side`` pixels; None if nothing is visible or the visible part is too narrow (``LONGEST_RATIO``).
    """
    from PIL import Image

    box = image.getchannel("A").getbbox()
    if box is None or max(box[2] - box[0], box[3] - box[1]) > LONGEST_RATIO * min(box[2] - box[0], box[3] - box[1]):
        return None
    drawn = image.crop(box)
    inside = side - 2 * round(MARGIN * side)
    scale = inside / max(drawn.size)
    drawn = drawn.resize((max(1, round(drawn.width * scale)), max(1, round(drawn.height * scale))), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (side, side), (255, 255, 255, 0))
    canvas.paste(drawn, ((side - drawn.width) // 2, (side - drawn.height) // 2))
    return canvas


def write_table(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write ``table.jsonl``."""
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / TABLE).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
