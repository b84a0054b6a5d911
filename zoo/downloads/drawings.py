"""What the drawn data sets share: SVG to PNG, and the table that names the pictures.

Each row of ``table.jsonl`` is one picture: ``path`` in the folder, ``style`` (the collection it is of), ``label`` (its name in
words) or ``caption`` (a sentence) or both, ``tags`` (more words), and what else a data set knows. Transparency is kept, so that
whoever reads them chooses the ground.
"""

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image  # the list of assets does not need it

TABLE = "table.jsonl"
LONGEST_RATIO = 4  # of width to height or the reverse, of what can be made square
WIDEST = 3000  # pixels
DOTS_PER_INCH = 96  # of CSS; without one resvg refuses sizes in millimetres
MARGIN = 0.04  # of the side, around what is drawn


def draw(svg: str, path: Path, *, side: int) -> None:
    """Draw a square SVG as a PNG of ``side`` x ``side`` pixels.

    Raises:
        ValueError: it is not an SVG that can be drawn.
    """
    import resvg_py  # nothing else of zoo needs it

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, skip_system_fonts=True))


def draw_any(svg: Path, *, side: int) -> "Image.Image | None":
    """Draw an SVG file of any shape so large that what is on the page takes ``side`` pixels or more; None where it cannot be drawn."""
    width = side + side // 2
    first = _drawn(svg, width=width)
    box = None if first is None else first.getchannel("A").getbbox()
    if box is None or (longest := max(box[2] - box[0], box[3] - box[1])) >= side:
        return first
    return _drawn(svg, width=min(WIDEST, width * side // longest))  # a small drawing on a large page


def _drawn(svg: Path, *, width: int) -> "Image.Image | None":
    import resvg_py
    from PIL import Image

    try:
        drawn = resvg_py.svg_to_bytes(svg_path=str(svg), width=width, dpi=DOTS_PER_INCH, skip_system_fonts=True)
    except ValueError:  # of resvg: no SVG, or none that it understands
        return None
    return Image.open(io.BytesIO(drawn)).convert("RGBA")


def squared(image: "Image.Image", *, side: int) -> "Image.Image | None":
    """What is drawn in a picture in RGBA, in the middle of a transparent square; None where nothing is, or only a line."""
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
