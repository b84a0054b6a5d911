"""Raven's matrices: pictures of shapes that change by rules, the last one missing, and six candidates for it.

Papers: Huang et al. 2023 (Kosmos-1, arXiv 2302.14045), section 4.2, for the task and its words; Zhang et al. 2019 (RAVEN, arXiv
1903.02741) for attributes that progress; Hu et al. 2021 (I-RAVEN, arXiv 2002.06838), section 3, for candidates among which none is told
without the matrix.

Where we differ: every puzzle is generated. An attribute either stays or moves by one step a column, a row, or both, round and round, so
that each puzzle has one answer. Six candidates take three attributes with two values each: of the eight combinations two opposite ones
are left out, and each value of each attribute then stands in three of the six.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from zoo.errors import ConfigError, name_choices
from zoo.processors.chat.messages import MARKERS, Conversation, Message
from zoo.registry import register
from zoo.sources.digits import refuse_split
from zoo.sources.wording.questions import checked_kinds
from zoo.types import Sample

SPLITS = ("train", "validation", "test")
LAYOUTS = {"2x2": (2, 2), "1x5": (1, 5), "3x3": (3, 3)}  # rows and columns
COUNTS = {3: "three", 4: "four", 8: "eight"}  # of pictures that are shown
ROLES = ("document", "user")
# How many values each attribute has. Shapes look different after every quarter turn, so that a rotation is always seen.
VALUES = {"number": 4, "shape": 5, "fill": 4, "rotation": 4, "position": 9}
SHAPES = (  # corners, from -1 to 1
    ((0, -1), (0.7, 0.9), (-0.7, 0.9)),  # triangle
    ((0, -1), (0.9, 0), (0.35, 0), (0.35, 1), (-0.35, 1), (-0.35, 0), (-0.9, 0)),  # arrow
    ((-0.9, -0.9), (-0.2, -0.9), (-0.2, 0.2), (0.9, 0.2), (0.9, 0.9), (-0.9, 0.9)),  # corner
    ((-0.9, -0.9), (0.9, -0.9), (0.9, -0.3), (0.3, -0.3), (0.3, 0.9), (-0.3, 0.9), (-0.3, -0.3), (-0.9, -0.3)),  # T
    ((0, -1), (0.6, 0.3), (0, 1), (-0.9, 0.3)),  # kite
)
FILLS = (255, 190, 110, 0)
NUM_CANDIDATES = 6
FIXED_PUZZLES = 100  # of validation and test, for each layout
_SCALE = 4  # drawn larger and made smaller, for smooth edges
_PUZZLE_SEED = 103  # fixed for ever: test puzzles must not change between runs


@dataclass(frozen=True)
class Panel:
    """What one picture shows; each a number below that of ``VALUES``. ``position`` is the first of nine places that is filled."""

    number: int
    shape: int
    fill: int
    rotation: int
    position: int


@dataclass(frozen=True)
class Puzzle:
    """Panels in reading order without the last, candidates for it, and which of these is right.

    Attributes:
        rules: by attribute the steps for each row and each column; those that stay have none.
    """

    layout: str
    context: tuple[Panel, ...]
    candidates: tuple[Panel, ...]
    right: int
    rules: dict[str, tuple[int, int]]


@register("source")
class Raven:
    """A matrix and one candidate, with the words of Kosmos-1, and whether it is the missing one.

    The sample's ``choices`` are all six candidates, its ``label`` says which is right; the conversation shows one, the right one half of
    the time.

    Args:
        layouts: rows and columns, of "2x2", "1x5" and "3x3": three, four and eight pictures are shown; None takes all.
        num_rules: how many attributes change, of 1 to 3; one of these is drawn for each puzzle.
        size: pixels of a picture.
        role: "document" for the words of the paper as they are (template kosmos), "user" for a question to any system that talks.
        puzzles: how many make one epoch; each is drawn anew from its number and the epoch.

    Raises:
        ConfigError: a word or a number that there is not.
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
        """Puzzles of "train", "validation" or "test"."""
        refuse_split(name, SPLITS)
        return RavenSplit(self, name)

    def captions(self) -> list[str]:
        """All that is said."""
        return [words_of(count).replace(MARKERS["image"], "") for count in COUNTS] + [" Yes", " No"]


class RavenSplit:
    """Puzzles of one split."""

    def __init__(self, source: Raven, name: str) -> None:
        self.source, self.name = source, name

    def __len__(self) -> int:
        return self.source.puzzles if self.name == "train" else FIXED_PUZZLES * len(self.source.kinds)

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Puzzle ``index``; without a generator its own number seeds it, and layouts take turns."""
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
    """What is asked where ``count`` pictures are shown before the candidate.

    Source: Kosmos-1, section 4.2.2 and figure 4.
    """
    marker = MARKERS["image"]
    return f"Here are {COUNTS[count]} images: {marker * count} The following image is: {marker} Is it correct?"


def make_puzzle(layout: str, num_rules: int, generator: np.random.Generator) -> Puzzle:
    """A matrix in which ``num_rules`` attributes change, and its candidates in random order."""
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
    """The right one and five others: two values of each of three attributes, each value in three of the six."""
    other = {name: (getattr(right, name) + int(generator.integers(1, VALUES[name]))) % VALUES[name] for name in names}
    left_out = int(generator.integers(1, 7))  # with its opposite; neither is the right one, which is 0
    corners = generator.permutation([corner for corner in range(8) if corner not in (left_out, 7 - left_out)])
    return [replace(right, **{name: other[name] for bit, name in enumerate(names) if corner >> bit & 1}) for corner in map(int, corners)]


def draw_panel(panel: Panel, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """A picture of dark shapes on white, in three rows of three places."""
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
