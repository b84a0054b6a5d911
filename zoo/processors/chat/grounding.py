"""Grounding: convert between bounding boxes and Kosmos-2's location tokens.

Paper: Peng et al. 2023 (Kosmos-2, arXiv 2306.14824), section 2. Reference: transformers 5.17 ``processing_kosmos2.py``.

An image of any aspect ratio is divided into 32 x 32 cells, numbered row by row. A box is written as the cells of its upper left and its
lower right corner, after the phrase that it belongs to. The boxes of one phrase follow one another::

    <grounding> An image of<phrase> a snowman</phrase><object><patch_index_0044><patch_index_0863></object>

Where we differ: only known tags are removed from a text, not everything between ``<`` and ``>``. Pairs of tokens that are not a valid
box (a cell beyond the grid, or the second corner left of or above the first) are dropped.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from zoo.errors import DataError

GRID = 32  # cells along each side
GROUNDING = "<grounding>"  # at the beginning of a text that has boxes; in a prompt, it requests them
NEXT_BOX = "</delimiter_of_multi_objects/>"
TAGS = (
    *("</doc>", "<image>", "</image>", "</chunk>", "</line>", "<phrase>", "</phrase>", "<object>", "</object>"),
    *(NEXT_BOX, GROUNDING),
)
TAG = re.compile("|".join(map(re.escape, TAGS)) + r"|<patch_index_\d+>")
PAIR = r"<patch_index_\d+>\s*<patch_index_\d+>"
GROUNDED = re.compile(
    rf"(?:<phrase>(?P<phrase>[^<]*)</phrase>\s*)?<object>\s*(?P<pairs>{PAIR}(?:\s*{re.escape(NEXT_BOX)}\s*{PAIR})*)\s*</object>"
)
PHRASE = re.compile(r"<phrase>.+?</phrase>")
COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000")

Box = tuple[float, float, float, float]  # left, top, right, bottom as fractions of width and height


@dataclass(frozen=True)
class Phrase:
    """Phrase of a text with the boxes of the objects that it names.

    Attributes:
        text: the phrase; empty if boxes stand in the text without a phrase.
        start: offset of its first character in the text without tags.
        end: offset after its last character.
    """

    text: str
    start: int
    end: int
    boxes: tuple[Box, ...]


def location_tokens(grid: int = GRID) -> list[str]:
    """Return the location token of each cell, in order."""
    return [_word(cell) for cell in range(grid**2)]


def cells_of(box: Box, grid: int = GRID) -> tuple[int, int]:
    """Return the cells of a box's upper left and lower right corner: (0.1, 0.2, 0.5, 0.75) gives 195 and 751.

    Raises:
        DataError: the box is empty or outside the image.
    """
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise DataError(
            f"box: got {tuple(box)}; allowed is (left, top, right, bottom) as fractions of the image's width and height, from 0 to 1, "
            "with left < right and top < bottom"
        )
    first = math.floor(top * grid) * grid + math.floor(left * grid)
    return first, math.ceil(bottom * grid - 1) * grid + math.ceil(right * grid - 1)


def box_of(first: int, last: int, grid: int = GRID) -> Box:
    """Return the box between the centres of two cells.

    If the cells are in one row or column, the box covers the whole cells, because their centres would span an empty box.

    Raises:
        DataError: a cell is beyond the grid, or the second is left of or above the first.
    """
    (top, left), (bottom, right) = divmod(first, grid), divmod(last, grid)
    if not (0 <= first < grid**2 and 0 <= last < grid**2 and left <= right and top <= bottom):
        raise DataError(
            f"location tokens {first} and {last} are no box in a grid of {grid} x {grid}; allowed are 0 to {grid**2 - 1}, and the second "
            "must not be left of or above the first"
        )
    margin = 0.0 if top == bottom or left == right else 0.5  # of a cell
    return (left + margin) / grid, (top + margin) / grid, (right + 1 - margin) / grid, (bottom + 1 - margin) / grid


def with_boxes(text: str, boxes: Sequence[Sequence[Box] | None], grid: int = GRID) -> str:
    """Insert boxes as location tokens after the phrases of a text, ``<phrase>a fire</phrase>``, in order.

    Args:
        boxes: one list for each phrase; None or an empty list for a phrase without boxes.

    Raises:
        DataError: the numbers of phrases and lists differ, or a box is invalid.
    """
    phrases = list(PHRASE.finditer(text))
    if len(phrases) != len(boxes):
        raise DataError(f"boxes: got {len(boxes)} for {len(phrases)} phrases (<phrase>...</phrase>) of {text!r:.80}; give a list for each")
    pieces, end = [], 0
    for phrase, own in zip(phrases, boxes, strict=True):
        pieces.append(text[end : phrase.end()])
        end = phrase.end()
        if own:
            pairs = ("".join(_word(cell) for cell in cells_of(box, grid)) for box in own)
            pieces.append(f"<object>{NEXT_BOX.join(pairs)}</object>")
    return "".join(pieces) + text[end:]


def read_boxes(text: str, grid: int = GRID) -> tuple[str, list[Phrase]]:
    """Split the output of a grounded model into the text without tags and the phrases that have boxes.

    ``"An image of<phrase> a fire</phrase><object><patch_index_0005><patch_index_0911></object>."`` gives ``"An image of a fire."`` and
    ``Phrase("a fire", 12, 18, ((0.171875, 0.015625, 0.484375, 0.890625),))``.
    """
    plain = _plain(text)
    lead, phrases = len(plain) - len(plain.lstrip()), []
    for match in GROUNDED.finditer(text):
        boxes = tuple(box for pair in match["pairs"].split(NEXT_BOX) if (box := _known_box(pair, grid)) is not None)
        if not boxes:
            continue
        words = match["phrase"] or ""
        start = len(_plain(text[: match.start()])) + len(words) - len(words.lstrip()) - lead
        start = min(max(start, 0), len(plain.strip()))
        phrases.append(Phrase(words.strip(), start, start + len(words.strip()), boxes))
    return plain.strip(), phrases


def draw_boxes(picture: Image.Image, phrases: Sequence[Phrase]) -> Image.Image:
    """Return a copy of the image with the boxes drawn in, one colour for each phrase."""
    drawn = picture.convert("RGB")
    drawn = drawn.copy() if drawn is picture else drawn
    pen, (width, height) = ImageDraw.Draw(drawn), drawn.size
    line = max(1, round(max(width, height) / 200))  # pixels
    for number, phrase in enumerate(phrases):
        colour = COLOURS[number % len(COLOURS)]
        for left, top, right, bottom in phrase.boxes:
            corner = (left * width, top * height)
            pen.rectangle((*corner, right * width - 1, bottom * height - 1), outline=colour, width=line)
            if phrase.text:
                pen.rectangle(pen.textbbox(corner, phrase.text), fill=colour)
                pen.text(corner, phrase.text, fill="white")
    return drawn


def _word(cell: int) -> str:
    return f"<patch_index_{cell:04d}>"


def _plain(text: str) -> str:
    return TAG.sub("", text)


def _known_box(pair: str, grid: int) -> Box | None:
    """Return the box of two location tokens; None if the pair, generated by a model, is not a valid box."""
    first, last = (int(number) for number in re.findall(r"\d+", pair))
    try:
        return box_of(first, last, grid)
    except DataError:
        return None
