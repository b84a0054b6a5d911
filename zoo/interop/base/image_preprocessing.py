"""Image preprocessing of other libraries as settings of ``zoo.processors.image``, and back."""

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zoo.errors import ConfigError, name_choices
from zoo.interop.base.schemas import checked_image_settings
from zoo.storage.hub import find_file, read_json_object

if TYPE_CHECKING:  # it imports torch, which the rows of hosted models do not need
    from zoo.processors.image import ImageProcessor

RESAMPLINGS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # PIL's numbers
# Image processors of transformers that only resize, crop the centre, rescale and normalise. The value tells if a plain number as
# ``size`` (files of older releases) means both sides or the shortest one.
SQUARE, SHORTEST = "both sides", "shortest side"
PROCESSORS = {
    **dict.fromkeys(("Beit", "Blip", "DINOv3ViT", "DeiT", "Pvt", "Segformer", "ViT"), SQUARE),
    **dict.fromkeys(
        ("Bit", "CLIP", "ChineseCLIP", "ConvNext", "Levit", "Llava", "MobileNetV1", "MobileNetV2", "PoolFormer", "Siglip"), SHORTEST
    ),
}


def read_preprocessing(source: str) -> tuple[int, dict[str, Any]] | None:
    """Return image size and preprocessing of a source; None if it does not describe them."""
    found = read_image_settings(source)
    return None if found is None else image_keywords(*found)


def read_image_settings(source: str) -> tuple[dict[str, Any], str] | None:
    """Return the settings of the image processor of a source, and the path of their file; None if there are none."""
    path = find_file(source, "preprocessor_config.json")
    settings = read_json_object(path) if path else None
    if settings is None:  # a whole processor (CLIP: of images and text) is one file
        path = find_file(source, "processor_config.json")
        settings = read_json_object(path).get("image_processor") if path else None
    return None if settings is None else (settings, str(path))


def read_video_settings(source: str) -> tuple[dict[str, Any], str] | None:
    """Return the settings of the video processor of a source, and the path of their file; None if there are none.

    A source without settings for videos has those of its pictures, as in transformers.
    """
    path = find_file(source, "video_preprocessor_config.json")
    settings = read_json_object(path) if path else None
    if settings is None:
        path = find_file(source, "processor_config.json")
        settings = read_json_object(path).get("video_processor") if path else None
    return read_image_settings(source) if settings is None else (settings, str(path))


def image_keywords(settings: Mapping[str, Any], origin: str = "preprocessor_config.json") -> tuple[int, dict[str, Any]]:
    """Convert the settings of transformers' image processor to an image size and keywords of ``zoo.processors.image.ImageProcessor``.

    Images are always converted to RGB; ``do_reduce_labels`` concerns targets. If an odd number of pixels is cut off, theirs cuts the
    larger half on the far side; ours rounds as torchvision.

    Args:
        settings: the parsed ``preprocessor_config.json``.
        origin: for messages.

    Raises:
        ConfigError: our processor cannot do something, or the file lacks a setting.
    """
    checked_image_settings(settings, origin)
    kind, full = kind_of(settings)
    if kind not in PROCESSORS:
        raise ConfigError(
            f"{origin}: image_processor_type {full!r} cannot be done by zoo's image processor; "
            f"{name_choices(kind, PROCESSORS, most=20)} (with ImageProcessor behind it). Leave the file out, and set the preprocessing "
            "yourself"
        )
    pads = kind == "Llava" and bool(settings.get("do_pad"))
    for key, wanted in (("do_resize", True), ("do_pad", pads), ("do_flip_channel_order", False)):
        if bool(settings.get(key, wanted)) != wanted and settings.get(key) is not None:
            raise ConfigError(f"{origin}: {key}: {settings[key]} cannot be done by zoo's image processor; allowed is {str(wanted).lower()}")
    mode, size, scaled = _sizes(kind, settings, origin)
    mode = "pad" if pads else mode
    keywords = {"resize": mode, "interpolation": interpolation_of(settings, origin), "crop_fraction": _fraction(size, scaled)}
    return size, keywords | normalisation_of(settings, origin)


def patch_keywords(settings: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Convert the settings of ``Siglip2ImageProcessor``, which cuts pictures into patches, to keywords of our image processor.

    Raises:
        ConfigError: a setting cannot be done by our processor.
    """
    checked_image_settings(settings, origin)
    budget = settings.get("max_num_patches", 256)
    sizes = {"max_patches": budget} if settings.get("patch_size") is None else {"patch_size": settings["patch_size"], "max_patches": budget}
    if not all(isinstance(size, int) and size > 0 for size in sizes.values()) or settings.get("do_resize") is False:
        raise ConfigError(f"{origin}: patch_size, max_num_patches, do_resize: got {sizes}; allowed are positive whole numbers and true")
    return {"tiler": {"kind": "budget", **sizes}, "interpolation": interpolation_of(settings, origin), **normalisation_of(settings, origin)}


def kind_of(settings: Mapping[str, Any]) -> tuple[str, str]:
    """Return the family of an image processor ("CLIP"), and its class as the settings name it ("CLIPImageProcessorFast")."""
    full = str(settings.get("image_processor_type") or settings.get("feature_extractor_type"))
    return re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", full), full


def interpolation_of(settings: Mapping[str, Any], origin: str) -> str:
    """Return our name of the filter; raise ConfigError if there is none."""
    if settings.get("resample") not in RESAMPLINGS:
        raise ConfigError(f"{origin}: resample: got {settings.get('resample')!r}; allowed are {RESAMPLINGS} (PIL's numbers)")
    return RESAMPLINGS[settings["resample"]]


def _sizes(kind: str, settings: Mapping[str, Any], origin: str) -> tuple[str, int, int]:
    """Return the way of resizing, the size of the result, and the size before the centre is cut."""
    shape, side = _side(settings.get("size"), PROCESSORS[kind], f"{origin}: size")
    shape = SQUARE if settings.get("use_square_size") else shape  # Kosmos-2's files
    crop = _side(settings.get("crop_size"), SQUARE, f"{origin}: crop_size")[1] if settings.get("do_center_crop") else None
    if kind == "ConvNext":  # warps from 384 pixels on, and cuts its centre itself below
        return ("crop", side, int(side / settings.get("crop_pct", 224 / 256))) if side < 384 else ("squash", side, side)
    if kind == "PoolFormer" and settings.get("crop_pct") is not None:
        side = int(side / settings["crop_pct"])
    if kind == "Levit":
        side = int(256 / 224 * side)
    if crop is None and shape == SHORTEST:
        raise ConfigError(f"{origin}: do_center_crop: false leaves images that are not square; allowed is true with size.shortest_edge")
    if crop is not None and crop > side:
        raise ConfigError(f"{origin}: crop_size {crop} is larger than size {side}; zoo's image processor does not pad with zeros")
    return "crop" if shape == SHORTEST else "squash", side if crop is None else crop, side


def _side(size: Any, plain: str, key: str) -> tuple[str, int]:
    """Return the side that a size measures, and the number of pixels."""
    if isinstance(size, int):
        return plain, size
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        return SHORTEST, size["shortest_edge"]
    pair = [size.get("height"), size.get("width")] if isinstance(size, Mapping) else size
    if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], int) and pair[0] == pair[1]:
        return SQUARE, pair[0]
    raise ConfigError(f"{key}: got {size!r}; allowed are a number, equal height and width, or shortest_edge")


def _fraction(size: int, scaled: int) -> float:
    """Return the ``crop_fraction`` from which ``ImageProcessor`` computes the scaled size again: ``int(size / fraction)``."""
    fraction = size / scaled
    return fraction if int(size / fraction) == scaled else math.nextafter(fraction, 0.0)


def normalisation_of(settings: Mapping[str, Any], origin: str) -> dict[str, list[float]]:
    """Return mean and std of values in [0, 1]; a ``rescale_factor`` other than 1/255 is multiplied into them."""
    normalises = settings.get("do_normalize", True)
    mean, std = (settings.get("image_mean"), settings.get("image_std")) if normalises else ([0.0] * 3, [1.0] * 3)
    for key, values in (("image_mean", mean), ("image_std", std)):
        if not isinstance(values, list | tuple) or len(values) != 3 or not all(isinstance(value, int | float) for value in values):
            raise ConfigError(f"{origin}: {key}: got {values!r}; allowed are three numbers")
    factor = 255 * (settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0)
    factor = 1.0 if math.isclose(factor, 1.0) else factor
    return {"mean": [float(value) / factor for value in mean or ()], "std": [float(value) / factor for value in std or ()]}


def preprocessor(processor: "ImageProcessor") -> dict[str, Any]:
    """Return ``preprocessor_config.json`` for CLIP's processor (the centre is cut), LLaVA's (images are padded) or ViT's (all others).

    Raises:
        ConfigError: the centre is cut of images that are squashed or padded, which no processor does.
    """
    if processor.tiler is not None and processor.tiler.cuts == "patches":
        raise ConfigError(
            f"processor.image.tiler: {processor.tiler_config} cuts pictures into patches, which the image processor of this model does "
            "not; allowed is null"
        )
    size, shared = processor.image_size, shared_settings(processor)
    if processor.resize == "squash" and processor.crop_fraction == 1:
        return {**shared, "image_processor_type": "ViTImageProcessor", "size": {"height": size, "width": size}}
    if processor.resize == "pad" and processor.crop_fraction == 1:
        square = {"height": size, "width": size}
        cut = {"size": {"shortest_edge": size}, "crop_size": square, "do_center_crop": True}
        return {**shared, **cut, "image_processor_type": "LlavaImageProcessor", "do_pad": True}
    if processor.resize != "crop":
        raise ConfigError(
            f"format: 'transformers' has no processor that resizes by {processor.resize!r} and cuts {processor.crop_fraction}"
        )
    scaled, square = {"shortest_edge": int(size / processor.crop_fraction)}, {"height": size, "width": size}
    return {**shared, "image_processor_type": "CLIPImageProcessor", "size": scaled, "crop_size": square, "do_center_crop": True}


def shared_settings(processor: "ImageProcessor") -> dict[str, Any]:
    """Return filter and normalisation, which every image processor of transformers has under the same keys."""
    return {
        "resample": next(number for number, name in RESAMPLINGS.items() if name == processor.interpolation),
        **{"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255},
        **{"image_mean": list(processor.mean), "image_std": list(processor.std)},
    }
