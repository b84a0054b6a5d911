"""Images of stripes."""

import numpy as np

from zoo.types import Sample, Source, Split

SIZES = {"train": 64, "validation": 16, "test": 16}


class Stripes(Source):
    """Horizontal or vertical stripes of any width and place on 32 x 32 pixels."""

    modalities = ("image", "text")
    splits = tuple(SIZES)
    class_names = ("horizontal", "vertical")

    def __init__(self, *, widest: int = 6) -> None:
        self.widest = widest

    def split(self, name: str) -> Split:
        return StripesSplit(self, name)

    def captions(self) -> list[str]:
        return [f"{name} stripes" for name in self.class_names]


class StripesSplit(Split):
    """The images of one split; item ``i`` is always the same without a generator."""

    def __init__(self, source: Stripes, name: str) -> None:
        self.source, self.name = source, name

    def __len__(self) -> int:
        return SIZES[self.name]

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        drawn = generator or np.random.default_rng([index, list(SIZES).index(self.name)])
        width, start = int(drawn.integers(2, self.source.widest + 1)), int(drawn.integers(32))
        line = ((np.arange(32) + start) // width % 2 * 255).astype(np.uint8)
        image, label = np.broadcast_to(line, (32, 32)), index % 2
        text = f"{self.source.class_names[label]} stripes"
        return Sample(f"{self.name}:{index}", {"image": image if label else image.T, "text": text}, label, label)
