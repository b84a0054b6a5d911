"""What SigLIP 2 NaFlex (``Siglip2Model``) has of its own beside SigLIP: patch vectors, sizes and the cutting of pictures.

Paper: Tschannen et al. 2025, "SigLIP 2" (arXiv 2502.14786), section 2.4. References: transformers 5.17, ``modeling_siglip2.py`` and
``image_processing_siglip2.py``. Its patch vectors are ordered row, column, channel; ours as the weight of a convolution.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from zoo.errors import ConfigError
from zoo.interop.base.image_preprocessing import shared_settings
from zoo.interop.base.rules import Rule

if TYPE_CHECKING:
    from zoo.processors.image import ImageProcessor

KIND = "siglip2"
WEIGHT = "embeddings.patch_embedding.weight"
DEFAULT_TILER = {"kind": "budget", "max_patches": 256}


def convolution_of(weight: Tensor) -> Tensor:
    """Convert the weight of a linear layer over patches, ordered row, column, channel, to that of a convolution."""
    side = math.isqrt(weight.shape[1] // 3)
    return weight.unflatten(1, (side, side, 3)).permute(0, 3, 1, 2).contiguous()


def linear_of(weight: Tensor) -> Tensor:
    """Undo ``convolution_of``."""
    return weight.permute(0, 2, 3, 1).flatten(1).contiguous()


PATCHES = Rule((WEIGHT,), ("patch.project.weight",), lambda t: [convolution_of(t[0])], lambda t: [linear_of(t[0])])


def is_naflex(tensors: Mapping[str, Tensor]) -> bool:
    """Return True if the patches of an image tower are projected by a linear layer."""
    return any(name.endswith(WEIGHT) and tensor.ndim == 2 for name, tensor in tensors.items())


def with_image_size(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ``vision_config`` with the image size at which its positions need no resizing.

    Raises:
        ConfigError: the positions form no square.
    """
    side = math.isqrt(config["num_patches"])
    if side**2 != config["num_patches"]:
        raise ConfigError(f"num_patches: got {config['num_patches']}; allowed is a square number, such as 256")
    return {**config, "image_size": side * config["patch_size"]}


def their_patches(vision: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ``vision_config`` with the number of positions in place of the image size."""
    words = {key: value for key, value in vision.items() if key != "image_size"}
    return {**words, "num_patches": (vision["image_size"] // vision["patch_size"]) ** 2}


def preprocessor(processor: "ImageProcessor") -> dict[str, Any]:
    """Return the ``preprocessor_config.json`` of a ``Siglip2ImageProcessor``.

    Raises:
        ConfigError: pictures are not cut by the tiler budget.
    """
    tiler: Any = processor.tiler
    if tiler is None or set(vars(tiler)) != {"patch_size", "max_patches"}:
        raise ConfigError(
            "processor.image.tiler: transformers' Siglip2ImageProcessor cuts pictures into patches by a budget; allowed is "
            f"{DEFAULT_TILER}, got {processor.tiler_config}"
        )
    sizes = {"patch_size": tiler.patch_size, "max_num_patches": tiler.max_patches}
    return {**shared_settings(processor), **sizes, "image_processor_type": "Siglip2ImageProcessor"}
