"""Visual questions about tables of many small handwritten digits: one row (``digit_questions``), or the most frequent digit.

A picture of 3 x 3 digits has 48 x 48 pixels, and a digit 8 to 10 of them. An encoder of 16 x 16 pixels reads such a digit in a tile of the
picture; of the whole picture, squashed to 16 x 16 pixels, it sees a digit as 3 x 3 pixels.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
from jaxtyping import UInt8

from zoo.errors import ConfigError
from zoo.registry import register
from zoo.sources.digit_questions import KINDS as ROW_KINDS
from zoo.sources.digit_questions import question_of
from zoo.sources.digits import draw_digit, load_digits, split_indices
from zoo.sources.wording.questions import Question, checked_kinds, number_answers, number_word, sample_of, texts_of
from zoo.sources.wording.splits import refuse_split
from zoo.types import Sample, Source, Split

SPLITS = ("train", "validation", "test")
KINDS = (*ROW_KINDS, "most")
MOST_ROWS, MOST_COLUMNS = 9, 4
LEAST_CELL = 8  # pixels
_MOST = ("Which digit does the picture show most often?", "What digit does the picture show most often?", "Which digit occurs most often?")
_TABLE_SEED = 103  # do not change: test tables must stay the same between runs


@register("source")
class DigitTables(Source):
    """A table of small digits, a question about one of its rows or about all, and the correct answer.

    The digits of training, validation and test are different scans. Test tables are the same in all runs, and their kinds of questions
    alternate.

    Args:
        rows: rows of the table, from 1 to 9.
        columns: digits in a row, from 1 to 4.
        cell: height and width of a digit's place, in pixels, at least 8. The digit is half to five eighths as high, near the middle.
        kinds: kinds of questions: "identity", "order", "count", "sum" and "larger" are about one row, "most" is about the most frequent
            digit of the table. None takes all. With "most", one digit fills about half of every table.
        questions: questions about each training table, all in one conversation; the other splits have one question per table.
        scenes: tables per training epoch; each is generated from its index and the epoch.
        test_scenes: tables of the other splits per kind of question; more tables continue the same list.

    Raises:
        ConfigError: a number is out of range, or a kind is unknown.
    """

    modalities = ("image", "conversation")
    splits = SPLITS
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        rows: int = 3,
        columns: int = 3,
        cell: int = 16,
        kinds: Sequence[str] | None = None,
        questions: int = 1,
        scenes: int = 19200,
        test_scenes: int = 100,
    ) -> None:
        for key, value, most in (("rows", rows, MOST_ROWS), ("columns", columns, MOST_COLUMNS)):
            if not 1 <= value <= most:
                raise ConfigError(f"{key}: {value}; allowed is 1 to {most}")
        least_values = (("cell", cell, LEAST_CELL), ("questions", questions, 1), ("scenes", scenes, 1), ("test_scenes", test_scenes, 1))
        for key, value, least in least_values:
            if value < least:
                raise ConfigError(f"{key}: {value}; allowed is {least} or more")
        self.kinds = checked_kinds(kinds, KINDS)
        self.rows, self.columns, self.cell = rows, columns, cell
        self.questions, self.scenes, self.test_scenes = questions, scenes, test_scenes

    def split(self, name: str) -> "DigitTablesSplit":
        """Return the tables of one split, made of its digits.

        Raises:
            DataError: no such split.
        """
        refuse_split(name, SPLITS)
        return DigitTablesSplit(self, name)

    def captions(self) -> list[str]:
        """Return the questions about rows, and their answers, of tables of all sizes, as text to train a tokenizer on.

        The size and the kinds of this source do not matter, so that runs with different tables have equal tokenizers.
        """
        found = {number_word(total) for total in range(9 * MOST_COLUMNS + 1)}
        for kind, row, columns in product(ROW_KINDS, range(MOST_ROWS), range(1, MOST_COLUMNS + 1)):
            for digit, which in product(range(10), range(columns)):
                found.update(texts_of(question_in_row(kind, [digit] * columns, which, row)))
        return sorted(found)


class DigitTablesSplit(Split):
    """Tables with questions, made of the digits of one split."""

    def __init__(self, source: DigitTables, name: str) -> None:
        self.source, self.name = source, name
        labels, indices = load_digits()[1], split_indices(name)
        self.members = [indices[labels[indices] == digit] for digit in range(10)]

    def __len__(self) -> int:
        return self.source.scenes if self.name == "train" else self.source.test_scenes * len(self.source.kinds)

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Return table ``index`` with a question; without a generator its index is the seed, and the kinds alternate."""
        source, varied = self.source, generator is not None
        generator = generator if generator is not None else np.random.default_rng((_TABLE_SEED, SPLITS.index(self.name), index))
        digits = self._digits(generator)
        earlier = [self._asked(digits, generator) for _ in range(source.questions - 1)] if varied and self.name == "train" else []
        question = self._asked(digits, generator, None if varied else source.kinds[index % len(source.kinds)])
        return sample_of(f"digit_tables:{self.name}:{index}", question, [self._drawn(digits, generator)], generator, earlier)

    def _digits(self, generator: np.random.Generator) -> list[list[int]]:
        """Draw the digits of a table; with kind "most", one digit is more frequent than all others."""
        rows, columns = self.source.rows, self.source.columns
        while True:
            digits = generator.integers(10, size=rows * columns)
            if "most" in self.source.kinds:
                places = generator.permutation(rows * columns)
                digits[places[: 1 + int(generator.integers(rows * columns // 3, rows * columns * 2 // 3 + 1))]] = generator.integers(10)
            counts = np.sort(np.bincount(digits, minlength=10))
            if "most" not in self.source.kinds or counts[-1] > counts[-2]:
                return digits.reshape(rows, columns).tolist()

    def _asked(self, digits: Sequence[Sequence[int]], generator: np.random.Generator, kind: str | None = None) -> Question:
        """Draw a question about the table or a random row of it; None draws its kind too."""
        kinds = self.source.kinds
        kind = kinds[int(generator.integers(len(kinds)))] if kind is None else kind
        if kind == "most":
            return Question(kind, _MOST, number_answers(_most_frequent(digits)))
        row, which = int(generator.integers(len(digits))), int(generator.integers(12))  # 12: each of up to four places is equally likely
        return question_in_row(kind, digits[row], which, row)

    def _drawn(self, digits: Sequence[Sequence[int]], generator: np.random.Generator) -> UInt8[np.ndarray, "height width"]:
        """Draw the table on black, each digit near the middle of its cell."""
        cell = self.source.cell
        canvas = np.zeros((self.source.rows * cell, self.source.columns * cell), dtype=np.uint8)
        for row, line in enumerate(digits):
            for column, digit in enumerate(line):
                size = int(generator.integers(cell // 2, cell * 5 // 8 + 1))
                shifts = generator.integers(-(cell // 16), cell // 16 + 1, size=2)
                left, top = (int(cell * place + (cell - size) // 2 + shift) for place, shift in zip((column, row), shifts, strict=True))
                draw_digit(canvas, load_digits()[0][int(generator.choice(self.members[digit]))], left=left, top=top, size=size)
        return canvas


def _most_frequent(digits: Sequence[Sequence[int]]) -> int:
    return int(np.bincount(np.ravel(digits)).argmax())


def question_in_row(kind: str, digits: Sequence[int], which: int, row: int) -> Question:
    """Return a question of a kind about one row of a table; ``row`` counts from 0, the other arguments are those of ``question_of``."""
    question = question_of(kind, digits, which)
    return Question(kind, tuple(f"Row {number_word(row + 1)}. {wording}" for wording in question.wordings), question.answers)
