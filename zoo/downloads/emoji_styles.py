"""More styles of the concepts of ``zoo.downloads.emoji``: gradients, a rendering in 3D, hand-drawn outlines and two in one colour.

They are for training only: none is drawn after Twemoji, whose art is that of the tests, and rows say which concepts are held out.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zoo.downloads.drawings import write_table
from zoo.downloads.emoji import SIDE, bare, draw_styles, drawing_path, drawing_row, held_out_concepts, read_concepts

STYLES = ("fluent-emoji", "fluent-emoji-high-contrast", "emojione-monotone", "streamline-emojis")
NAMED_STYLES = ("noto", "fluent-emoji-high-contrast")
RENDERED = "fluent-emoji-3d"  # pictures of 256 x 256 pixels, one for each code point


def convert(source: Path, target: Path) -> None:
    """Write a folder of PNGs for each style, named by code points, and ``table.jsonl``.

    Args:
        source: folder with ``emojibase``, a folder for each style, and one for each of ``NAMED_STYLES``.
    """
    concepts = read_concepts(source / "emojibase")
    drawn = draw_styles(source, target, concepts, styles=STYLES, named=NAMED_STYLES)
    write_table(target, [*drawn, *_rendered(source / RENDERED, target, concepts)])


def _rendered(source: Path, target: Path, concepts: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    from PIL import Image  # the list of assets does not need it

    held_out = held_out_concepts(concepts)
    (target / RENDERED).mkdir()
    for path in sorted(source.glob("*.webp")):
        code = bare(path.stem)
        if code in concepts:
            with Image.open(path) as image:
                image.convert("RGBA").resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(target / drawing_path(RENDERED, code))
            yield drawing_row(RENDERED, code, concepts, held_out)
