"""Augmentation of raw images in training; all random choices come from the item's own generator.

RandAugment: Cubuk et al. 2019 (arXiv 1909.13719). Random erasing: Zhong et al. 2017 (arXiv 1708.04896). RandAugment and colour
jitter are torchvision's. References for the order and the ranges: torchvision ``references/classification``, timm
``data/transforms_factory.py``.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from zoo.errors import ConfigError, name_choices
from zoo.processors.image import ImageProcessor, as_pixels
from zoo.processors.media.resampling import resize_pixels, to_image, to_pixels
from zoo.processors.media.video_file import is_video
from zoo.types import Sample

ATTEMPTS = 10  # tries to draw a rectangle that fits into the image, as in torchvision and timm
ERASED_AREA = (0.02, 1 / 3)  # timm's random_erasing.py; the paper's upper end is 0.4
ERASED_RATIO = (0.3, 1 / 0.3)
JITTERS = ("brightness", "contrast", "saturation", "hue")
HIGHEST_MAGNITUDE = 30  # torchvision's RandAugment counts 31 steps from 0


class Augmentation:
    """Training augmentation of images: crop, resize to the processor's size, flip, RandAugment, colour jitter, random erasing.

    The steps run in this order; all but the resizing are optional.

    Args:
        crop_scale: smallest and largest share of the image's area that is kept; (1, 1) keeps all. ImageNet: (0.08, 1).
        crop_ratio: smallest and largest width / height of the crop, which is then squashed to the processor's square
            (torchvision's RandomResizedCrop; ImageNet: (3/4, 4/3)). None crops with the image's own aspect ratio, and the
            processor resizes as in evaluation.
        flip: probability of a horizontal flip; leave it at 0 if left and right matter, as in text or digits.
        color_jitter: any of ``brightness``, ``contrast``, ``saturation`` (factors 1 - x to 1 + x) and ``hue`` (at most 0.5).
        rand_augment: ``num_ops`` and ``magnitude`` of 0 to 30, torchvision's scale: timm's magnitude 9 of 10 is 27 here.
        erase: probability of filling one rectangle with noise, uniform on the raw values as in the paper. (timm erases
            after normalisation, with normal noise.)

    Raises:
        ConfigError: a value outside its range, an unknown keyword, or torchvision is needed and missing.
    """

    def __init__(
        self,
        *,
        crop_scale: Sequence[float | int] = (0.9, 1.0),
        crop_ratio: Sequence[float | int] | None = None,
        flip: float = 0.0,
        color_jitter: Mapping[str, float | int] | None = None,
        rand_augment: Mapping[str, int] | None = None,
        erase: float = 0.0,
    ) -> None:
        if len(crop_scale) != 2 or not 0 < crop_scale[0] <= crop_scale[1] <= 1:
            raise ConfigError(f"crop_scale: {list(crop_scale)}; allowed are two shares, 0 < low <= high <= 1")
        if crop_ratio is not None and (len(crop_ratio) != 2 or not 0 < crop_ratio[0] <= crop_ratio[1] < math.inf):
            raise ConfigError(f"crop_ratio: {list(crop_ratio)}; allowed are two positive ratios, low <= high, or null")
        for key, probability in (("flip", flip), ("erase", erase)):
            if not 0 <= probability <= 1:
                raise ConfigError(f"{key}: {probability}; allowed is a probability from 0 to 1")
        self.crop_scale, self.flip, self.erase = (float(crop_scale[0]), float(crop_scale[1])), flip, erase
        self.crop_ratio = None if crop_ratio is None else (float(crop_ratio[0]), float(crop_ratio[1]))
        self.library_steps: list[Any] = []
        if rand_augment is not None:
            self.library_steps.append(_rand_augment(rand_augment))
        if color_jitter is not None:
            self.library_steps.append(_color_jitter(color_jitter))

    def __call__(self, sample: Sample, generator: np.random.Generator, processor: ImageProcessor) -> Sample:
        """Return the sample with its images augmented (uint8 tensors of the processor's size); other modalities stay unchanged."""
        inputs = dict(sample.inputs)
        if "image" in inputs:
            inputs["image"] = self.varied(inputs["image"], generator, processor)
        if "conversation" in inputs:
            given = inputs["conversation"].images  # frames of videos stay as they are
            images = [image if is_video(image) else self.varied(image, generator, processor) for image in given]
            inputs["conversation"] = replace(inputs["conversation"], images=tuple(images))
        return replace(sample, inputs=inputs) if {"image", "conversation"} & set(inputs) else sample

    def varied(self, image: Any, generator: np.random.Generator, processor: ImageProcessor) -> UInt8[Tensor, "3 height width"]:
        """Return one raw image, augmented and resized to the processor's size; if a tiler is to cut it, it keeps its own size."""
        pixels = self._cropped(as_pixels(image), generator)
        mirrored, size = generator.random() < self.flip, processor.image_size
        if processor.tiler is None:
            pixels = processor.at_size(pixels) if self.crop_ratio is None else resize_pixels(pixels, size, size, processor.interpolation)
        if mirrored:
            pixels = pixels.flip(-1)
        if self.library_steps:
            pil = to_image(pixels)
            with drawn_from(generator):
                for step in self.library_steps:
                    pil = step(pil)
            pixels = to_pixels(pil)
        if self.erase > 0 and generator.random() < self.erase:
            pixels = pixels.clone()  # the tensor may share memory with the source's image
            erase_rectangle(pixels.permute(1, 2, 0).numpy(), generator)
        return pixels  # [3, height, width]

    def _cropped(self, pixels: UInt8[Tensor, "3 height width"], generator: np.random.Generator) -> UInt8[Tensor, "3 new_height new_width"]:
        height, width = pixels.shape[1:]
        if self.crop_ratio is not None:
            left, top, right, bottom = crop_box(width, height, self.crop_scale, self.crop_ratio, generator)
            return pixels[:, top:bottom, left:right]
        if self.crop_scale == (1.0, 1.0):
            return pixels
        share = generator.uniform(*self.crop_scale) ** 0.5
        new_width, new_height = max(1, round(width * share)), max(1, round(height * share))
        left = int(generator.integers(width - new_width + 1))
        top = int(generator.integers(height - new_height + 1))
        return pixels[:, top : top + new_height, left : left + new_width]


@contextmanager
def drawn_from(generator: np.random.Generator) -> Iterator[None]:
    """Seed torch's global CPU generator from ``generator`` inside the context, and restore its state afterwards.

    ``torch.manual_seed`` would also reseed the accelerators, whose state would not be restored.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(generator.integers(2**63)))
        yield


def crop_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of a random crop in pixels, or the largest centred crop of an allowed ratio if no try fits.

    Source: Szegedy et al. 2014 (arXiv 1409.4842), section 6, as torchvision's RandomResizedCrop does it.
    """
    found = _random_rectangle(width, height, scale, ratio, generator)
    if found is not None:
        return found
    new_width = min(width, max(1, round(height * ratio[1])))
    new_height = min(height, max(1, round(width / ratio[0])))
    left, top = (width - new_width) // 2, (height - new_height) // 2
    return left, top, left + new_width, top + new_height


def erase_rectangle(values: UInt8[np.ndarray, "height width 3"], generator: np.random.Generator) -> None:
    """Fill a random rectangle with uniform noise, in place; leave a very narrow image, into which no rectangle fits, unchanged."""
    height, width = values.shape[:2]
    found = _random_rectangle(width, height, ERASED_AREA, ERASED_RATIO, generator)
    if found is not None:
        left, top, right, bottom = found
        values[top:bottom, left:right] = generator.integers(256, size=(bottom - top, right - left, 3), dtype=np.uint8)


def _random_rectangle(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], generator: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """Draw left, top, right, bottom: area uniform, ratio log-uniform, position uniform; None if no attempt fits."""
    for _ in range(ATTEMPTS):
        area = width * height * generator.uniform(*scale)
        shape = math.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1])))
        new_width, new_height = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < new_width <= width and 0 < new_height <= height:
            left = int(generator.integers(width - new_width + 1))
            top = int(generator.integers(height - new_height + 1))
            return left, top, left + new_width, top + new_height
    return None


def vision_transforms(key: str) -> Any:
    """Import and return ``torchvision.transforms.v2``; called only if a config needs it.

    Args:
        key: config key that needs it, for the message.

    Raises:
        ConfigError: torchvision is not installed.
    """
    try:
        from torchvision.transforms import v2
    except ImportError as error:
        raise ConfigError(f"{key}: needs torchvision ({error}); install it with: zoo install vision") from error
    return v2


def _rand_augment(settings: Mapping[str, int]) -> Any:
    for name, value in settings.items():
        _refuse_keyword("rand_augment", name, ("num_ops", "magnitude"))
        lowest = int(name == "num_ops")
        if not isinstance(value, int) or not lowest <= value <= HIGHEST_MAGNITUDE:  # the config's type check does not look inside mappings
            raise ConfigError(f"rand_augment.{name}: {value!r}; allowed is a whole number from {lowest} to {HIGHEST_MAGNITUDE}")
    return vision_transforms("rand_augment").RandAugment(**settings)


def _color_jitter(settings: Mapping[str, float | int]) -> Any:
    for name, value in settings.items():
        _refuse_keyword("color_jitter", name, JITTERS)
        highest = 0.5 if name == "hue" else 1.0
        if not isinstance(value, float | int) or not 0 <= value <= highest:
            raise ConfigError(f"color_jitter.{name}: {value!r}; allowed is 0 to {highest}")
    return vision_transforms("color_jitter").ColorJitter(**settings)


def _refuse_keyword(key: str, name: str, legal: Sequence[str]) -> None:
    if name not in legal:
        raise ConfigError(f"{key}.{name}: there is no such keyword; {name_choices(str(name), legal)}")
