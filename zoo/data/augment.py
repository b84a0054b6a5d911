"""Augmentation of raw images in training, every choice drawn from the item's own generator."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from zoo.data.image import as_image
from zoo.errors import ConfigError
from zoo.types import Sample


class Augmentation:
    """Random square crop by area, and a horizontal flip.

    Args:
        crop_scale: smallest and largest share of the image's area that is kept; (1, 1) keeps all.
        flip: probability of mirroring; leave at 0 where left and right mean something.

    Raises:
        ConfigError: shares outside (0, 1] or a probability outside [0, 1].
    """

    def __init__(self, *, crop_scale: Sequence[float] = (0.9, 1.0), flip: float = 0.0) -> None:
        if len(crop_scale) != 2 or not 0 < crop_scale[0] <= crop_scale[1] <= 1 or not 0 <= flip <= 1:
            raise ConfigError(f"augmentation: crop_scale {list(crop_scale)}, flip {flip}; allowed are 0 < low <= high <= 1 and [0, 1]")
        self.crop_scale, self.flip = (float(crop_scale[0]), float(crop_scale[1])), flip

    def __call__(self, sample: Sample, generator: np.random.Generator) -> Sample:
        """Return the sample with its image varied; other modalities stay."""
        if "image" not in sample.inputs:
            return sample
        image = as_image(sample.inputs["image"])
        if self.crop_scale != (1.0, 1.0):
            image = self._cropped(image, generator)
        if generator.random() < self.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return replace(sample, inputs={**sample.inputs, "image": image})

    def _cropped(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        share = generator.uniform(*self.crop_scale) ** 0.5
        width, height = max(1, round(image.width * share)), max(1, round(image.height * share))
        left = int(generator.integers(image.width - width + 1))
        top = int(generator.integers(image.height - height + 1))
        return image.crop((left, top, left + width, top + height))
