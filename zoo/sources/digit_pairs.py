"""Scenes of two handwritten digits, with 20 of the 100 ordered pairs held out of training.

The held-out pairs test compositional generalisation: both digits were seen in training, but never in this combination.
"""

from collections.abc import Sequence

import numpy as np

from zoo.data.groups import stable_group
from zoo.errors import ConfigError
from zoo.registry import register
from zoo.sources.digits import DIGIT_NAMES, draw_digit, load_digits, refuse_split, split_indices
from zoo.types import Sample, Source, Split

# {a} is the left digit, {b} the right one; "a" becomes "an" before eight. All templates name the left digit first: with an additional
# "a {b} to the right of a {a}" both towers ignored the order for thousands of steps (cosine of swapped captions: 0.9997).
TEMPLATES = ("a {a} to the left of a {b}", "{a} and then {b}", "first a {a}, then a {b}", "a {a} with a {b} on its right")
SPLITS = ("train", "validation", "test_seen", "test_heldout", "test_all")
NUM_HELD_OUT = 20
_PAIR_SEED = 100  # do not change: the held-out pairs must stay the same between runs


def held_out_pairs() -> list[int]:
    """Return the pairs that training never shows, each as the number 10 * left + right.

    They form two disjoint permutations: two pairs per left digit and two per right digit, so that training shows every digit on both sides.
    """
    generator = np.random.default_rng(_PAIR_SEED)
    first = generator.permutation(10)
    second = generator.permutation(10)
    while (first == second).any():
        second = generator.permutation(10)
    return sorted(10 * left + int(right) for order in (first, second) for left, right in enumerate(order))


def describe(template: str, pair: int) -> str:
    """Fill a template with the names of a pair's digits."""
    text = template.replace("{a}", DIGIT_NAMES[pair // 10]).replace("{b}", DIGIT_NAMES[pair % 10])
    return text.replace("a eight", "an eight")


@register("source")
class DigitPairs(Source):
    """Two digits side by side on a 32 x 32 scene, with captions that name both and their order.

    Args:
        templates: captions; ``{a}`` is the left digit, ``{b}`` the right one.
        scenes: scenes per training epoch; each is generated from its index and the epoch.

    Raises:
        ConfigError: a template does not name both digits, or ``scenes`` is below 1.
    """

    modalities = ("image", "text")
    splits = SPLITS

    def __init__(self, *, templates: Sequence[str] = TEMPLATES, scenes: int = 19200) -> None:
        wrong = [template for template in templates if "{a}" not in template or "{b}" not in template]
        if wrong or not templates:
            raise ConfigError(f"templates: {wrong[:1] or templates} must name both digits, as in 'a {{a}} to the left of a {{b}}'")
        if scenes < 1:
            raise ConfigError(f"scenes: {scenes}; give at least 1")
        self.pair_templates, self.scenes = list(templates), scenes
        self.class_names = [describe(templates[0], pair) for pair in range(100)]
        self.templates = ["{}"]  # the class names are whole captions

    def split(self, name: str) -> "DigitPairsSplit":
        """Return the scenes of one split.

        "train" and "validation" show seen pairs, each with the digits of its split. The tests show test digits: "test_seen"
        in seen pairs, "test_heldout" in held-out pairs, "test_all" in all pairs.

        Raises:
            DataError: no such split.
        """
        refuse_split(name, SPLITS)
        held_out = held_out_pairs()
        seen = [pair for pair in range(100) if pair not in held_out]
        pairs = {"test_heldout": held_out, "test_all": list(range(100))}.get(name, seen)
        digits = {"train": "train", "validation": "validation"}.get(name, "test")
        scenes = self.scenes if name == "train" else 20 * len(pairs)
        return DigitPairsSplit(pairs, digits, scenes, self.pair_templates, name)

    def captions(self) -> list[str]:
        """Return every caption that training may show, as text to train a tokenizer on."""
        held_out = held_out_pairs()
        return [describe(t, pair) for t in self.pair_templates for pair in range(100) if pair not in held_out]


class DigitPairsSplit(Split):
    """Scenes of given pairs, made of the digits of one split."""

    def __init__(self, pairs: Sequence[int], digits: str, scenes: int, templates: Sequence[str], name: str) -> None:
        self.pairs, self.scenes, self.templates, self.name = list(pairs), scenes, list(templates), name
        labels = load_digits()[1]
        indices = split_indices(digits)
        self.members = [indices[labels[indices] == digit] for digit in range(10)]

    def __len__(self) -> int:
        return self.scenes

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Return scene ``index``; without a generator its index is the seed, so that a test scene is always the same."""
        varied = generator is not None
        generator = generator if generator is not None else np.random.default_rng((_PAIR_SEED, index))
        pair = self.pairs[int(generator.integers(len(self.pairs))) if varied else index % len(self.pairs)]
        canvas = np.zeros((32, 32), dtype=np.uint8)
        for side, digit in enumerate((pair // 10, pair % 10)):
            size = int(generator.integers(14, 17))
            left = 16 * side + int(generator.integers(0, 17 - size))
            top = 8 + int(generator.integers(-3, 20 - size))  # near the middle row
            number = int(generator.choice(self.members[digit]))
            draw_digit(canvas, load_digits()[0][number], left=left, top=top, size=size)
        template = self.templates[int(generator.integers(len(self.templates))) if varied else 0]
        text = describe(template, pair)
        return Sample(f"digit_pairs:{self.name}:{index}", {"image": canvas, "text": text}, stable_group(str(pair)), pair)
