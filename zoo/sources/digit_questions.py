"""Visual questions about scenes of one to four handwritten digits: identity, order, count, sum and largest digit.

No training scene contains a held-out pair of ``digit_pairs``, meaning its first digit anywhere before its second one. The held-out pairs
test compositional generalisation: both digits were seen in training, but never in this combination.
"""

from collections.abc import Sequence

import numpy as np

from zoo.errors import ConfigError
from zoo.registry import register
from zoo.sources.digit_pairs import held_out_pairs
from zoo.sources.digits import DIGIT_NAMES, draw_digit, load_digits, split_indices
from zoo.sources.wording.questions import Question, checked_kinds, number_answers, number_word, sample_of, texts_of
from zoo.sources.wording.splits import refuse_split
from zoo.types import Sample, Source, Split

SPLITS = ("train", "validation", "test_seen", "test_heldout")
KINDS = ("identity", "order", "count", "sum", "larger")
MOST_DIGITS = 4
SIDE = 32  # pixels; scenes are SIDE x SIDE
_SCENE_SEED = 101  # do not change: test scenes must stay the same between runs
_PLACES = ("first", "second", "third", "fourth")


@register("source")
class DigitQuestions(Source):
    """A 32 x 32 scene of digits, one question about it, and the correct answer.

    Two digits are placed side by side, three or four in two rows. The reading order is that of text: left to right, then the next row.

    Args:
        num_digits: allowed numbers of digits per scene, each from 1 to 4.
        kinds: kinds of questions, of "identity", "order", "count", "sum" and "larger"; None takes all.
        scenes: scenes per training epoch; each is generated from its index and the epoch.
        test_scenes: scenes of the other splits per kind of question and number of digits; more scenes continue the same list.

    Raises:
        ConfigError: a number is out of range, or a kind is unknown.
    """

    modalities = ("image", "conversation")
    splits = SPLITS
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()

    def __init__(
        self, *, num_digits: Sequence[int] = (2,), kinds: Sequence[str] | None = None, scenes: int = 19200, test_scenes: int = 100
    ) -> None:
        if not num_digits or any(not 1 <= number <= MOST_DIGITS for number in num_digits):
            raise ConfigError(f"num_digits: {list(num_digits)}; allowed is a list of numbers from 1 to {MOST_DIGITS}, for example [2]")
        for key, value in (("scenes", scenes), ("test_scenes", test_scenes)):
            if value < 1:
                raise ConfigError(f"{key}: {value}; give at least 1")
        self.kinds = checked_kinds(kinds, KINDS)
        self.num_digits, self.scenes, self.test_scenes = sorted(set(num_digits)), scenes, test_scenes

    def split(self, name: str) -> "DigitQuestionsSplit":
        """Return the questions of one split.

        "train", "validation" and "test_seen" contain no held-out pair; each scene of "test_heldout" contains one. Both tests use test
        digits.

        Raises:
            ConfigError: the split is "test_heldout", but all scenes have one digit.
            DataError: no such split.
        """
        refuse_split(name, SPLITS)
        num_digits = self.num_digits
        if name == "test_heldout":
            num_digits = [number for number in num_digits if number > 1]
            if not num_digits:
                raise ConfigError(
                    "num_digits: [1] makes no pairs, which test_heldout needs; choose test_seen, or add numbers above 1 to num_digits"
                )
        digits = {"train": "train", "validation": "validation"}.get(name, "test")
        scenes = self.scenes if name == "train" else self.test_scenes * len(self.kinds) * len(num_digits)
        return DigitQuestionsSplit(name, digits, num_digits, self.kinds, scenes)

    def captions(self) -> list[str]:
        """Return the questions and answers that training may show, as text to train a tokenizer on."""
        held_out = set(held_out_pairs())
        pairs = [[left, right] for left in range(10) for right in range(10) if 10 * left + right not in held_out]
        numbers = [[0] * count for count in self.num_digits]
        sums = [number_word(total) for total in range(9 * max(self.num_digits) + 1)] if "sum" in self.kinds else []
        asked = [question_of(kind, digits, which) for kind in self.kinds for digits in (*pairs, *numbers) for which in range(len(digits))]
        return sorted({text for question in asked for text in texts_of(question)} | set(sums))


class DigitQuestionsSplit(Split):
    """Scenes with questions, made of the digits of one split."""

    def __init__(self, name: str, digits: str, num_digits: Sequence[int], kinds: Sequence[str], scenes: int) -> None:
        self.name, self.num_digits, self.kinds, self.scenes = name, list(num_digits), list(kinds), scenes
        labels, indices = load_digits()[1], split_indices(digits)
        self.members = [indices[labels[indices] == digit] for digit in range(10)]
        self.held_out = frozenset(held_out_pairs())

    def __len__(self) -> int:
        return self.scenes

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Return scene ``index`` with a question; without a generator its index is the seed, and the kinds alternate."""
        varied = generator is not None
        generator = generator if generator is not None else np.random.default_rng((_SCENE_SEED, SPLITS.index(self.name), index))
        kind = self.kinds[int(generator.integers(len(self.kinds))) if varied else index % len(self.kinds)]
        digits = self._drawn(int(generator.choice(self.num_digits)), generator)
        question = question_of(kind, digits, int(generator.integers(10)))
        scene = self._scene(digits, generator)
        return sample_of(f"digit_questions:{self.name}:{index}", question, [scene], generator)

    def _drawn(self, count: int, generator: np.random.Generator) -> list[int]:
        """Draw digits in reading order: with a held-out pair for "test_heldout", without one for the other splits."""
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
        """Draw the digits on a black canvas, each at a random position in its quarter; one or two digits are near the middle row."""
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
    """Return a question of a kind about digits in reading order.

    Args:
        kind: one of ``KINDS``.
        which: any non-negative integer; it chooses the position or the digit that the question is about.
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
    # Half of the count questions are about a digit of the scene, so that the answer is often not zero.
    if which % 2:
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
