"""Raven's progressive matrices: images of shapes that change by rules, with the last image missing, and six candidates for it.

Papers: Huang et al. 2023 (Kosmos-1, arXiv 2302.14045), section 4.2, for the task and its prompt; Zhang et al. 2019 (RAVEN, arXiv
1903.02741) for progressions of attributes; Hu et al. 2021 (I-RAVEN, arXiv 2002.06838), section 3, for candidates that do not give the
answer away without the matrix.

Where we differ: every puzzle is generated. An attribute is either constant, or moves by one step per column, per row, or both, and wraps
around, so that each puzzle has one answer. The candidates combine three attributes with two values each; two opposite ones of the eight
combinations are left out. Each value of each attribute then occurs in three of the six candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from zoo.errors import ConfigError, name_choices
from zoo.processors.chat.messages import MARKERS, Conversation, Message
from zoo.registry import register
from zoo.sources.wording.questions import checked_kinds
from zoo.sources.wording.splits import refuse_split
from zoo.types import Sample, Source, Split

SPLITS = ("train", "validation", "test")
LAYOUTS = {"2x2": (2, 2), "1x5": (1, 5), "3x3": (3, 3)}  # rows and columns
COUNTS = {3: "three", 4: "four", 8: "eight"}  # numbers of images in the prompt
ROLES = ("document", "user")
# Number of values of each attribute. All shapes look different after every quarter turn, so that a rotation is always visible.
VALUES = {"number": 4, "shape": 5, "fill": 4, "rotation": 4, "position": 9}
SHAPES = (  # (x, y) of the corners, from -1 to 1; y points down
    ((0, -1), (0.7, 0.9), (-0.7, 0.9)),  # triangle
    ((0, -1), (0.9, 0), (0.35, 0), (0.35, 1), (-0.35, 1), (-0.35, 0), (-0.9, 0)),  # arrow
    ((-0.9, -0.9), (-0.2, -0.9), (-0.2, 0.2), (0.9, 0.2), (0.9, 0.9), (-0.9, 0.9)),  # corner
    ((-0.9, -0.9), (0.9, -0.9), (0.9, -0.3), (0.3, -0.3), (0.3, 0.9), (-0.3, 0.9), (-0.3, -0.3), (-0.9, -0.3)),  # T
    ((0, -1), (0.6, 0.3), (0, 1), (-0.9, 0.3)),  # kite
)
FILLS = (255, 190, 110, 0)  # grey values
NUM_CANDIDATES = 6
FIXED_PUZZLES = 100  # puzzles per layout in validation, and in test
_SCALE = 4  # panels are drawn at four times their size and reduced, for smooth edges
_PUZZLE_SEED = 103  # do not change: test puzzles must stay the same between runs


@dataclass(frozen=True)
class Panel:
    """Content of one image; each attribute is an integer from 0 to below its number in ``VALUES``.

    Attributes:
        number: number of shapes minus one.
        shape: index in ``SHAPES``.
        fill: index in ``FILLS``.
        rotation: quarter turns.
        position: first filled cell of the 3 x 3 grid, in reading order; further shapes fill the next cells.
    """

    number: int
    shape: int
    fill: int
    rotation: int
    position: int


@dataclass(frozen=True)
class Puzzle:
    """A matrix without its last panel, and the candidates for it.

    Attributes:
        layout: name in ``LAYOUTS``.
        context: panels in reading order without the last one.
        candidates: possible last panels.
        right: index of the correct candidate.
        rules: (step per row, step per column) of each changing attribute; constant attributes are not listed.
    """

    layout: str
    context: tuple[Panel, ...]
    candidates: tuple[Panel, ...]
    right: int
    rules: dict[str, tuple[int, int]]


@register("source")
class Raven(Source):
    """A matrix and one candidate, with the prompt of Kosmos-1; the answer is "Yes" if the candidate is correct, else "No".

    The sample's ``choices`` are all six candidates, and its ``label`` is the index of the correct one. The conversation shows one
    candidate, which is the correct one in half of the samples.

    Args:
        layouts: rows and columns, of "2x2", "1x5" and "3x3", which show three, four and eight images before the candidate; None takes all.
        num_rules: allowed numbers of changing attributes, each from 1 to 3; one of them is drawn for each puzzle.
        size: width and height of an image in pixels.
        role: "document" gives the prompt of the paper as plain text (chat template kosmos); "user" gives it as a user message for any
            multimodal language model.
        puzzles: puzzles per training epoch; each is generated from its index and the epoch.

    Raises:
        ConfigError: a value is unknown or out of range.
    """

    modalities = ("image", "conversation")
    splits = SPLITS
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        layouts: Sequence[str] | None = None,
        num_rules: Sequence[int] = (1, 2),
        size: int = 64,
        role: str = "document",
        puzzles: int = 19200,
    ) -> None:
        try:
            self.kinds = checked_kinds(layouts, tuple(LAYOUTS))
        except ConfigError as error:
            raise ConfigError(str(error).replace("kinds:", "layouts:", 1)) from error
        if not num_rules or any(not 1 <= number <= 3 for number in num_rules):
            raise ConfigError(f"num_rules: {list(num_rules)}; give a list of numbers from 1 to 3")
        if size < 16 or puzzles < 1:
            raise ConfigError(f"size: {size}, puzzles: {puzzles}; allowed are at least 16 pixels and 1 puzzle")
        if role not in ROLES:
            raise ConfigError(f"role: there is no {role!r}; {name_choices(role, ROLES)}")
        self.num_rules, self.size, self.role, self.puzzles = sorted(set(num_rules)), size, role, puzzles

    def split(self, name: str) -> "RavenSplit":
        """Return the puzzles of "train", "validation" or "test".

        Raises:
            DataError: no such split.
        """
        refuse_split(name, SPLITS)
        return RavenSplit(self, name)

    def captions(self) -> list[str]:
        """Return all prompts and answers, as text to train a tokenizer on."""
        return [words_of(count).replace(MARKERS["image"], "") for count in COUNTS] + [" Yes", " No"]


class RavenSplit(Split):
    """Puzzles of one split."""

    def __init__(self, source: Raven, name: str) -> None:
        self.source, self.name = source, name

    def __len__(self) -> int:
        return self.source.puzzles if self.name == "train" else FIXED_PUZZLES * len(self.source.kinds)

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Return puzzle ``index``; without a generator its index is the seed, and the layouts alternate."""
        source, varied = self.source, generator is not None
        generator = generator if generator is not None else np.random.default_rng((_PUZZLE_SEED, SPLITS.index(self.name), index))
        layout = source.kinds[int(generator.integers(len(source.kinds))) if varied else index % len(source.kinds)]
        puzzle = make_puzzle(layout, int(generator.choice(source.num_rules)), generator)
        wrong = [number for number in range(NUM_CANDIDATES) if number != puzzle.right]
        shown = puzzle.right if generator.integers(2) else int(generator.choice(wrong))
        candidates = [draw_panel(panel, source.size) for panel in puzzle.candidates]
        images = (*(draw_panel(panel, source.size) for panel in puzzle.context), candidates[shown])
        answer = "Yes" if shown == puzzle.right else "No"
        messages = (Message(source.role, words_of(len(puzzle.context))), Message("assistant", answer))
        id = f"raven:{self.name}:{index}"
        conversation = Conversation(messages, images, id=id)
        return Sample(id, {"conversation": conversation}, None, puzzle.right, [answer], layout, candidates)


def words_of(count: int) -> str:
    """Return the prompt for a matrix with ``count`` images before the candidate.

    Source: Kosmos-1, section 4.2.2 and figure 4.
    """
    marker = MARKERS["image"]
    return f"Here are {COUNTS[count]} images: {marker * count} The following image is: {marker} Is it correct?"


def make_puzzle(layout: str, num_rules: int, generator: np.random.Generator) -> Puzzle:
    """Generate a matrix in which ``num_rules`` attributes change, with its candidates in random order."""
    rows, columns = LAYOUTS[layout]
    names = [str(name) for name in generator.permutation(list(VALUES))]
    start = {name: int(generator.integers(VALUES[name])) for name in VALUES}
    steps = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)] if rows > 1 else [(0, -1), (0, 1)]
    rules = {name: steps[int(generator.integers(len(steps)))] for name in names[:num_rules]}
    panels = [_panel(start, rules, row, column) for row in range(rows) for column in range(columns)]
    candidates = _candidates(panels[-1], names[:3], generator)
    return Puzzle(layout, tuple(panels[:-1]), tuple(candidates), candidates.index(panels[-1]), rules)


def _panel(start: dict[str, int], rules: dict[str, tuple[int, int]], row: int, column: int) -> Panel:
    moved = {name: (start[name] + a * row + b * column) % VALUES[name] for name, (a, b) in rules.items()}
    return Panel(**{**start, **moved})


def _candidates(right: Panel, names: Sequence[str], generator: np.random.Generator) -> list[Panel]:
    """Return the correct panel and five others in random order.

    Three attributes take two values each, which gives the eight corners of a cube, numbered by three bits. Corner 0 is the correct panel.
    Two opposite corners are left out, so that each value occurs in three of the six candidates and no majority of values gives the answer.
    """
    other = {name: (getattr(right, name) + int(generator.integers(1, VALUES[name]))) % VALUES[name] for name in names}
    left_out = int(generator.integers(1, 7))  # 1 to 6: neither this corner nor its opposite, 7 - left_out, is corner 0
    corners = generator.permutation([corner for corner in range(8) if corner not in (left_out, 7 - left_out)])
    return [replace(right, **{name: other[name] for bit, name in enumerate(names) if corner >> bit & 1}) for corner in map(int, corners)]


def draw_panel(panel: Panel, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Draw a panel: shapes on white in a 3 x 3 grid of cells, inside a black frame."""
    side = size * _SCALE
    image = Image.new("L", (side, side), 255)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, side - 1, side - 1), outline=0, width=_SCALE)
    angle = np.pi / 2 * panel.rotation
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = np.array(SHAPES[panel.shape]) @ turn.T  # [corners, 2]
    for step in range(panel.number + 1):
        row, column = divmod((panel.position + step) % 9, 3)
        at = (corners * 0.8 / 2 + (column + 0.5, row + 0.5)) * side / 3
        pen.polygon([(float(x), float(y)) for x, y in at], fill=FILLS[panel.fill], outline=0, width=_SCALE)
    return np.asarray(image.resize((size, size), Image.Resampling.BOX).convert("RGB"))
