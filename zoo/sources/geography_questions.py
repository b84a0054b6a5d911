"""Visual questions about maps and flags: the area shown, the name and capital of a coloured region, and relative position and size.

Data: KGeography, as ``zoo fetch kgeography`` stores it. Maps are split by the area they show, flags by their file. Maps of the world and
of continents are used for training only, because several of them show the same countries.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zoo.data.groups import stable_group
from zoo.errors import ConfigError, DataError
from zoo.processors.media.image_file import DECODE_ERRORS, open_image
from zoo.registry import register
from zoo.sources.wording.questions import Question, checked_kinds, number_answers, sample_of, texts_of
from zoo.sources.wording.splits import refuse_split
from zoo.types import Sample, Source, Split

TABLE = "table.jsonl"
SPLITS = ("train", "validation", "test")
SHARES = {"validation": (0.0, 0.1), "test": (0.1, 0.2)}  # ranges of the hash (0 to 1) of an area's or flag's name; the rest is train
KINDS = ("map", "region", "capital", "flag", "count", "position", "size")
SHOWN_ALONE = ("country", "continent", "ocean or basin")  # maps divided into these regions are used for training only
COLOURS = {"red": (220, 30, 30), "blue": (40, 80, 220), "green": (30, 160, 60), "yellow": (245, 205, 40)}
LAND, BORDER, REST = (222, 222, 210), (90, 90, 90), (255, 255, 255)  # RGB
MOST_COUNTED = 5
APART = 0.1  # minimum distance of the centres of two compared regions, as a share of the image's height or width
TIMES_LARGER = 1.5  # minimum ratio of the areas of two compared regions
_QUESTION_SEED = 102  # do not change: test questions must stay the same between runs


@dataclass(frozen=True)
class Region:
    """A region of a map; see ``zoo.downloads.kgeography.read_map``.

    Attributes:
        colour: RGB colour that marks the region in the map file; it identifies the region.
        share: share of the image that it covers.
        x: horizontal position of its centre, as a share of the image's width from the left.
        y: vertical position of its centre, as a share of the image's height from the top.
    """

    name: str
    capital: str | None
    colour: tuple[int, int, int]
    share: float
    x: float
    y: float


@dataclass(frozen=True)
class Map:
    """A map image with its regions and their colours.

    Attributes:
        division: kind of its regions, for example "province".
        regions: regions that are large enough to ask about.
        colours: RGB colours of all regions in the file.
        borders: RGB colours of the borders in the file.
    """

    path: Path
    area: str
    division: str
    regions: tuple[Region, ...]
    colours: frozenset[tuple[int, int, int]]
    borders: frozenset[tuple[int, int, int]]


@register("source")
class GeographyQuestions(Source):
    """A map with some coloured regions, or a flag; one question about it, and the correct answer.

    Args:
        path: folder written by ``zoo fetch kgeography``.
        kinds: kinds of questions, of "map", "region", "capital" and "flag" (which need knowledge), and "count", "position" and "size"
            (which need only the image); None takes all.
        questions: questions per training epoch; each is generated from its index and the epoch. Validation and test have a tenth of it.
        smallest: minimum share of the image that a region covers to be asked about.

    Raises:
        ConfigError: a kind is unknown, or a number is out of range.
        DataError: the folder has no table, or the table is damaged.
    """

    modalities = ("image", "conversation")
    splits = SPLITS
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()

    def __init__(
        self, *, path: str | Path, kinds: Sequence[str] | None = None, questions: int = 20000, smallest: float | int = 0.003
    ) -> None:
        if questions < 10 or not 0 <= smallest < 1:
            raise ConfigError(f"questions: {questions}, smallest: {smallest}; allowed are 10 or more, and a share from 0 to below 1")
        self.kinds, self.questions = checked_kinds(kinds, KINDS), questions
        self.path = Path(path)
        rows = _read_rows(self.path)
        self._maps = [_map_of(row, self.path, smallest) for row in rows]
        self._flags = _flags_of(rows)

    def split(self, name: str) -> "GeographyQuestionsSplit":
        """Return the questions of one split.

        Raises:
            DataError: no such split.
        """
        refuse_split(name, SPLITS)
        maps = [each for each in self._maps if _split_of(each) == name]
        flags = [(self.path / flag, names) for flag, names in self._flags.items() if _hashed(flag) == name]
        count = self.questions if name == "train" else self.questions // 10
        return GeographyQuestionsSplit(name, maps, flags, self.kinds, count)

    def captions(self) -> list[str]:
        """Return names, and examples of questions and answers of the training split, as text to train a tokenizer on."""
        split = self.split("train")
        asked = [split.asked(kind, np.random.default_rng((_QUESTION_SEED, number)))[0] for kind in self.kinds for number in range(20)]
        names = {text for each in split.maps for region in each.regions for text in (region.name, region.capital or "")}
        texts = {text for question in asked for text in texts_of(question)} | {each.area for each in split.maps}
        return sorted((texts | names | {each for _, names in split.flags for each in names}) - {""})


class GeographyQuestionsSplit(Split):
    """Questions about the maps and flags of one split."""

    def __init__(
        self, name: str, maps: Sequence[Map], flags: Sequence[tuple[Path, tuple[str, ...]]], kinds: Sequence[str], questions: int
    ) -> None:
        self.name, self.maps, self.flags, self.kinds, self.questions = name, list(maps), list(flags), list(kinds), questions

    def __len__(self) -> int:
        return self.questions

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Return question ``index`` with its image; without a generator its index is the seed, and the kinds alternate.

        Raises:
            DataError: an image cannot be read; the message begins with the item's id.
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
        """Generate a question of a kind.

        Returns:
            The question, the path of the image, its map (None for a flag), and the colour names by region colour.
        """
        if kind == "flag":
            path, names = self.flags[int(generator.integers(len(self.flags)))]
            wordings = ("Whose flag is this?", "Which place has this flag?", "What does this flag stand for?")
            return Question(kind, wordings, names), path, None, {}
        while True:  # draw another map if this one has no suitable region
            each = self.maps[int(generator.integers(len(self.maps)))]
            found = _QUESTIONS[kind](each, generator)
            if found is not None:
                return found[0], each.path, each, found[1]


Coloured = dict[tuple[int, int, int], str]


def draw_map(each: Map, coloured: Mapping[tuple[int, int, int], str]) -> Image.Image:
    """Draw a map with some regions coloured; other land is light grey, borders are dark grey, and the rest is white.

    Args:
        coloured: name of the new colour for each region, which is identified by its colour in the file.

    Raises:
        DataError: the map cannot be read, or is not a palette image.
    """
    try:
        with Image.open(each.path) as image:
            indexed, palette = np.asarray(image), image.getpalette("RGB")
    except DECODE_ERRORS as error:
        raise DataError(f"{each.path}: cannot be read ({error}); fetch the folder again") from error
    if palette is None or indexed.ndim != 2:
        raise DataError(f"{each.path}: is not a palette image, as KGeography's maps are; fetch the folder again")
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
    """Draw different regions; None if the map has too few."""
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
    """Return the owners' names of each flag file.

    Several places can share a flag, for example that of France: the one that the file is named after comes first, the others
    follow in alphabetical order.
    """
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
