"""Converter of five more styles of the concepts of ``zoo.downloads.emoji``: gradients, 3D, hand-drawn outlines and two in one colour.

These styles are for training only. None of them is derived from Twemoji, whose drawings are the test set. The table marks held-out
concepts.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zoo.downloads.drawings import write_table
from zoo.downloads.emoji import SIDE, bare, draw_styles, drawing_path, drawing_row, held_out_concepts, read_concepts
from zoo.storage.progress import counted

STYLES = ("fluent-emoji", "fluent-emoji-high-contrast", "emojione-monotone", "streamline-emojis")
NAMED_STYLES = ("noto", "fluent-emoji-high-contrast")
RENDERED = "fluent-emoji-3d"  # pictures of 256 x 256 pixels, one for each code point


def convert(source: Path, target: Path) -> None:
    """Write a folder of PNGs for each style, named by code points, and ``table.jsonl``.

    Args:
        source: folder that contains ``emojibase``, a folder for each style, and one for each of ``NAMED_STYLES``.
    """
    concepts = read_concepts(source / "emojibase")
    drawn = draw_styles(source, target, concepts, styles=STYLES, named=NAMED_STYLES)
    write_table(target, [*drawn, *_rendered(source / RENDERED, target, concepts)])


def _rendered(source: Path, target: Path, concepts: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    from PIL import Image  # slow to import, and the list of assets does not need it

    held_out = held_out_concepts(concepts)
    (target / RENDERED).mkdir()
    for path in counted(sorted(source.glob("*.webp")), f"draw {RENDERED}"):
        code = bare(path.stem)
        if code in concepts:
            with Image.open(path) as image:
                image.convert("RGBA").resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(target / drawing_path(RENDERED, code))
            yield drawing_row(RENDERED, code, concepts, held_out)
