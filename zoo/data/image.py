"""Images: file, PIL image, array or ready tensor to ``pixels``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from zoo.data.image_file import open_image
from zoo.errors import ConfigError, DataError, name_choices
from zoo.registry import register

RESIZES = ("crop", "squash", "pad")
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # openai/CLIP clip.py, _transform
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@register("processor")
class ImageProcessor:
    """Decode, resize and crop with PIL (antialiased) on uint8, then normalise the whole batch at once.

    Args:
        image_size: height and width of the result in pixels.
        resize: "crop" scales the shortest side to image_size / crop_fraction and cuts the centre (CLIP, timm); "squash"
            scales both sides to that (SigLIP, transformers ViT) and cuts the centre; "pad" fits the longest side and fills
            with the mean (LLaVA 1.5).
        crop_fraction: timm's crop_pct; 1.0 for CLIP.
        mean: per channel, of values in [0, 1].
        std: per channel, of values in [0, 1].

    Raises:
        ConfigError: an unknown resize or interpolation, or sizes that are not positive.
    """

    encoder_keys = ("image_size",)  # what an encoder and its processor must agree on; taken from the encoder if not given

    def __init__(
        self,
        *,
        image_size: int,
        resize: str = "crop",
        interpolation: str = "bicubic",
        crop_fraction: float = 1.0,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
    ) -> None:
        if resize not in RESIZES:
            raise ConfigError(f"resize: there is no {resize!r}; {name_choices(resize, RESIZES)}")
        if interpolation not in INTERPOLATIONS:
            raise ConfigError(f"interpolation: there is no {interpolation!r}; {name_choices(interpolation, INTERPOLATIONS)}")
        if image_size < 1 or not 0 < crop_fraction <= 1 or len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ConfigError(
                f"image processor: image_size {image_size}, crop_fraction {crop_fraction}, mean {list(mean)}, std {list(std)}; "
                "allowed are a positive size, a fraction in (0, 1], and three values each, std above 0"
            )
        self.image_size, self.resize, self.crop_fraction = image_size, resize, crop_fraction
        self.interpolation = interpolation
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's keywords, for ``processor.json``."""
        return {
            "image_size": self.image_size,
            "resize": self.resize,
            "interpolation": self.interpolation,
            "crop_fraction": self.crop_fraction,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def item(self, raw: Any) -> UInt8[Tensor, "3 height width"]:
        """One image (path, PIL image, uint8 array [H, W] or [H, W, 3]) as a uint8 tensor of the final size; such a tensor passes."""
        if isinstance(raw, Tensor):
            expected = [3, self.image_size, self.image_size]
            if raw.dtype != torch.uint8 or list(raw.shape) != expected:
                raise DataError(f"an image is {raw.dtype} of shape {list(raw.shape)}; a ready one is torch.uint8 {expected}")
            return raw
        image = self.resized(as_image(raw))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)  # [3, H, W]

    def collate(self, items: Sequence[UInt8[Tensor, "3 height width"]]) -> tuple[Float[Tensor, "batch 3 height width"], None]:
        """Stack uint8 images and normalise them in one pass."""
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) * 255 for values in (self.mean, self.std))
        return torch.stack(list(items)).to(torch.float32).sub_(mean).div_(std), None

    def __call__(self, raw: Any) -> tuple[Float[Tensor, "batch 3 height width"], None]:
        """A list of raw images, or a ready float tensor [B, 3, H, W], which passes unchanged."""
        if isinstance(raw, Tensor):
            if raw.ndim != 4 or raw.shape[1] != 3 or not raw.is_floating_point():
                raise DataError(f"pixels are {raw.dtype} of shape {list(raw.shape)}; allowed is a float tensor [batch, 3, H, W]")
            return raw, None
        return self.collate([self.item(image) for image in raw])

    def meta(self, batch_size: int) -> tuple[Tensor, None]:
        """A batch without data, for the check on the meta device."""
        return torch.empty(batch_size, 3, self.image_size, self.image_size, device="meta"), None

    def resized(self, image: Image.Image) -> Image.Image:
        """Bring an RGB image to ``image_size`` x ``image_size``."""
        size, filter_ = self.image_size, INTERPOLATIONS[self.interpolation]
        width, height = image.size
        if (width, height) == (size, size) and self.crop_fraction == 1:
            return image
        if self.resize == "squash":
            return self._squash_and_crop(image)
        if self.resize == "pad":
            scale = size / max(width, height)
            fitted = image.resize((max(1, round(width * scale)), max(1, round(height * scale))), filter_)
            canvas = Image.new("RGB", (size, size), tuple(int(255 * value) for value in self.mean))
            canvas.paste(fitted, ((size - fitted.width) // 2, (size - fitted.height) // 2))
            return canvas
        return self._scale_and_crop(image)

    def _squash_and_crop(self, image: Image.Image) -> Image.Image:
        """Both sides to the scale size, centre cut, as one resampling of the part that survives."""
        size, scaled = self.image_size, int(self.image_size / self.crop_fraction)
        margin = round((scaled - size) / 2)  # as torchvision rounds
        across, down = image.width / scaled, image.height / scaled  # source pixels per target pixel
        box = (margin * across, margin * down, (margin + size) * across, (margin + size) * down)
        return image.resize((size, size), INTERPOLATIONS[self.interpolation], box=box)

    def _scale_and_crop(self, image: Image.Image) -> Image.Image:
        """Shortest side to the scale size, centre cut; only the part that survives is resampled.

        Resampling a box equals resizing everything and cropping, but a picture 20,000 pixels wide costs no more than a
        square one. The other side is truncated to whole pixels and the offset rounded as torchvision does.
        """
        size = self.image_size
        short = int(size / self.crop_fraction)
        width, height = image.size
        scale = min(width, height) / short  # source pixels per target pixel
        new_width, new_height = int(short * width / min(width, height)), int(short * height / min(width, height))
        left, top = round((new_width - size) / 2), round((new_height - size) / 2)
        across, down = width / new_width, height / new_height  # the long side's scale differs a little: its length is truncated
        assert scale > 0
        box = (left * across, top * down, (left + size) * across, (top + size) * down)
        return image.resize((size, size), INTERPOLATIONS[self.interpolation], box=box)


def as_image(raw: Any) -> Image.Image:
    """Raw image of any allowed kind to an RGB PIL image.

    Raises:
        DataError: not an image, or not readable.
    """
    if isinstance(raw, str | Path | Image.Image):
        return open_image(raw)
    if isinstance(raw, np.ndarray) and raw.dtype == np.uint8 and (raw.ndim == 2 or (raw.ndim == 3 and raw.shape[2] == 3)):
        return Image.fromarray(raw).convert("RGB")
    kind = f"array {raw.dtype} {list(raw.shape)}" if isinstance(raw, np.ndarray) else type(raw).__name__
    raise DataError(f"an image cannot be made from {kind}; give a path, a PIL image, or a uint8 array [H, W] or [H, W, 3]")
