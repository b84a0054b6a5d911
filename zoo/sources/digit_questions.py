"""Questions about scenes of one to four embedded digits: which they are, their order, how many, their sum.

The ordered pairs that ``digit_pairs`` holds out are never seen in training here either, one digit anywhere before the other: whoever
answers about a held-out pair has composed what was never seen together.
"""

from collections.abc import Sequence

import numpy as np

from zoo.errors import ConfigError
from zoo.registry import register
from zoo.sources.digit_pairs import held_out_pairs
from zoo.sources.digits import DIGIT_NAMES, draw_digit, load_digits, refuse_split, split_indices
from zoo.sources.wording.questions import Question, checked_kinds, number_answers, number_word, sample_of, texts_of
from zoo.types import Sample

SPLITS = ("train", "validation", "test_seen", "test_heldout")
KINDS = ("identity", "order", "count", "sum", "larger")
MOST_DIGITS = 4
SIDE = 32  # pixels of a scene
_SCENE_SEED = 101  # fixed for ever: test scenes must not change between runs
_PLACES = ("first", "second", "third", "fourth")


@register("source")
class DigitQuestions:
    """A 32 x 32 scene of digits, one question about it, and its true answer.

    Two digits stand side by side, more in two rows, and are read as text is: left to right, then the row below.

    Args:
        num_digits: how many digits scenes may have, each from 1 to 4.
        kinds: which kinds of questions are asked, of "identity", "order", "count", "sum" and "larger"; None asks all.
        scenes: how many make one epoch; each is drawn anew from its number and the epoch.

    Raises:
        ConfigError: a number or a kind that there is not.
    """

    modalities = ("image", "conversation")
    splits = SPLITS
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()

    def __init__(self, *, num_digits: Sequence[int] = (2,), kinds: Sequence[str] | None = None, scenes: int = 19200) -> None:
        if not num_digits or any(not 1 <= number <= MOST_DIGITS for number in num_digits):
            raise ConfigError(f"num_digits: {list(num_digits)}; allowed is a list of numbers from 1 to {MOST_DIGITS}, for example [2]")
        if scenes < 1:
            raise ConfigError(f"scenes: {scenes}; give at least 1")
        self.kinds = checked_kinds(kinds, KINDS)
        self.num_digits, self.scenes = sorted(set(num_digits)), scenes

    def split(self, name: str) -> "DigitQuestionsSplit":
        """Training, validation and "test_seen" show no held-out pair, "test_heldout" one in each scene; the tests use test digits.

        Raises:
            ConfigError: held-out pairs are asked for, but scenes have one digit.
        """
        refuse_split(name, SPLITS)
        num_digits = self.num_digits
        if name == "test_heldout":
            num_digits = [number for number in num_digits if number > 1]
            if not num_digits:
                raise ConfigError("num_digits: [1] makes no pairs, so there are none for test_heldout; choose test_seen, or more digits")
        digits = {"train": "train", "validation": "validation"}.get(name, "test")
        scenes = self.scenes if name == "train" else 100 * len(self.kinds) * len(num_digits)
        return DigitQuestionsSplit(name, digits, num_digits, self.kinds, scenes)

    def captions(self) -> list[str]:
        """Questions and answers that training may show."""
        held_out = set(held_out_pairs())
        pairs = [[left, right] for left in range(10) for right in range(10) if 10 * left + right not in held_out]
        numbers = [[0] * count for count in self.num_digits]
        sums = [number_word(total) for total in range(9 * max(self.num_digits) + 1)] if "sum" in self.kinds else []
        asked = [question_of(kind, digits, which) for kind in self.kinds for digits in (*pairs, *numbers) for which in range(len(digits))]
        return sorted({text for question in asked for text in texts_of(question)} | set(sums))


class DigitQuestionsSplit:
    """Scenes from the digits of one split."""

    def __init__(self, name: str, digits: str, num_digits: Sequence[int], kinds: Sequence[str], scenes: int) -> None:
        self.name, self.num_digits, self.kinds, self.scenes = name, list(num_digits), list(kinds), scenes
        labels, indices = load_digits()[1], split_indices(digits)
        self.members = [indices[labels[indices] == digit] for digit in range(10)]
        self.held_out = frozenset(held_out_pairs())

    def __len__(self) -> int:
        return self.scenes

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Scene ``index``; without a generator its own number seeds it, and kinds take turns."""
        varied = generator is not None
        generator = generator if generator is not None else np.random.default_rng((_SCENE_SEED, SPLITS.index(self.name), index))
        kind = self.kinds[int(generator.integers(len(self.kinds))) if varied else index % len(self.kinds)]
        digits = self._drawn(int(generator.choice(self.num_digits)), generator)
        question = question_of(kind, digits, int(generator.integers(10)))
        scene = self._scene(digits, generator)
        return sample_of(f"digit_questions:{self.name}:{index}", question, [scene], generator)

    def _drawn(self, count: int, generator: np.random.Generator) -> list[int]:
        """Digits in order, with a held-out pair among them or without any."""
        while True:
            digits = [int(digit) for digit in generator.integers(10, size=count)]
            if self.name == "test_heldout":
                first, second = sorted(generator.choice(count, 2, replace=False))
                pair = int(generator.choice(sorted(self.held_out)))
                digits[first], digits[second] = divmod(pair, 10)
                return digits
            if not any(10 * digits[i] + digits[j] in self.held_out for j in range(count) for i in range(j)):
                return digits

    def _scene(self, digits: Sequence[int], generator: np.random.Generator) -> np.ndarray:
        """The digits on black, each somewhere in its own quarter (of one or two: about the middle row)."""
        canvas = np.zeros((SIDE, SIDE), dtype=np.uint8)
        for place, digit in enumerate(digits):
            size = int(generator.integers(14, 17))
            column, row = (place % 2, place // 2) if len(digits) > 1 else (0.5, 0)
            left = int(16 * column) + int(generator.integers(0, 17 - size))
            free = (0, 17 - size) if len(digits) > 2 else (5, 28 - size)
            top = 16 * row + int(generator.integers(*free))
            draw_digit(canvas, load_digits()[0][int(generator.choice(self.members[digit]))], left=left, top=top, size=size)
        return canvas


def question_of(kind: str, digits: Sequence[int], which: int) -> Question:
    """A question of a kind about digits in order.

    Args:
        which: any number, which chooses the place or the digit that is asked for.
    """
    names = [DIGIT_NAMES[digit] for digit in digits]
    if kind == "identity":
        spoken = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
        answers = (spoken, " ".join(names), " ".join(map(str, digits)), ", ".join(names), ", ".join(map(str, digits)))
        return Question(kind, ("Which digits are these?", "What digits does the picture show?", "Read the digits."), answers)
    if kind == "order":
        place = which % len(digits)
        return Question(kind, _order_wordings(place, len(digits)), number_answers(digits[place]))
    if kind == "sum":
        wordings = ("What is the sum of the digits?", "Add the digits up.", "How much do the digits make together?")
        return Question(kind, wordings, number_answers(sum(digits)))
    if kind == "larger":
        wordings = ("Which digit is the largest?", "What is the largest digit?", "Which digit has the highest value?")
        return Question(kind, wordings, number_answers(max(digits)))
    if which % 2:  # of a digit that is there, or of any
        asked = digits[which % len(digits)]
    else:
        asked = (which // 2 + sum(digits)) % 10
    plural = DIGIT_NAMES[asked] + ("es" if DIGIT_NAMES[asked].endswith(("x", "o")) else "s")
    wordings = (f"How many {plural} are there?", f"Count the {plural}.", f"How often does the digit {DIGIT_NAMES[asked]} occur?")
    return Question("count", wordings, number_answers(list(digits).count(asked)))


def _order_wordings(place: int, count: int) -> tuple[str, ...]:
    if count == 2:
        side = ("left", "right")[place]
        return f"Which digit is on the {side}?", f"What is the {side} digit?", f"Name the digit on the {side} side."
    word = "last" if place == count - 1 and count > 1 else _PLACES[place]
    return f"Which digit comes {word}?", f"What is the {word} digit?", f"Name the {word} digit."
