"""Questions about maps and flags: what is shown, which region is coloured, its capital, and what can be seen of its place and size.

Data: what ``zoo fetch kgeography`` makes of KGeography. Maps are split by the area that they show, flags by their file. Maps of the
world and of continents are for training alone, because their countries stand in several of them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zoo.errors import ConfigError, DataError
from zoo.processors.media.image_file import DECODE_ERRORS, open_image
from zoo.registry import register
from zoo.sources.digits import refuse_split
from zoo.sources.wording.captions import stable_group
from zoo.sources.wording.questions import Question, checked_kinds, number_answers, sample_of, texts_of
from zoo.types import Sample

TABLE = "table.jsonl"
SPLITS = ("train", "validation", "test")
SHARES = {"validation": (0.0, 0.1), "test": (0.1, 0.2)}  # of areas and of flags, by a hash of their names
KINDS = ("map", "region", "capital", "flag", "count", "position", "size")
SHOWN_ALONE = ("country", "continent", "ocean or basin")  # maps with such regions are for training
COLOURS = {"red": (220, 30, 30), "blue": (40, 80, 220), "green": (30, 160, 60), "yellow": (245, 205, 40)}
LAND, BORDER, REST = (222, 222, 210), (90, 90, 90), (255, 255, 255)
MOST_COUNTED = 5
APART = 0.1  # of the picture's height or width, between two middles that are compared
TIMES_LARGER = 1.5
_QUESTION_SEED = 102  # fixed for ever: test questions must not change between runs


@dataclass(frozen=True)
class Region:
    """A region of a map; see ``zoo.downloads.kgeography.read_map``."""

    name: str
    capital: str | None
    colour: tuple[int, int, int]
    share: float
    x: float
    y: float


@dataclass(frozen=True)
class Map:
    """A map with those of its regions that are large enough to be seen."""

    path: Path
    area: str
    division: str
    regions: tuple[Region, ...]
    colours: frozenset[tuple[int, int, int]]  # of all its regions
    borders: frozenset[tuple[int, int, int]]


@register("source")
class GeographyQuestions:
    """A map with some regions coloured, or a flag; one question about it, and its true answer.

    Args:
        path: the folder of ``zoo fetch kgeography``.
        kinds: which kinds of questions are asked, of "map", "region", "capital", "flag" (which ask for what one has to know), "count",
            "position" and "size" (for what can be seen); None asks all.
        questions: how many make one epoch; each is drawn anew from its number and the epoch. Tests have a tenth.
        smallest: share of the picture that a region has to have to be asked about.

    Raises:
        ConfigError: an unknown kind, or numbers that cannot be.
        DataError: a folder without its table, or a table with faults.
    """

    modalities = ("image", "conversation")
    splits = SPLITS
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()

    def __init__(
        self, *, path: str | Path, kinds: Sequence[str] | None = None, questions: int = 20000, smallest: float | int = 0.003
    ) -> None:
        if questions < 10 or not 0 <= smallest < 1:
            raise ConfigError(f"questions: {questions}, smallest: {smallest}; allowed are 10 or more, and a share from 0 to 1")
        self.kinds, self.questions = checked_kinds(kinds, KINDS), questions
        self.path = Path(path)
        rows = _read_rows(self.path)
        self._maps = [_map_of(row, self.path, smallest) for row in rows]
        self._flags = _flags_of(rows)

    def split(self, name: str) -> "GeographyQuestionsSplit":
        """The questions of one split."""
        refuse_split(name, SPLITS)
        maps = [each for each in self._maps if _split_of(each) == name]
        flags = [(self.path / flag, names) for flag, names in self._flags.items() if _hashed(flag) == name]
        count = self.questions if name == "train" else self.questions // 10
        return GeographyQuestionsSplit(name, maps, flags, self.kinds, count)

    def captions(self) -> list[str]:
        """Questions and answers that training may show."""
        split = self.split("train")
        asked = [split.asked(kind, np.random.default_rng((_QUESTION_SEED, number)))[0] for kind in self.kinds for number in range(20)]
        names = {text for each in split.maps for region in each.regions for text in (region.name, region.capital or "")}
        texts = {text for question in asked for text in texts_of(question)} | {each.area for each in split.maps}
        return sorted((texts | names | {each for _, names in split.flags for each in names}) - {""})


class GeographyQuestionsSplit:
    """Questions about the maps and flags of one split."""

    def __init__(
        self, name: str, maps: Sequence[Map], flags: Sequence[tuple[Path, tuple[str, ...]]], kinds: Sequence[str], questions: int
    ) -> None:
        self.name, self.maps, self.flags, self.kinds, self.questions = name, list(maps), list(flags), list(kinds), questions

    def __len__(self) -> int:
        return self.questions

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Question ``index``; without a generator its own number seeds it, and kinds take turns.

        Raises:
            DataError: a picture cannot be read; the message begins with the item's id.
        """
        varied = generator is not None
        generator = generator if generator is not None else np.random.default_rng((_QUESTION_SEED, SPLITS.index(self.name), index))
        kind = self.kinds[int(generator.integers(len(self.kinds))) if varied else index % len(self.kinds)]
        question, path, each, coloured = self.asked(kind, generator)
        id = f"geography_questions:{self.name}:{index}:{path.name}"
        try:
            image = open_image(path) if each is None else draw_map(each, coloured)
        except DataError as error:
            raise DataError(f"item {id}: {error}") from error
        return sample_of(id, question, [image], generator)

    def asked(self, kind: str, generator: np.random.Generator) -> tuple[Question, Path, Map | None, dict[tuple[int, int, int], str]]:
        """A question of a kind, the picture, its map where it is one, and what is coloured there."""
        if kind == "flag":
            path, names = self.flags[int(generator.integers(len(self.flags)))]
            wordings = ("Whose flag is this?", "Which place has this flag?", "What does this flag stand for?")
            return Question(kind, wordings, names), path, None, {}
        while True:  # some maps have no region that such a question can be asked about
            each = self.maps[int(generator.integers(len(self.maps)))]
            found = _QUESTIONS[kind](each, generator)
            if found is not None:
                return found[0], each.path, each, found[1]


Coloured = dict[tuple[int, int, int], str]


def draw_map(each: Map, coloured: Mapping[tuple[int, int, int], str]) -> Image.Image:
    """The picture with some regions, named by their own colours, in others; the rest of the land is grey, all else white."""
    try:
        with Image.open(each.path) as image:
            indexed, palette = np.asarray(image), image.getpalette("RGB")
    except DECODE_ERRORS as error:
        raise DataError(f"{each.path}: cannot be read ({error}); fetch the folder again") from error
    if palette is None or indexed.ndim != 2:
        raise DataError(f"{each.path}: is no picture with a palette, as KGeography's are; fetch the folder again")
    table = np.full((256, 3), REST, dtype=np.uint8)
    for number, colour in enumerate(zip(palette[::3], palette[1::3], palette[2::3], strict=True)):
        if colour in coloured:
            table[number] = COLOURS[coloured[colour]]
        elif colour in each.colours:
            table[number] = LAND
        elif colour in each.borders:
            table[number] = BORDER
    return Image.fromarray(table[indexed])


def _ask_map(each: Map, generator: np.random.Generator) -> tuple[Question, Coloured] | None:
    wordings = ("What does this map show?", "Which area is this a map of?", "Name the area on the map.")
    return Question("map", wordings, (each.area,)), {}


def _ask_region(each: Map, generator: np.random.Generator) -> tuple[Question, Coloured] | None:
    region = _choose(each, 1, generator)
    if region is None:
        return None
    wordings = (f"Which {each.division} is red?", f"What is the name of the {each.division} in red?", f"Name the red {each.division}.")
    return Question("region", wordings, (region[0].name,)), {region[0].colour: "red"}


def _ask_capital(each: Map, generator: np.random.Generator) -> tuple[Question, Coloured] | None:
    known = [region for region in each.regions if region.capital]
    if not known:
        return None
    region = known[int(generator.integers(len(known)))]
    wordings = (f"What is the capital of the red {each.division}?", f"Name the capital of the {each.division} in red.")
    return Question("capital", wordings, (str(region.capital),)), {region.colour: "red"}


def _ask_count(each: Map, generator: np.random.Generator) -> tuple[Question, Coloured] | None:
    count = int(generator.integers(1, 1 + min(MOST_COUNTED, len(each.regions) or 1)))
    regions = _choose(each, count, generator)
    if regions is None:
        return None
    colour = str(generator.choice(sorted(COLOURS)))
    wordings = (f"How many regions are {colour}?", f"Count the {colour} regions.", f"How many {colour} areas does the map show?")
    return Question("count", wordings, number_answers(count)), {region.colour: colour for region in regions}


def _ask_position(each: Map, generator: np.random.Generator) -> tuple[Question, Coloured] | None:
    regions, names = _choose(each, 2, generator), _two_colours(generator)
    if regions is None:
        return None
    word, places = [
        ("north", [-region.y for region in regions]),
        ("south", [region.y for region in regions]),
        ("west", [-region.x for region in regions]),
        ("east", [region.x for region in regions]),
    ][int(generator.integers(4))]
    if abs(places[0] - places[1]) < APART:
        return None
    answer = names[int(places[1] > places[0])]
    asked = " or ".join(f"the {name} one" for name in names)
    wordings = (f"Which region lies further {word}, {asked}?", f"Is {asked} further {word}?")
    return Question("position", wordings, _colour_answers(answer)), _in_colours(regions, names)


def _ask_size(each: Map, generator: np.random.Generator) -> tuple[Question, Coloured] | None:
    regions, names = _choose(each, 2, generator), _two_colours(generator)
    if regions is None:
        return None
    shares = [region.share for region in regions]
    if max(shares) < TIMES_LARGER * min(shares):
        return None
    smaller = bool(generator.integers(2))
    answer = names[int((shares[1] > shares[0]) != smaller)]
    word, asked = ("smaller" if smaller else "larger"), " or ".join(f"the {name} one" for name in names)
    wordings = (f"Which region is {word}, {asked}?", f"Is {asked} {word}?")
    return Question("size", wordings, _colour_answers(answer)), _in_colours(regions, names)


_QUESTIONS = {
    "map": _ask_map,
    "region": _ask_region,
    "capital": _ask_capital,
    "count": _ask_count,
    "position": _ask_position,
    "size": _ask_size,
}


def _choose(each: Map, count: int, generator: np.random.Generator) -> list[Region] | None:
    """Different regions; None where the map has too few."""
    if len(each.regions) < count:
        return None
    return [each.regions[int(number)] for number in generator.choice(len(each.regions), count, replace=False)]


def _two_colours(generator: np.random.Generator) -> list[str]:
    return [str(name) for name in generator.choice(sorted(COLOURS), 2, replace=False)]


def _in_colours(regions: Sequence[Region], names: Sequence[str]) -> Coloured:
    return {region.colour: name for region, name in zip(regions, names, strict=True)}


def _colour_answers(name: str) -> tuple[str, ...]:
    return name, f"the {name} one", f"the {name} region"


def _split_of(each: Map) -> str:
    return "train" if each.division in SHOWN_ALONE else _hashed(each.area)


def _hashed(name: str) -> str:
    share = stable_group(name) / 2**63
    return next((split for split, (low, high) in SHARES.items() if low <= share < high), "train")


def _map_of(row: Mapping[str, Any], folder: Path, smallest: float | int) -> Map:
    regions = [
        Region(each["name"], each["capital"], _triple(each["color"]), each["share"], each["x"], each["y"]) for each in row["regions"]
    ]
    return Map(
        folder / row["path"],
        row["area"],
        row["division"],
        tuple(region for region in regions if region.share >= smallest and region.name),
        frozenset(region.colour for region in regions),
        frozenset(_triple(colour) for colour in row["borders"]),
    )


def _flags_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Whose each flag is; of several that share one (France's) whom the file is named after first, and then as they come."""
    owners: dict[str, list[str]] = {}
    for flag, name in sorted((region["flag"], region["name"]) for row in rows for region in row["regions"] if region["flag"]):
        owners.setdefault(flag, []).append(name)
    return {
        flag: tuple(sorted(dict.fromkeys(names), key=lambda name: _flat(name) != _flat(Path(flag).stem))) for flag, names in owners.items()
    }


def _flat(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _triple(colour: Sequence[int]) -> tuple[int, int, int]:
    red, green, blue = colour
    return red, green, blue


def _read_rows(folder: Path) -> list[dict[str, Any]]:
    table = folder / TABLE
    try:
        rows = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise DataError(f"data.path: {folder} has no {TABLE}; name the folder that `zoo fetch kgeography` prints") from error
    except ValueError as error:
        raise DataError(f"data.path: {table} is damaged ({error}); fetch the folder again") from error
    wanted = {"path", "area", "division", "borders", "regions"}
    if not rows or not all(isinstance(row, dict) and wanted <= set(row) for row in rows):
        raise DataError(f"data.path: {table} holds no maps of `zoo fetch kgeography`; name the folder that it prints")
    return rows
