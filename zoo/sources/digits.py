"""Handwritten digits that are shipped with zoo: 1,797 images with captions.

Data: "Optical Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak, UCI repository, 1998 (CC BY 4.0), the test set as included
in scikit-learn: 8 x 8 pixels, grey values 0 to 16.
"""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt8

from zoo.data.groups import stable_group
from zoo.registry import register
from zoo.sources.wording.captions import caption
from zoo.sources.wording.splits import refuse_split
from zoo.storage.places import packaged_directory
from zoo.types import Sample, Source, Split

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = (
    "a photo of the digit {}",
    "a handwritten {}",
    "the number {}",
    "a picture of the number {}, written by hand",
    "someone wrote the number {}",
)
SPLITS = {"train": (0.0, 0.7), "validation": (0.7, 0.8), "test": (0.8, 1.0)}  # shares of each class
_SPLIT_SEED = 1797  # do not change: test digits of one run must never become training digits of another


@functools.cache
def load_digits() -> tuple[UInt8[np.ndarray, "1797 8 8"], Int[np.ndarray, "1797"]]:
    """Return the images (grey values 0 to 255) and their classes (0 to 9)."""
    with np.load(packaged_directory("assets") / "digits.npz") as file:
        return (file["images"].astype(np.uint16) * 255 // 16).astype(np.uint8), file["labels"].astype(np.int64)


def split_indices(name: str) -> Int[np.ndarray, " n"]:
    """Return the sorted indices of a split; every class is divided in the same proportions."""
    low, high = SPLITS[name]
    labels = load_digits()[1]
    generator = np.random.default_rng(_SPLIT_SEED)
    parts = []
    for label in range(10):
        members = generator.permutation(np.flatnonzero(labels == label))
        parts.append(members[round(low * len(members)) : round(high * len(members))])
    return np.sort(np.concatenate(parts))


def draw_digit(canvas: UInt8[np.ndarray, "height width"], digit: UInt8[np.ndarray, "8 8"], *, left: int, top: int, size: int) -> None:
    """Enlarge a digit bilinearly to ``size`` x ``size`` pixels and draw it into a canvas in place; brighter pixels win."""
    # Sample positions in the 8 x 8 source, at pixel centres.
    at = np.clip((np.arange(size) + 0.5) * 8 / size - 0.5, 0, 7)
    low = np.minimum(at.astype(int), 6)
    weight = at - low
    rows = digit[low] * (1 - weight)[:, None] + digit[low + 1] * weight[:, None]  # [size, 8]
    grown = rows[:, low] * (1 - weight) + rows[:, low + 1] * weight  # [size, size]
    window = canvas[top : top + size, left : left + size]
    np.maximum(window, grown.astype(np.uint8), out=window)


@register("source")
class Digits(Source):
    """One digit per 32 x 32 image, with a caption from a template.

    Size and position of the digit vary if ``sample`` is given a generator; without one the digit has 24 pixels and is centred.

    Args:
        templates: captions with ``{}`` in place of the digit's name.
    """

    modalities = ("image", "text")
    splits = tuple(SPLITS)
    class_names = list(DIGIT_NAMES)

    def __init__(self, *, templates: Sequence[str] = TEMPLATES) -> None:
        self.templates = list(templates)

    def split(self, name: str) -> "DigitsSplit":
        """Return the samples of "train", "validation" or "test".

        Raises:
            DataError: no such split.
        """
        refuse_split(name, self.splits)
        return DigitsSplit(split_indices(name), self.templates)

    def captions(self) -> list[str]:
        """Return every caption that training may show, as text to train a tokenizer on."""
        return [template.replace("{}", name) for template in self.templates for name in DIGIT_NAMES]


class DigitsSplit(Split):
    """The digits of one split."""

    def __init__(self, indices: Int[np.ndarray, " n"], templates: Sequence[str]) -> None:
        self.indices, self.templates = indices, list(templates)

    def __len__(self) -> int:
        return len(self.indices)

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        """Return digit ``index`` of the split on a 32 x 32 canvas; a generator varies its size, position and caption."""
        number = int(self.indices[index])
        images, labels = load_digits()
        size, left, top = 24, 4, 4
        if generator is not None:
            size = int(generator.integers(21, 28))
            left, top = (int(value) for value in (32 - size) // 2 + generator.integers(-2, 3, 2))
        canvas = np.zeros((32, 32), dtype=np.uint8)
        draw_digit(canvas, images[number], left=left, top=top, size=size)
        name = DIGIT_NAMES[labels[number]]
        text = caption(self.templates, name, generator)
        return Sample(f"digits:{number}", {"image": canvas, "text": text}, stable_group(name), int(labels[number]))
