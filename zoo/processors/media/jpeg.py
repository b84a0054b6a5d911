"""Plain JPEG files through the decoder of torchvision, which gives Pillow's values without Pillow's copies.

Both call libjpeg-turbo with the same settings (slow integer DCT, smooth upsampling of colour), so the values are equal; tests hold
this. Pillow still reads the header, so that what is no plain JPEG goes Pillow's own way, and so does what the decoder refuses. Of data
that is damaged and decodes all the same, what lies behind the damage is noise, and may be another noise than Pillow's.
"""

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

START = b"\xff\xd8\xff"
_RGB = 3  # torchvision.io.ImageReadMode.RGB


@functools.cache
def _decoder() -> Callable[[Tensor, int, bool], Tensor] | None:
    """Torchvision's operator; None where it is not installed. Its library loads in 4 ms, all of torchvision in 1.4 s."""
    spec = importlib.util.find_spec("torchvision")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for path in sorted(Path(folder).glob("image.*")):
            try:
                torch.ops.load_library(str(path))
                return torch.ops.image.decode_jpeg
            except (OSError, AttributeError):  # built for another torch, or without JPEG
                continue
    return None


def decode_plain(data: bytes, height: int, width: int) -> UInt8[np.ndarray, "{height} {width} 3"] | None:
    """Pixels of a whole grey or RGB JPEG of a known size; None where torchvision is missing or refuses the data.

    Of data that is damaged and decodes all the same, libjpeg writes a line to standard error.
    """
    decoder = _decoder()
    if decoder is None:
        return None
    try:
        pixels = decoder(torch.frombuffer(bytearray(data), dtype=torch.uint8), _RGB, False)
    except RuntimeError:
        return None
    return pixels.permute(1, 2, 0).numpy() if tuple(pixels.shape) == (3, height, width) else None  # [height, width, 3]
