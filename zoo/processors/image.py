"""Image processor: files, PIL images, arrays or ready tensors to ``pixels``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from zoo.errors import ConfigError, DataError, name_choices
from zoo.layers.tiling import TiledCounts, build_tiler
from zoo.processors.media.image_file import open_image, read_pixels
from zoo.processors.media.resampling import INTERPOLATIONS, MOST_ELONGATED, resample, resize_pixels, to_image, to_pixels, torch_resamples
from zoo.processors.media.tiles import Tiles, cut_tiles, equal_frames, joined_frames, one_tile
from zoo.processors.media.video_file import Frame, Video, is_video, read_video
from zoo.registry import register
from zoo.types import Batch, ModalityProcessor, Tiler
from zoo.types.processor import CLIP_MEAN, CLIP_STD

RESIZES = ("crop", "squash", "pad", "border")


@register("processor")
class ImageProcessor(ModalityProcessor):
    """Processor of images: decode, resize and crop in uint8 with antialiasing, then normalise the whole batch at once.

    PIL's filters are the reference. If an image is shrunk by a factor of 1.5 or more, torch computes them: it is three times as fast
    and differs from PIL in 0.3 % of the values, by one grey level.

    Args:
        image_size: height and width of the result in pixels.
        resize: "crop" scales the shortest side to image_size / crop_fraction and crops the centre (CLIP, timm); "squash"
            scales both sides to image_size / crop_fraction (SigLIP, transformers ViT) and crops the centre; "pad" pads to a square
            with the mean colour, and then scales (LLaVA 1.5); "border" scales the longest side, and fills the rest with the mean
            colour (timm).
        crop_fraction: timm's crop_pct; 1.0 for CLIP.
        fill: grey level, 0 to 255, of what "pad" and "border" add; None is the mean colour. open_clip's "longest" adds black.
        mean: per channel, of values in [0, 1].
        std: per channel, of values in [0, 1].
        tiler: how a picture of any size is cut into tiles of ``image_size``: a file of ``zoo/layers/tilers/`` or a plug-in, or a mapping
            with its options: ``{kind: canvas, max_tiles: 6}``. None makes one tile of it, by ``resize``. One that cuts patches (fit,
            budget) needs their size: ``{kind: budget, patch_size: 16}``; a system takes it from its encoder.

    Raises:
        ConfigError: an unknown resize, interpolation or tiler, or sizes that are not positive.
    """

    modality = "image"
    encoder_keys = ("image_size",)  # must equal the encoder's value; taken from the encoder if not given

    def __init__(
        self,
        *,
        image_size: int,
        resize: str = "crop",
        interpolation: str = "bicubic",
        crop_fraction: float = 1.0,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        fill: int | None = None,
        tiler: str | Mapping[str, Any] | None = None,
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
        if fill is not None and not 0 <= fill <= 255:
            raise ConfigError(f"fill: got {fill}; allowed is a grey level of 0 to 255, or null for the mean colour")
        self.image_size, self.resize, self.crop_fraction, self.fill = image_size, resize, crop_fraction, fill
        self.interpolation = interpolation
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        self.tiler_config = tiler if tiler is None or isinstance(tiler, str) else dict(tiler)
        self.tiler = None if tiler is None else build_tiler(tiler, tile_size=image_size)

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor keywords, as written to ``processor.json``."""
        return {
            "image_size": self.image_size,
            "resize": self.resize,
            "interpolation": self.interpolation,
            "crop_fraction": self.crop_fraction,
            "mean": list(self.mean),
            "std": list(self.std),
            **({} if self.fill is None else {"fill": self.fill}),
            **({} if self.tiler_config is None else {"tiler": self.tiler_config}),
        }

    def item(self, raw: Any) -> UInt8[Tensor, "3 height width"] | Tiles:
        """Convert one image (path, PIL image, uint8 array [H, W] or [H, W, 3]) to a uint8 tensor of the final size, or to its tiles.

        A uint8 tensor [3, image_size, image_size] is returned unchanged; one of any size is cut if there is a tiler. A frame of a video is
        squashed, and is one tile.

        Raises:
            DataError: the input is not a readable image, or a tensor of another type or shape.
        """
        if isinstance(raw, Frame | Video):
            return self._frames(raw)
        if self.tiler is not None:
            return self._cut(raw, self.tiler)
        if isinstance(raw, Tensor):
            expected = [3, self.image_size, self.image_size]
            if raw.dtype != torch.uint8 or list(raw.shape) != expected:
                raise DataError(f"an image is {raw.dtype} of shape {list(raw.shape)}; a ready one is torch.uint8 {expected}")
            return raw
        return self.at_size(as_pixels(raw))

    def items(self, raws: Sequence[Any], total: int | None = None) -> list[Any]:
        """Convert images of one conversation; ``tiler.together`` says if several of them are cut."""
        number = sum(not isinstance(raw, Frame | Video) for raw in raws) if total is None else total
        if self.tiler is None or not self.tiler.together or number < 2:
            return super().items(raws)
        return [self.item(raw) if isinstance(raw, Frame | Video | Tiles) else self._whole(raw) for raw in raws]

    def kept(self, raw: Any) -> Any:
        raw = read_video(raw) if is_video(raw) and not isinstance(raw, Video) else raw
        if isinstance(raw, Video) or (self.tiler is not None and self.tiler.together):
            return raw if isinstance(raw, Frame | Video | Tensor | Tiles) else as_pixels(raw)
        return self.item(raw)

    def _cut(self, raw: Any, tiler: Tiler) -> Tiles:
        """Cut one image, of any kind that ``item`` takes, into its tiles."""
        if isinstance(raw, Tiles):
            return raw
        pixels = _of_any_size(raw)
        height, width = pixels.shape[1:]
        plan = tiler.plan(height, width)
        return Tiles(cut_tiles(pixels, plan, self.interpolation), torch.tensor([height, width]), torch.tensor(plan.grid))

    def _whole(self, raw: Any) -> Tiles:
        """Make one tile of a picture, by ``resize``."""
        return one_tile(self.at_size(_of_any_size(raw)))

    def _frames(self, raw: Frame | Video) -> UInt8[Tensor, "3 height width"] | Tiles:
        """Squash a frame, or all frames of a video; a frame that is cut into patches keeps its shape.

        Raises:
            DataError: a video is given, whose frames this system takes as pictures.
        """
        side = self.image_size
        if isinstance(raw, Frame) and self.tiler is not None and self.tiler.cuts == "patches":
            return self._cut(raw.pixels, self.tiler)
        if isinstance(raw, Video) and self.tiler is not None and self.tiler.takes_videos:
            return self._cut_video(raw, self.tiler)
        if isinstance(raw, Frame):
            pixels = resample(raw.pixels, side, side, self.interpolation)
            return pixels if self.tiler is None else one_tile(pixels)
        if self.tiler is None or not self.tiler.takes_frames:
            raise DataError(f"a video of {len(raw.frames)} frames is given, but this model takes pictures; give its frames: *video.frames")
        pixels = torch.stack([resample(frame.pixels, side, side, self.interpolation) for frame in raw.frames])
        return Tiles(pixels, torch.tensor([0, len(raw.frames)]), torch.tensor([1, len(raw.frames)]))

    def _cut_video(self, raw: Video, tiler: Tiler) -> Tiles:
        """Cut all frames of a video alike, and join those that one patch holds."""
        parts = raw.parts(tiler.frames)
        height, width = raw.frames[0].pixels.shape[1:]
        plan = tiler.plan_frames(raw.shown or len(raw.frames), height, width)
        pictures = [joined_frames([cut_tiles(frame.pixels, plan, self.interpolation) for frame in part.frames]) for part in parts]
        steps = tiler.steps_of(len(parts), raw.interval)
        return Tiles(torch.cat(pictures), torch.tensor([height, width]), torch.tensor(plan.grid), tuple(steps))

    def collate(
        self, items: Sequence[UInt8[Tensor, "3 height width"]] | Sequence[Tiles]
    ) -> tuple[Float[Tensor, "batch 3 height width"], None] | Batch:
        """Stack uint8 images and normalise them in one pass.

        Of tiles, return a batch that also holds the sizes of the pictures, and the grids if a tile is a patch. A video has a grid for each
        of its pictures.
        """
        if self.tiler is None:
            return self._normalised(torch.stack(list(items))), None  # type: ignore[arg-type]
        tiles: Any = list(items)
        pixels = self._normalised(torch.cat(equal_frames([item.pixels for item in tiles])))
        sizes, grids = torch.stack([item.size for item in tiles]), torch.stack([item.grid for item in tiles for _ in item.steps])
        steps = torch.tensor([step for item in tiles for step in item.steps])
        if self.tiler.cuts == "tiles":
            return Batch({"image": pixels}, sizes={"image": sizes})
        later = {"image": steps} if len(steps) > len(tiles) else {}
        return Batch(
            {"image": pixels.flatten(1)}, sizes={"image": sizes}, grids={"image": grids}, steps=later
        )  # [total, 3 * patch * patch]

    def _normalised(self, pixels: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) * 255 for values in (self.mean, self.std))
        return pixels.to(torch.float32).sub_(mean).div_(std)

    def counted(self, count: Any) -> Any:
        """Return what counts the tokens of an image: with a tiler, by its plan."""
        if self.tiler is None:
            return count
        return TiledCounts(self.tiler, count.fixed, count.merge)

    def __call__(self, raw: Any) -> tuple[Float[Tensor, "batch 3 height width"], None] | Batch:
        """Process a list of raw images; return a ready float tensor [B, 3, H, W], or a batch, unchanged.

        Raises:
            DataError: an image cannot be used, or a ready tensor is given although there is a tiler, which needs the pictures' sizes.
        """
        if isinstance(raw, Batch):
            return raw
        if isinstance(raw, Tensor):
            if self.tiler is not None:
                raise DataError(f"pixels of shape {list(raw.shape)} hold no sizes of pictures, which the tiler reads; give images")
            if raw.ndim != 4 or raw.shape[1] != 3 or not raw.is_floating_point():
                raise DataError(f"pixels are {raw.dtype} of shape {list(raw.shape)}; allowed is a float tensor [batch, 3, H, W]")
            return raw, None
        items: list[Any] = [self.item(image) for image in raw]
        found = self.collate(items)
        if isinstance(found, Batch) and found.steps:
            raise DataError("a video of several pictures is given, but only conversations hold videos; give pictures, or single frames")
        return found

    def meta(self, batch_size: int) -> tuple[Tensor, None] | Batch:
        """Return an empty batch on the meta device, for checks of shapes; with a tiler, of pictures of ``image_size``.

        Only the grids of patches have values and are on the CPU, because lists of patches cannot be taken apart without them.
        """
        if self.tiler is None:
            return torch.empty(batch_size, 3, self.image_size, self.image_size, device="meta"), None
        plan = self.tiler.plan(self.image_size, self.image_size)
        pixels = torch.empty(batch_size * plan.num_tiles, 3, *plan.tile, device="meta")
        sizes = {"image": torch.empty(batch_size, 2, dtype=torch.int64, device="meta")}
        if self.tiler.cuts == "tiles":
            return Batch({"image": pixels}, sizes=sizes)
        return Batch(
            {"image": pixels.flatten(1)}, sizes=sizes, grids={"image": torch.tensor(plan.grid, device="cpu").expand(batch_size, 2)}
        )

    def at_size(self, pixels: UInt8[Tensor, "3 height width"]) -> UInt8[Tensor, "3 size size"]:
        """Resize and crop an RGB image to ``image_size`` x ``image_size``; return it unchanged if it has this size already."""
        size, (height, width) = self.image_size, pixels.shape[1:]
        if (width, height) == (size, size) and self.crop_fraction == 1:
            return pixels
        new_width, new_height, left, top = self._placed(width, height)
        shrinking, elongated = min(width / new_width, height / new_height), max(width, height) / min(width, height)
        if not torch_resamples(shrinking, elongated, self.interpolation):
            return to_pixels(self.resized(to_image(pixels)))
        if self.resize == "pad":
            return self._squared(pixels)
        whole = resize_pixels(pixels, new_height, new_width, self.interpolation)
        if self.resize == "border":
            canvas = self._canvas(size)
            canvas[:, -top : new_height - top, -left : new_width - left] = whole
            return canvas
        return whole[:, top : top + size, left : left + size]

    def resized(self, image: Image.Image) -> Image.Image:
        """Resize and crop with PIL only: the reference for ``at_size``, also used for images that are enlarged or hardly shrunk."""
        size, filter_ = self.image_size, INTERPOLATIONS[self.interpolation]
        if image.size == (size, size) and self.crop_fraction == 1:
            return image
        new_width, new_height, left, top = self._placed(*image.size)
        if self.resize == "pad":
            return self._padded(image).resize((size, size), filter_)
        if self.resize == "border":
            canvas = Image.new("RGB", (size, size), self._fill)
            canvas.paste(image.resize((new_width, new_height), filter_), (-left, -top))
            return canvas
        # Resampling a box equals resizing everything and cropping, but an image 20,000 pixels wide costs no more than a square
        # one. The two sides have slightly different scales, because the length of the long side is truncated to whole pixels.
        across, down = image.width / new_width, image.height / new_height  # source pixels per target pixel
        box = (left * across, top * down, (left + size) * across, (top + size) * down)
        return image.resize((size, size), filter_, box=box)

    def _padded(self, image: Image.Image) -> Image.Image:
        """Return the image centred on a square of the mean colour.

        The long side of a very elongated image is resized first, because a square of its length might take gigabytes.
        """
        width = height = max(image.size)
        if max(image.size) > MOST_ELONGATED * min(image.size):
            width, height = (self.image_size, height) if image.width > image.height else (width, self.image_size)
            kept = (width, image.height) if image.width > image.height else (image.width, height)
            image = image.resize(kept, INTERPOLATIONS[self.interpolation])
        canvas = Image.new("RGB", (width, height), self._fill)
        canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
        return canvas

    def _squared(self, pixels: UInt8[Tensor, "3 height width"]) -> UInt8[Tensor, "3 size size"]:
        """Centre the image on a square of the mean colour and resize it to ``image_size``."""
        (height, width), longest = pixels.shape[1:], max(pixels.shape[1:])
        canvas = self._canvas(longest)
        top, left = (longest - height) // 2, (longest - width) // 2
        canvas[:, top : top + height, left : left + width] = pixels
        return resize_pixels(canvas, self.image_size, self.image_size, self.interpolation)

    def _canvas(self, side: int) -> UInt8[Tensor, "3 side side"]:
        """Return a square of the mean colour in channels-last memory order, which torch resizes faster."""
        return torch.tensor(self._fill, dtype=torch.uint8).expand(side, side, 3).contiguous().permute(2, 0, 1)

    @property
    def _fill(self) -> tuple[int, int, int]:
        red, green, blue = (int(255 * value) for value in self.mean) if self.fill is None else (self.fill,) * 3
        return red, green, blue

    def _placed(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return width and height to resize the whole image to, and left and top of the crop in it (negative: a border).

        With image_size 224, an image of 640 x 480 is resized to 298 x 224 (truncated, as in torchvision) and cropped at (37, 0).
        """
        size = self.image_size
        if self.resize in ("pad", "border"):
            scale = size / max(width, height)
            new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
            return new_width, new_height, -((size - new_width) // 2), -((size - new_height) // 2)
        scaled, short = int(size / self.crop_fraction), min(width, height)
        squash = self.resize == "squash"
        new_width, new_height = (scaled, scaled) if squash else (int(scaled * width / short), int(scaled * height / short))
        return new_width, new_height, round((new_width - size) / 2), round((new_height - size) / 2)


def _of_any_size(raw: Any) -> UInt8[Tensor, "3 height width"]:
    """Convert a raw image, or check a tensor of one."""
    if not isinstance(raw, Tensor):
        return as_pixels(raw)
    if raw.dtype != torch.uint8 or raw.ndim != 3 or raw.shape[0] != 3 or not raw.numel():
        raise DataError(f"an image is {raw.dtype} of shape {list(raw.shape)}; a tensor to be cut is torch.uint8 [3, height, width]")
    return raw


def as_pixels(raw: Any) -> UInt8[Tensor, "3 height width"]:
    """Convert a raw image of any allowed kind to RGB values; the result may share memory with an array.

    Raises:
        DataError: the input is not an image, or cannot be read.
    """
    if isinstance(raw, np.ndarray) and raw.dtype == np.uint8 and (raw.ndim == 2 or (raw.ndim == 3 and raw.shape[2] == 3)) and raw.size:
        colours = raw if raw.ndim == 3 else np.repeat(raw[..., None], 3, axis=2)
        return torch.from_numpy(np.require(colours, requirements=["C", "W"])).permute(2, 0, 1)  # [3, H, W]
    if isinstance(raw, str | Path | bytes):
        return torch.from_numpy(read_pixels(raw)).permute(2, 0, 1)  # [3, H, W]
    if isinstance(raw, Image.Image):
        return to_pixels(open_image(raw))
    kind = f"array {raw.dtype} {list(raw.shape)}" if isinstance(raw, np.ndarray) else type(raw).__name__
    raise DataError(f"an image cannot be made from {kind}; give a path, a PIL image, or a uint8 array [H, W] or [H, W, 3]")
