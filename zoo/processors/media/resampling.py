"""Resampling of uint8 images: PIL's filters are the reference, and torch computes those that it can, three times as fast."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
TORCH_FILTERS = ("bilinear", "bicubic")  # filters that torch supports for uint8 with antialiasing
LEAST_SHRINKING = 1.5  # from here on torch is within one grey level of PIL; below it, two values in a million are two levels off
MOST_ELONGATED = 3.0  # above this aspect ratio PIL is faster, because it resamples only the part that is kept


def torch_resamples(shrinking: float, elongated: float, interpolation: str) -> bool:
    """Return True if torch computes a resampling: near PIL's result, and faster.

    Args:
        shrinking: old side over new side; of the two sides, the smaller ratio.
        elongated: longer over shorter side of the image.
        interpolation: one of ``INTERPOLATIONS``.
    """
    return interpolation in TORCH_FILTERS and shrinking >= LEAST_SHRINKING and elongated <= MOST_ELONGATED


def resample(pixels: UInt8[Tensor, "3 height width"], height: int, width: int, interpolation: str) -> UInt8[Tensor, "3 new_h new_w"]:
    """Resize a whole image with antialiasing, by torch where ``torch_resamples``, else by PIL."""
    (old_height, old_width), size = pixels.shape[1:], (height, width)
    if (old_height, old_width) == size:
        return pixels
    shrinking, elongated = min(old_width / width, old_height / height), max(old_width, old_height) / min(old_width, old_height)
    if torch_resamples(shrinking, elongated, interpolation):
        return resize_pixels(pixels, height, width, interpolation)
    return to_pixels(to_image(pixels).resize((width, height), INTERPOLATIONS[interpolation]))


def resize_pixels(pixels: UInt8[Tensor, "3 height width"], height: int, width: int, interpolation: str) -> UInt8[Tensor, "3 new_h new_w"]:
    """Resize with antialiasing; 0.3 % of the values differ from PIL's by one grey level (rarely by two if the image hardly shrinks).

    This is fast if the memory order is channels-last, as in a view of an array [H, W, 3].
    """
    if interpolation not in TORCH_FILTERS:
        return to_pixels(to_image(pixels).resize((width, height), INTERPOLATIONS[interpolation]))
    batch = pixels.permute(1, 2, 0).unsqueeze(0).permute(0, 3, 1, 2)  # [1, 3, H, W] that torch sees as channels-last
    return F.interpolate(batch, size=(height, width), mode=interpolation, antialias=True)[0]


def to_image(pixels: UInt8[Tensor, "3 height width"]) -> Image.Image:
    """Convert pixels to a PIL image; the values are copied."""
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))


def to_pixels(image: Image.Image) -> UInt8[Tensor, "3 height width"]:
    """Convert a PIL image in mode RGB to pixels; the values are copied."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)  # [3, H, W]
